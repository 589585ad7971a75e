"""Patch features of a CLIP in the space of its image and text embeddings (MaskCLIP, arXiv 2112.01071).

In the last block every token keeps to itself: its own value vector takes the place of what attention would have
gathered. Residual connections, MLP, final norm and projection stay as they are. As in CLIP-DINOiser (arXiv 2312.12359).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

Grid = tuple[int, int]


class MaskClip:
    """The image tower of an open_clip model, brought to another size of images.

    Args:
        model: of open_clip, with its own vision transformer; it is changed in place.
        spec: its name, for messages.
        transform: its preprocessing.
        size: side of the images in pixels; None for the model's own.

    Raises:
        ModelError: another kind of tower, or a size that is no multiple of its patches.
    """

    def __init__(self, model: Any, spec: str, transform: ImageTransform, size: int | None) -> None:
        _check_tower(model.visual, spec)
        self.model = model
        self.patch = int(model.visual.patch_size[0])
        self.transform = transform if size is None else sized(transform, size)
        height, width = self.transform.output_size
        if height % self.patch or width % self.patch or not height:
            below = height // self.patch * self.patch
            raise ModelError(
                f"{spec} cuts images into patches of {self.patch} pixels, and {height} is no multiple of that. Use "
                f"size={max(below, self.patch)} or size={below + self.patch}."
            )
        self.grid: Grid = (height // self.patch, width // self.patch)
        _resize_positions(model.visual, self.grid)

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks, first to last."""
        blocks: nn.ModuleList = self.model.visual.transformer.resblocks
        return blocks

    @property
    def width(self) -> int:
        """Size of a token inside the tower."""
        return int(self.model.visual.class_embedding.shape[0])

    def features(self, tokens_btd: torch.Tensor) -> torch.Tensor:
        """Turn the last block's input [b, 1 + patches, width] into patch features [b, patches, E]."""
        import torch.nn.functional as F  # late: torch takes a second to import

        visual, block = self.model.visual, self.model.visual.transformer.resblocks[-1]
        width, weight, bias = self.width, block.attn.in_proj_weight, block.attn.in_proj_bias
        # The projection holds query, key and value one below the other.
        values_btd = F.linear(block.ln_1(tokens_btd), weight[2 * width :], None if bias is None else bias[2 * width :])
        tokens_btd = tokens_btd + block.ls_1(block.attn.out_proj(values_btd))
        tokens_btd = tokens_btd + block.ls_2(block.mlp(block.ln_2(tokens_btd)))
        features_bte: torch.Tensor = visual.ln_post(tokens_btd)[:, 1:] @ visual.proj
        return features_bte


def sized(transform: ImageTransform, size: int) -> ImageTransform:
    """Return the same preprocessing for square images of another size: what is cut off stays the same share."""
    height, width = transform.output_size
    scaled = (round(transform.resize_to[0] * size / height), round(transform.resize_to[1] * size / width))
    return replace(transform, resize_to=scaled, crop_to=None if transform.crop_to is None else (size, size))


def _check_tower(visual: Any, spec: str) -> None:
    """Refuse towers whose patch tokens do not become embeddings in the way of the first CLIP."""
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    is_plain = (
        blocks is not None
        and hasattr(visual, "conv1")
        and getattr(visual, "attn_pool", None) is None
        and getattr(visual, "pool_type", "") == "tok"
        and not getattr(visual, "final_ln_after_pool", False)
        and getattr(visual, "proj", None) is not None
        and all(getattr(block.attn, "in_proj_weight", None) is not None for block in blocks)
    )
    if not is_plain:
        raise ModelError(
            f"{spec} is no CLIP whose patches can be brought to the space of its texts: that takes open_clip's own "
            "vision transformer with a CLS token and a projection, e.g. open_clip:ViT-B-16/openai."
        )


def _resize_positions(visual: Any, grid: Grid) -> None:
    """Interpolate the position embeddings of the patches bicubically, as CLIP-DINOiser does; CLS keeps its own."""
    import torch  # late: it takes a second to import

    old: Grid = (int(visual.grid_size[0]), int(visual.grid_size[1]))
    if old == grid:
        return
    position_td = visual.positional_embedding.detach().float()
    patches_1dhw = position_td[1:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    patches_1dhw = torch.nn.functional.interpolate(patches_1dhw, size=grid, mode="bicubic", align_corners=False)
    resized_td = torch.cat([position_td[:1], patches_1dhw.flatten(2)[0].T])
    visual.positional_embedding = torch.nn.Parameter(resized_td, requires_grad=False)
    visual.grid_size = grid
    visual.image_size = (grid[0] * visual.patch_size[0], grid[1] * visual.patch_size[1])
