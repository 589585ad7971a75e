"""Where models run: the names of devices, checked before anything is loaded onto them."""

from __future__ import annotations

from glasshouse.schema.errors import ModelError


def torch_device(device: str) -> str:
    """Check that a device can be used and return its name.

    Raises:
        ModelError: CUDA was asked for and there is none, or the name is neither `cpu` nor `cuda`.
    """
    import torch  # late: it takes a second to import

    if device not in ("cpu", "cuda"):
        raise ModelError(f"A model runs on the device 'cpu' or 'cuda', not on '{device}'.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("There is no CUDA device that torch can use here. Use --device cpu.")
    return device
