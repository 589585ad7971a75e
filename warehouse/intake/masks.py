"""Masks as COCO's compressed run lengths, whatever of COCO's three ways they came in.

Run lengths count pixels down the columns, from the top left, background first. pycocotools rasterises polygons, so
that masks are the ones everybody else gets; what it would crash on or misread is rejected before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from glasshouse.schema.errors import SourceError

if TYPE_CHECKING:
    import numpy as np


class MaskError(SourceError):
    """A segmentation cannot be turned into a mask; the message is one clause that says why."""


class Mask(NamedTuple):
    """A mask [height, width] as compressed run lengths, with its area in pixels."""

    height: int
    width: int
    rle: str
    area: int


def encode_mask(segmentation: Any, size: tuple[int, int] | None) -> Mask | None:
    """Turn a COCO segmentation into compressed run lengths; None where there is none.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, …], or {"size": [h, w], "counts": list or str}.
        size: (height, width) of the picture; run lengths may bring their own.

    Raises:
        MaskError: too few points, odd or non-finite coordinates, runs that do not add up, no size.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, size)
    if isinstance(segmentation, list):
        return _from_polygons(segmentation, size)
    raise MaskError(f"the segmentation is a {type(segmentation).__name__}, neither polygons nor run lengths")


def _from_polygons(polygons: list[Any], size: tuple[int, int] | None) -> Mask:
    from pycocotools import mask as coco_mask

    height, width = _checked_size(size)
    if polygons and all(isinstance(number, (int, float)) for number in polygons):
        polygons = [polygons]
    points = [_checked_polygon(polygon, height, width) for polygon in polygons]
    return _packed(coco_mask.merge(coco_mask.frPyObjects(points, height, width)))


def _checked_polygon(polygon: Any, height: int, width: int) -> list[float]:
    if not isinstance(polygon, list) or not all(
        isinstance(number, (int, float)) and -math.inf < number < math.inf for number in polygon
    ):
        raise MaskError("a polygon holds something that is no finite number")
    if len(polygon) % 2 or len(polygon) < 6:
        raise MaskError(f"a polygon has {len(polygon)} coordinates; it takes pairs, at least three")
    reach = 2 * max(height, width)
    if any(abs(number) > reach for number in polygon):
        raise MaskError(f"a polygon reaches far outside the picture of {width} x {height} pixels")
    return [float(number) for number in polygon]


def _from_runs(runs: dict[str, Any], size: tuple[int, int] | None) -> Mask:
    from pycocotools import mask as coco_mask

    height, width = _checked_size(tuple(runs["size"]) if isinstance(runs.get("size"), list) else size)
    counts = runs.get("counts")
    if isinstance(counts, (str, bytes)):
        text = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
        counts = decode_counts(text)
    if not isinstance(counts, list) or not all(
        isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts
    ):
        raise MaskError("the run lengths are no list of counts from 0")
    if sum(counts) != height * width:
        raise MaskError(f"the run lengths add up to {sum(counts)} pixels, the picture has {height * width}")
    return _packed(coco_mask.frPyObjects({"size": [height, width], "counts": _merged(counts)}, height, width))


def _merged(counts: Sequence[int]) -> list[int]:
    """Drop runs of no pixels except a first one, so that a mask is written in one way only."""
    values = [(position % 2, count) for position, count in enumerate(counts) if count]
    runs = [sum(count for _, count in group) for _, group in groupby(values, key=lambda run: run[0])]
    return [0, *runs] if values and values[0][0] == 1 else runs


def decode_counts(text: str) -> list[int]:
    """Decode compressed run lengths: 5 bits a character from '0' (48), the sixth says that more follow.

    From the third run on, a run is written as its difference to the one before the last.

    Raises:
        MaskError: a character out of range, or an end in the middle of a number.
    """
    counts: list[int] = []
    position = 0
    while position < len(text):
        value, shift, more = 0, 0, True
        while more:
            if position >= len(text) or not 48 <= ord(text[position]) < 112 or shift > 60:
                raise MaskError("the compressed run lengths are damaged")
            bits = ord(text[position]) - 48
            value |= (bits & 0x1F) << shift
            more = bool(bits & 0x20)
            position += 1
            shift += 5
            if not more and bits & 0x10:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def decode_mask(height: int, width: int, rle: str) -> np.ndarray:
    """Return a stored mask as a boolean array [height, width].

    Raises:
        MaskError: the run lengths are damaged or do not fit the size.
    """
    import numpy as np

    counts = decode_counts(rle)
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise MaskError(f"the run lengths do not fit a picture of {width} x {height} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def _checked_size(size: Any) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError, OverflowError):
        raise MaskError("neither the segmentation nor its image says how large the picture is") from None
    if not (0 < height <= 65_535 and 0 < width <= 65_535):
        raise MaskError(f"a picture of {width} x {height} pixels has no mask")
    return height, width


def _packed(rle: dict[str, Any]) -> Mask:
    from pycocotools import mask as coco_mask

    height, width = rle["size"]
    return Mask(int(height), int(width), rle["counts"].decode("ascii"), int(coco_mask.area(rle)))
