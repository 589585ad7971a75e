"""From patches to pixels, and how well pixels agree with annotated masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.warehouse.intake.masks import decode_mask
from glasshouse.warehouse.showing.framing import grid_box
from glasshouse.warehouse.showing.overlay import axis_weights

MAX_VALUES = 1 << 24
"""Probabilities of pixels that are held at once, 4 bytes each, unless one row of pixels alone has more."""

NOWHERE = -1
"""A pixel that no mask covers, or none of the classes: in maps of truth the former, in predictions the latter."""

UNKNOWN = -2
"""A pixel that does not count: of a crowd, of a mask whose class is not asked for, or that the encoder does not see."""

Classes = npt.NDArray[np.int16]
Counts = npt.NDArray[np.int64]


def classes_of_pixels(
    chances_rlc: npt.NDArray[np.float32],
    framing: Mapping[str, Any] | None,
    size: tuple[int, int],
    n_named: int | None = None,
    threshold: float = 0.0,
) -> Classes:
    """Return the most probable class of each pixel [height, width], the probabilities interpolated bilinearly.

    Args:
        chances_rlc: of the patches, [rows, columns, classes].
        framing: how the encoder cuts pictures; None where the grid covers the whole picture.
        size: width and height of the picture.
        n_named: classes from this number on are background: `NOWHERE`.
        threshold: where the best probability is below it, the pixel is background too.

    Returns:
        int16: a class, `NOWHERE`, or `UNKNOWN` where the encoder sees nothing.
    """
    rows, columns, n_classes = chances_rlc.shape
    width, height = size
    left, top, right, bottom = grid_box(framing, width, height)
    across_wl, seen_w = axis_weights(width, width, left, right, columns)
    down_hr, seen_h = axis_weights(height, height, top, bottom, rows)
    wide_rwc = np.einsum("rlc,wl->rwc", chances_rlc, across_wl, optimize=True).reshape(rows, width * n_classes)
    out_hw = np.empty((height, width), dtype=np.int16)
    at_once = max(1, MAX_VALUES // (width * n_classes))
    for first in range(0, height, at_once):
        strip_hwc = (down_hr[first : first + at_once] @ wide_rwc).reshape(-1, width, n_classes)
        best_hw = strip_hwc.argmax(axis=2)
        nothing_hw = strip_hwc.max(axis=2) < threshold
        nothing_hw |= best_hw >= (n_classes if n_named is None else n_named)
        out_hw[first : first + at_once] = np.where(nothing_hw, NOWHERE, best_hw)
    out_hw[~seen_h] = UNKNOWN
    out_hw[:, ~seen_w] = UNKNOWN
    return out_hw


def truth_of_pixels(rows: Sequence[Mapping[str, Any]], class_of: Mapping[str, int]) -> Classes:
    """Return the annotated class of each pixel [height, width]: of several masks on it, the smallest one's.

    Args:
        rows: label, is_crowd, mask_height, mask_width, mask_rle of each mask of the image; one at least.
        class_of: number of each label that is asked for.

    Returns:
        int16: a class; `NOWHERE` under no mask; `UNKNOWN` where only crowds are, or a mask that counts for nothing.
    """
    masks = [(decode_mask(row["mask_height"], row["mask_width"], row["mask_rle"]), row) for row in rows]
    out_hw = np.full(masks[0][0].shape, NOWHERE, dtype=np.int16)
    # Crowds lie below everything, however small; of the others large ones below small ones.
    for mask_hw, row in sorted(masks, key=lambda one: (not one[1]["is_crowd"], -int(one[0].sum()))):
        known = None if row["is_crowd"] else class_of.get(str(row["label"]))
        out_hw[mask_hw] = UNKNOWN if known is None else known
    return out_hw


def confusion(truth_hw: Classes, found_hw: Classes, n_classes: int, *, background: bool) -> Counts:
    """Count pixels by annotated class and found class [n + 1, n + 1]; the last is the background.

    Without `background` pixels under no mask do not count.
    """
    counted_hw = (truth_hw != UNKNOWN) & (found_hw != UNKNOWN)
    if not background:
        counted_hw &= truth_hw != NOWHERE
    truth_p, found_p = (np.where(m[counted_hw] == NOWHERE, n_classes, m[counted_hw]) for m in (truth_hw, found_hw))
    side = n_classes + 1
    return np.bincount(truth_p.astype(np.int64) * side + found_p, minlength=side * side).reshape(side, side)


class Agreement(NamedTuple):
    """How well found classes agree with annotated ones.

    Attributes:
        iou_c: intersection over union of each class, the background last; NaN where no pixel is annotated so.
        miou: mean over the classes that are annotated anywhere.
        accuracy: share of the counted pixels whose class is right.
    """

    iou_c: npt.NDArray[np.float64]
    miou: float
    accuracy: float


def agreement(counts_cc: Counts) -> Agreement | None:
    """Return the figures of a `confusion`; None where no pixel counts."""
    total = int(counts_cc.sum())
    if not total:
        return None
    right_c, true_c = np.diag(counts_cc).astype(np.float64), counts_cc.sum(axis=1)
    union_c = true_c + counts_cc.sum(axis=0) - right_c
    iou_c = np.where(true_c > 0, right_c / np.maximum(union_c, 1), np.nan)
    return Agreement(iou_c, float(np.nanmean(iou_c)), float(right_c.sum() / total))


def shuffled_miou(counts_cc: Counts, n_shuffles: int, seed: int) -> float | None:
    """Return the mean IoU that comes of giving every class the text of another, at random; None with one class.

    What is found of each class then counts as another's; the background stays.
    """
    n_classes = len(counts_cc) - 1
    if n_classes < 2 or not counts_cc.sum():
        return None
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_shuffles):
        # A circle through all classes in random order: none keeps its own text.
        circle = rng.permutation(n_classes)
        column = np.arange(n_classes + 1)
        column[circle] = np.roll(circle, 1)
        mixed = agreement(counts_cc[:, column])
        found.append(0.0 if mixed is None else mixed.miou)
    return float(np.mean(found))
