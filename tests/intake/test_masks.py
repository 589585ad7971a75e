"""Masks against a rasteriser and a run-length encoder in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.warehouse.intake.masks import Mask, MaskError, decode_counts, decode_mask, encode_mask


def runs_of(mask_hw: np.ndarray) -> list[int]:
    """Count equal pixels down the columns, background first."""
    counts, current, run = [], 0, 0
    for value in mask_hw.T.ravel().tolist():
        if value != current:
            counts.append(run)
            current, run = value, 0
        run += 1
    return [*counts, run]


def mask_of(mask: Mask) -> np.ndarray:
    """Paint the runs of a stored mask, one pixel after the other."""
    pixels: list[int] = []
    for position, count in enumerate(decode_counts(mask.rle)):
        pixels += [position % 2] * count
    return np.array(pixels, dtype=np.uint8).reshape(mask.width, mask.height).T


def inside(x: float, y: float, polygon: list[float]) -> bool:
    """Even-odd rule at a pixel's centre."""
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    crossings = 0
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        if (y0 > y) != (y1 > y) and x < (x1 - x0) * (y - y0) / (y1 - y0) + x0:
            crossings += 1
    return crossings % 2 == 1


MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0, 1))


def random_mask(shape: tuple[int, int, int, float]) -> np.ndarray:
    height, width, seed, share = shape
    return (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_run_lengths_come_back(shape: tuple[int, int, int, float]) -> None:
    mask_hw = random_mask(shape)
    mask = encode_mask({"size": list(mask_hw.shape), "counts": runs_of(mask_hw)}, None)
    assert mask is not None
    assert np.array_equal(mask_of(mask), mask_hw) and np.array_equal(decode_mask(*mask[:3]), mask_hw.astype(bool))
    assert mask.area == int(mask_hw.sum())
    again = encode_mask({"size": list(mask_hw.shape), "counts": mask.rle}, None)
    assert again == mask


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' decode with NumPy 2
@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_compressed_runs_are_what_pycocotools_reads(shape: tuple[int, int, int, float]) -> None:
    from pycocotools import mask as coco_mask

    mask_hw = random_mask(shape)
    theirs = coco_mask.encode(np.asfortranarray(mask_hw))
    ours = encode_mask({"size": list(mask_hw.shape), "counts": runs_of(mask_hw)}, None)
    assert ours is not None
    assert np.array_equal(coco_mask.decode({"size": theirs["size"], "counts": ours.rle.encode()}), mask_hw)
    assert decode_counts(theirs["counts"].decode()) == decode_counts(ours.rle)


def test_runs_of_no_pixels_are_merged() -> None:
    plain = encode_mask({"size": [2, 3], "counts": [1, 4, 1]}, None)
    assert encode_mask({"size": [2, 3], "counts": [1, 2, 0, 2, 1, 0]}, None) == plain
    assert encode_mask({"size": [1, 2], "counts": [0, 0, 0, 2]}, None) == encode_mask(
        {"size": [1, 2], "counts": [0, 2]}, None
    )


@pytest.mark.parametrize(
    "polygon",
    [
        [2, 2, 12, 2, 12, 9, 2, 9],
        [1, 1, 15, 4, 8, 13],
        [8, 1, 15, 8, 8, 15, 1, 8],
        [2, 2, 14, 2, 14, 14, 10, 14, 10, 6, 6, 6, 6, 14, 2, 14],
        [-5, -5, 10, -5, 10, 30, -5, 30],
    ],
)
def test_polygons_fill_what_lies_inside(polygon: list[float]) -> None:
    mask = encode_mask([polygon], (16, 18))
    assert mask is not None and (mask.height, mask.width) == (16, 18)
    naive_hw = np.array([[inside(x + 0.5, y + 0.5, polygon) for x in range(18)] for y in range(16)])
    differing = mask_of(mask).astype(bool) != naive_hw
    edge = np.zeros_like(naive_hw)
    for axis in (0, 1):
        for shift in (-1, 1):
            edge |= np.roll(naive_hw, shift, axis) != naive_hw
    assert not (differing & ~edge).any()
    assert differing.mean() < 0.12


def test_several_polygons_are_one_mask() -> None:
    left, right = [0, 0, 4, 0, 4, 8, 0, 8], [8, 0, 12, 0, 12, 8, 8, 8]
    both, first, second = (encode_mask(part, (8, 12)) for part in ([left, right], [left], [right]))
    assert both is not None and first is not None and second is not None
    assert np.array_equal(mask_of(both), mask_of(first) | mask_of(second))
    assert encode_mask(left, (8, 12)) == first


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 2, 3, 4]], "4 coordinates"),
        ([[1, 2, 3, 4, 5, 6, 7]], "7 coordinates"),
        ([[1, 2, 3, 4, 5, float("nan")]], "no finite number"),
        ([[1, 2, 3, 4, 5, "6"]], "no finite number"),
        ([["a"]], "no finite number"),
        ([[1, 2, 1e9, 4, 5, 6]], "far outside"),
        ([None], "no finite number"),
        ({"size": [2, 2], "counts": [1, 2]}, "add up to 3 pixels, the picture has 4"),
        ({"size": [2, 2], "counts": [5, -1]}, "no list of counts"),
        ({"size": [2, 2], "counts": None}, "no list of counts"),
        ({"size": [2, 2], "counts": "\x01"}, "damaged"),
        ({"size": [2, 2], "counts": "ooooooooooooooooooooo"}, "damaged"),
        ({"size": [2, 2], "counts": "0T"}, "add up|damaged|no list"),
        ({"size": ["x", 2], "counts": [4]}, "how large"),
        ({"size": [-2, -2], "counts": [4]}, "has no mask"),
        ("polygon", "neither polygons nor run lengths"),
    ],
)
def test_broken_segmentations_say_why(segmentation: Any, reason: str) -> None:
    with pytest.raises(MaskError, match=reason):
        encode_mask(segmentation, (8, 8))


def test_polygons_need_a_size() -> None:
    with pytest.raises(MaskError, match="how large"):
        encode_mask([[0, 0, 4, 0, 4, 4]], None)


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_no_segmentation_is_no_mask(nothing: Any) -> None:
    assert encode_mask(nothing, (8, 8)) is None
