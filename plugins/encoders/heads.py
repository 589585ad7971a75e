"""Where a classifier's head begins: what its last linear layer is handed is the image embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn


def embedding_before_head(
    spec: str, model: nn.Module, images_hw: tuple[int, int], classify: Callable[[torch.Tensor], Any]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Find the last linear layer that a pass reaches; return a full pass that gives what this layer is handed.

    Args:
        spec: the model's name, for messages.
        model: in evaluation mode.
        images_hw: height and width of its images.
        classify: one full pass of it.

    Returns:
        Images [batch, 3, H, W] to embeddings [batch, E]. Tokens or places of a map (where the last linear layer is a
        1×1 convolution, as in SqueezeNet) are averaged.

    Raises:
        ModelError: there is no linear layer and no convolution, or the pass fails.
    """
    import torch  # late: it takes a second to import

    reached: list[nn.Module] = []
    handles = [
        module.register_forward_hook(lambda module, _inputs, _output: reached.append(module))
        for module in model.modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
    ]
    try:
        with torch.inference_mode():
            classify(torch.zeros(1, 3, *images_hw, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    linear = [module for module in reached if isinstance(module, torch.nn.Linear)]
    if not reached:
        raise ModelError(f"{spec} has no linear layer before which an embedding could be read. Say how with embed=.")
    head = (linear or reached)[-1]

    def embed(batch_bchw: torch.Tensor) -> torch.Tensor:
        handed: list[torch.Tensor] = []
        handle = head.register_forward_pre_hook(lambda _module, inputs: handed.append(inputs[0]))
        try:
            classify(batch_bchw)
        finally:
            handle.remove()
        features = handed[-1]
        if features.ndim == 4:
            return features.mean((2, 3))
        return features if features.ndim == 2 else features.flatten(1, -2).mean(1)

    return embed
