"""Hook points by name, found in a library's own modules.

`blocks.<i>.resid_post` is the output of block i; `blocks.<i>.mlp` are the hidden neurons of its MLP after the
activation function, read as the input of the MLP's second linear layer, which is the same for every kind of MLP.
CNNs are read by module path.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from glasshouse.plugins.encoders.hooked import Tap

if TYPE_CHECKING:
    from torch import nn

SECOND_LINEAR = ("mlp.fc2", "mlp.c_proj", "mlp.w3", "mlp.weights_out", "mlp.down_proj", "output.dense", "mlp.3")
"""Where libraries keep the MLP's second linear layer, seen from the block."""


def block_taps(blocks: Iterable[nn.Module], n_prefix: int, grid: tuple[int, int]) -> dict[str, Tap]:
    """Hook points of a transformer's blocks, whose outputs are [batch, token, width].

    Args:
        blocks: the blocks in order.
        n_prefix: tokens before the patch grid, CLS first, then registers.
        grid: rows and columns of the patch tokens.
    """
    taps = {}
    for index, block in enumerate(blocks):
        modules = dict(block.named_modules())
        second = next((modules[path] for path in SECOND_LINEAR if path in modules), None)
        if second is not None:
            taps[f"blocks.{index}.mlp"] = Tap(second, "input", "tokens", n_prefix, grid)
        taps[f"blocks.{index}.resid_post"] = Tap(block, "output", "tokens", n_prefix, grid)
    return taps


def map_taps(model: nn.Module, images_hw: tuple[int, int], default: Literal["nchw", "nhwc"]) -> dict[str, Tap]:
    """Hook points of a network of feature maps: every module whose output is one.

    Args:
        model: the network, in evaluation mode: in training mode a pass would change its batch statistics.
        images_hw: height and width of its images.
        default: the layout to believe where a shape can be read both ways.

    Shapes decide the layout, since one network may use both (ConvNeXt's blocks do): the two spatial sides stand to
    each other as the image's sides do.
    """
    import torch  # late: it takes a second to import

    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, output: object) -> None:
        if isinstance(output, torch.Tensor):
            shapes[name] = tuple(output.shape)

    modules = {name: module for name, module in model.named_modules() if name}
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, module in modules.items()
    ]
    device = next(model.parameters()).device
    try:
        with torch.inference_mode():
            model(torch.zeros(1, 3, *images_hw, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: Tap(modules[name], "output", map_layout(shape, images_hw, default))
        for name, shape in shapes.items()
        if len(shape) == 4
    }


def map_layout(
    shape: tuple[int, ...], images_hw: tuple[int, int], default: Literal["nchw", "nhwc"]
) -> Literal["nchw", "nhwc"]:
    """Tell [b, c, h, w] from [b, h, w, c] by the image's proportions."""

    def distortion(rows: int, columns: int) -> float:
        return abs(rows * images_hw[1] - columns * images_hw[0]) / max(rows * images_hw[1], columns * images_hw[0])

    nchw, nhwc = distortion(shape[2], shape[3]), distortion(shape[1], shape[2])
    if nchw == nhwc:
        return default
    return "nchw" if nchw < nhwc else "nhwc"


def timm_taps(model: Any, images_hw: tuple[int, int]) -> dict[str, Tap]:
    """Hook points of any timm model: blocks of a plain transformer, module paths of everything else."""
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if hasattr(model, "blocks") and hasattr(model, "num_prefix_tokens") and grid is not None:
        return block_taps(model.blocks.children(), int(model.num_prefix_tokens), (int(grid[0]), int(grid[1])))
    output_format = getattr(model, "output_fmt", "NCHW")
    layout: Literal["nchw", "nhwc"] = "nhwc" if str(output_format).upper().endswith("NHWC") else "nchw"
    return map_taps(model, images_hw, layout)
