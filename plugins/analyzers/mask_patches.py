"""Annotated masks on the grid of patches: which share of each patch a mask covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.warehouse.intake.masks import decode_mask
from glasshouse.warehouse.showing.framing import grid_box

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class PatchMasks(NamedTuple):
    """The masks of one image that the encoder sees anything of, by label.

    Attributes:
        label_m: of each mask, ascending.
        cover_mt: share of each patch that the mask covers, [masks, tokens].
        inside_t: share of each patch that lies in the picture, [tokens]; below 1 only where the encoder pads.
    """

    label_m: list[str]
    cover_mt: Floats
    inside_t: Floats


class MaskGrid:
    """Brings masks onto the grid of a space.

    Args:
        grid: rows and columns.
        framing: how the encoder cuts pictures; None where it is not known: the grid covers the whole picture then.
    """

    def __init__(self, grid: tuple[int, int], framing: Mapping[str, Any] | None) -> None:
        self._grid = grid
        self._framing = framing
        self._weights = lru_cache(maxsize=256)(self._weights_of)

    def masks_of(self, rows: Sequence[Mapping[str, Any]]) -> PatchMasks:
        """Decode the masks of one image, each once; crowds and masks that the encoder sees nothing of are left out.

        Args:
            rows: label, is_crowd, mask_height, mask_width, mask_rle of each; sorted by label. One at least.
        """
        labels, covers = [], []
        for row in rows:
            height, width = row["mask_height"], row["mask_width"]
            if row["is_crowd"] or row["label"] is None:
                continue
            cover_t = self.cover(decode_mask(height, width, row["mask_rle"]))
            if cover_t.any():
                labels.append(str(row["label"]))
                covers.append(cover_t)
        inside_t = self.inside(rows[0]["mask_height"], rows[0]["mask_width"])
        cover_mt = np.array(covers, dtype=np.float32).reshape(len(covers), len(inside_t))
        return PatchMasks(labels, cover_mt, inside_t)

    def cover(self, mask_hw: Bools) -> Floats:
        """Return the share of each patch that a mask covers, [tokens]; exact where patches cut through pixels."""
        down_rh, across_wc = self._weights(*mask_hw.shape)
        cover_t: Floats = (down_rh @ mask_hw.astype(np.float32) @ across_wc).ravel()
        return cover_t

    def inside(self, height: int, width: int) -> Floats:
        """Return the share of each patch that lies in a picture of that size, [tokens]."""
        down_rh, across_wc = self._weights(height, width)
        inside_t: Floats = np.outer(down_rh.sum(1), across_wc.sum(0)).ravel()
        return inside_t

    def _weights_of(self, height: int, width: int) -> tuple[Floats, Floats]:
        box = grid_box(self._framing, width, height)
        down_rh = overlaps(box.top, box.bottom, self._grid[0], height)
        return down_rh, overlaps(box.left, box.right, self._grid[1], width).T.copy()


def overlaps(start: float, end: float, n_cells: int, n_pixels: int) -> Floats:
    """Return which share of each cell between `start` and `end` each pixel fills, [cells, pixels]."""
    edges = np.linspace(start, end, n_cells + 1)
    pixel_p = np.arange(n_pixels)
    length_cp = np.minimum(edges[1:, None], pixel_p + 1) - np.maximum(edges[:-1, None], pixel_p)
    share_cp: Floats = (np.maximum(length_cp, 0) * n_cells / (end - start)).astype(np.float32)
    return share_cp


def patches_of(cover_mt: Floats, cover: float) -> Floats:
    """Say which patches belong to each mask, 1 or 0 [masks, tokens]: those of which it covers at least `cover`.

    A mask that covers no patch so far has those of which it covers most, so that small things are not lost.
    """
    most_m = cover_mt.max(axis=1, initial=0)
    needed_m = np.minimum(most_m, cover)
    # The products that make up a share can be a rounding error below it.
    patches_mt: Floats = (cover_mt >= needed_m[:, None] - 1e-6).astype(np.float32)
    return patches_mt
