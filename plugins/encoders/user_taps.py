"""Hook points of a module that nothing is known of: every part whose output is a map or tokens, by its path."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasshouse.plugins.encoders.tapping import Tap, first_tensor
from glasshouse.plugins.encoders.taps import map_layout

if TYPE_CHECKING:
    import torch
    from torch import nn

Grid = tuple[int, int]

N_IMAGES = 2


def user_taps(
    module: nn.Module, run: Callable[[torch.Tensor], Any], images_hw: Grid, n_prefix: int | None, grid: Grid | None
) -> dict[str, Tap]:
    """Find the hook points in one pass.

    Args:
        module: in evaluation mode.
        run: one full pass of it.
        images_hw: height and width of its images.
        n_prefix: tokens before the patches, where the user says it.
        grid: rows and columns of the patches, likewise.
    """
    import torch  # late: it takes a second to import

    shapes: dict[str, tuple[int, ...]] = {}
    patch_grids: list[Grid] = []

    def note(name: str, part: nn.Module, output: Any) -> None:
        tensor = first_tensor(output)
        if isinstance(tensor, torch.Tensor) and name:
            shapes[name] = tuple(tensor.shape)
            if isinstance(part, torch.nn.Conv2d) and part.kernel_size == part.stride != (1, 1):
                patch_grids.append((tensor.shape[2], tensor.shape[3]))

    parts = dict(module.named_modules())
    handles = [
        part.register_forward_hook(lambda part, _inputs, output, name=name: note(name, part, output))
        for name, part in parts.items()
    ]
    try:
        with torch.inference_mode():
            run(torch.zeros(N_IMAGES, 3, *images_hw, device=next(module.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    taps = {}
    for name, shape in shapes.items():
        if len(shape) == 4:
            taps[name] = Tap(parts[name], "output", map_layout(shape, images_hw, "nchw"))
        elif len(shape) == 3 and shape[0] == N_IMAGES:
            prefix, cells = token_places(shape[1], images_hw, patch_grids[:1], n_prefix, grid)
            taps[name] = Tap(parts[name], "output", "tokens", prefix, cells)
    return taps


def token_places(
    n_tokens: int, images_hw: Grid, patch_grids: list[Grid], n_prefix: int | None, grid: Grid | None
) -> tuple[int, Grid | None]:
    """Tell how many tokens come before the patches, and how those lie; (0, None) where it is not certain.

    Args:
        n_tokens: of an output.
        images_hw: height and width of the images.
        patch_grids: what the patch embedding gives, if there is one.
        n_prefix: as the user says it.
        grid: as the user says it.
    """
    if n_prefix is not None:
        return n_prefix, grid or fitting_grid(n_tokens - n_prefix, images_hw)
    for rows, columns in [grid] if grid else patch_grids:
        if n_tokens - rows * columns in (0, 1):
            return n_tokens - rows * columns, (rows, columns)
    return 0, fitting_grid(n_tokens, images_hw)


def fitting_grid(n_tokens: int, images_hw: Grid) -> Grid | None:
    """Rows and columns that stand to each other as the image's sides do; None where no such grid has n tokens."""
    rows = math.isqrt(max(n_tokens, 0) * images_hw[0] // images_hw[1])
    if not rows or n_tokens % rows:
        return None
    columns = n_tokens // rows
    return (rows, columns) if rows * images_hw[1] == columns * images_hw[0] else None
