"""How an encoder cuts a picture before it sees it, and so which part of the picture a token map covers.

Owns the geometry of resizing and cropping: encoders' preprocessing takes its sizes from here too. A framing is stored
with a space as JSON: `resize`, `resize_to` [height, width], `crop_to` [height, width] or null, `crop_rounding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, Literal, NamedTuple, get_args

from glasshouse.schema.errors import ModelError

Resize = Literal["none", "squash", "shortest", "fill", "fit"]
Rounding = Literal["round", "floor"]
Size = tuple[int, int]
"""Height and width in pixels."""


class Box(NamedTuple):
    """A rectangle of a picture in pixels: x from `left` to `right`, y from `top` to `bottom`, 0 at the outer edge."""

    left: float
    top: float
    right: float
    bottom: float


class Framing(NamedTuple):
    """Resizing and centre crop; the fields as `plugins.encoders.preprocessing.ImageTransform` explains them."""

    resize: Resize
    resize_to: Size
    crop_to: Size | None = None
    crop_rounding: Rounding = "round"


def framing_of(stored: Mapping[str, Any]) -> Framing:
    """Read a framing as it is stored, or as an encoder gives it.

    Raises:
        ModelError: it is none.
    """
    try:
        framing = Framing(
            stored["resize"],
            _size(stored["resize_to"]),
            None if stored.get("crop_to") is None else _size(stored["crop_to"]),
            stored.get("crop_rounding", "round"),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        framing = None
    if framing is None or framing.resize not in get_args(Resize) or framing.crop_rounding not in get_args(Rounding):
        raise ModelError(
            f"{stored!r} is no framing. It needs resize ({', '.join(get_args(Resize))}), resize_to [height, width], "
            "crop_to [height, width] or null, and crop_rounding (round or floor)."
        )
    return framing


def _size(values: Any) -> Size:
    height, width = (int(value) for value in values)
    if height < 1 or width < 1:
        raise ValueError
    return height, width


def resized(framing: Framing, height: int, width: int) -> Size:
    """Return the size that a picture has after resizing. Each rule rounds as the library that it comes from."""
    to_height, to_width = framing.resize_to
    if framing.resize == "none":
        return height, width
    if framing.resize == "squash":
        return to_height, to_width
    if framing.resize == "shortest":
        if height <= width:
            return to_height, max(1, int(to_height * width / height))
        return max(1, int(to_height * height / width)), to_height
    ratios = (height / to_height, width / to_width)
    ratio = min(ratios) if framing.resize == "fill" else max(ratios)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def crop_offset(spare: int, rounding: Rounding) -> int:
    """Return where a centre crop starts, given the pixels to spare; below 0 where the picture is padded instead."""
    if spare < 0:
        return -(-spare // 2) if rounding == "round" else -ceil(-spare / 2)
    return round(spare / 2) if rounding == "round" else spare // 2


def grid_box(framing: Mapping[str, Any] | None, width: int, height: int) -> Box:
    """Return the box that the token grid covers, in pixels of the original picture; with padding it reaches outside.

    Args:
        framing: as stored; None where it is not known: the whole picture then.
        width: of the original picture.
        height: of the original picture.

    Raises:
        ModelError: `framing` is none.
    """
    if framing is None:
        return Box(0.0, 0.0, float(width), float(height))
    rule = framing_of(framing)
    new_height, new_width = resized(rule, height, width)
    crop_height, crop_width = rule.crop_to or (new_height, new_width)
    top = crop_offset(new_height - crop_height, rule.crop_rounding)
    left = crop_offset(new_width - crop_width, rule.crop_rounding)
    x_scale, y_scale = width / new_width, height / new_height
    return Box(left * x_scale, top * y_scale, (left + crop_width) * x_scale, (top + crop_height) * y_scale)


def seen_box(framing: Mapping[str, Any] | None, width: int, height: int) -> Box:
    """Return the part of the original picture that the encoder sees: `grid_box` without what lies outside."""
    left, top, right, bottom = grid_box(framing, width, height)
    return Box(max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
