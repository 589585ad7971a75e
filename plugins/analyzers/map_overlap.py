"""How well maps of features overlap with the masks of an image: IoU with the best mask of each label, pointing game."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.mask_patches import PatchMasks, patches_of

Floats = npt.NDArray[np.float32]


class Overlap(NamedTuple):
    """Of some maps with the labels of one image.

    Attributes:
        labels: that the image has.
        iou_cl: with the best mask of the label, [maps, labels].
        points_cl: whether the maximum of the map lies in a mask of the label, [maps, labels].
    """

    labels: list[str]
    iou_cl: npt.NDArray[np.float64]
    points_cl: npt.NDArray[np.bool_]


def overlap(maps_ct: Floats, threshold_c: Floats, masks: PatchMasks, cover: float, *, in_pixels: bool) -> Overlap:
    """Compare maps with the masks of one image.

    Args:
        maps_ct: activations, [maps, tokens].
        threshold_c: what lies at or above it is the thresholded map.
        masks: of the image; one at least.
        cover: a patch belongs to a mask that covers at least this share of it.
        in_pixels: areas are those of pixels; else every patch counts as one and is in a mask or not.
    """
    patches_mt = patches_of(masks.cover_mt, cover)
    seen_t = masks.inside_t > 0
    inside_t = masks.inside_t if in_pixels else seen_t.astype(np.float32)
    target_mt = masks.cover_mt if in_pixels else patches_mt
    above_ct = ((maps_ct >= threshold_c[:, None]) & (maps_ct > 0) & seen_t).astype(np.float64)
    both_cm = above_ct @ target_mt.T
    union_cm = (above_ct @ inside_t)[:, None] + target_mt.sum(axis=1, dtype=np.float64) - both_cm
    points_cm = patches_mt.T[np.where(seen_t, maps_ct, -1).argmax(axis=1)] > 0
    labels, starts = np.unique(masks.label_m, return_index=True)
    iou_cl = np.maximum.reduceat(both_cm / union_cm, starts, axis=1)
    return Overlap(labels.tolist(), iou_cl, np.logical_or.reduceat(points_cm, starts, axis=1))
