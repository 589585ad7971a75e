"""State dicts in files: read without running anything that lies in them, and put into a model whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins.hub import one_line
from glasshouse.plugins.saes.inert_pickle import load_tensors
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the weights beside the optimiser's state."""

COUNTER = "num_batches_tracked"
"""Of training alone; files from before 2018 have none."""

PARALLEL = "module."
"""DataParallel puts this before every name."""


def read_state_dict(file: Path, before: str = "") -> dict[str, torch.Tensor]:
    """Read names and tensors from a `.safetensors` file or from what `torch.save` wrote.

    Args:
        file: with a state dict, or with one under `state_dict`, `model_state_dict` or `model`.
        before: what an error's message begins with.

    Raises:
        ModelError: no such file, or it holds no state dict.
    """
    import torch  # late: it takes a second to import

    if not file.is_file():
        raise ModelError(f"{before}there is no file {file}. Give a state dict, .pth or .safetensors.")
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file  # late: it imports torch

        try:
            content: Any = load_file(file)
        except Exception as error:  # the library raises whatever its parts raise
            raise ModelError(f"{before}{file} is no safetensors file: {one_line(error)}.") from error
    else:
        content = load_tensors(file)
    inner = next((content[key] for key in WRAPPERS if isinstance(content, Mapping) and key in content), content)
    inner = inner if isinstance(inner, Mapping) else content
    tensors = {str(name): value for name, value in inner.items()} if isinstance(inner, Mapping) else {}
    tensors = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ModelError(
            f"{before}{file} holds no state dict. Save one with torch.save(model.state_dict(), 'model.pth')."
        )
    if all(name.startswith(PARALLEL) for name in tensors):
        tensors = {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}
    return tensors


def fill(model: nn.Module, state: Mapping[str, torch.Tensor], file: Path, what: str) -> None:
    """Put a state dict into a model.

    Args:
        model: to be filled.
        state: names and tensors.
        file: where they come from, for messages.
        what: the model's name, for messages.

    Raises:
        ModelError: names are missing or unknown, or shapes differ: nothing is left to chance.
    """
    wanted = model.state_dict()
    missing = sorted(name for name in set(wanted) - set(state) if not name.endswith(COUNTER))
    unknown = sorted(set(state) - set(wanted))
    other = sorted(name for name in set(wanted) & set(state) if wanted[name].shape != state[name].shape)
    if missing or unknown or other:
        raise ModelError(
            f"{file} does not fit {what}: tensors missing: {len(missing)}, unknown: {len(unknown)}, of another shape: "
            f"{len(other)}, first {(missing + unknown + other)[0]}. It is of another architecture."
        )
    model.load_state_dict(dict(state), strict=False)  # strict but for the counters
