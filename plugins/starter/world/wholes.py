"""Wholes with parts: a house (walls, roof, door, window) and a face (eyes, mouth).

They are drawn in neutral colours that no core object has. A part lies on its whole and never appears without it;
door, window, eyes and mouth are each left out now and then, so that a part implies its whole and not the reverse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw

from glasshouse.plugins.starter.world.shapes import SUPERSAMPLING, canvas, to_alpha

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Pen = ImageDraw.ImageDraw

WHOLE_RADIUS: Final = 14.0
"""Half the side of the square that a whole fills, in pixels."""
_PART_RGB: Final[dict[str, tuple[int, int, int]]] = {
    "walls": (168, 122, 84), "roof": (92, 58, 52), "door": (62, 40, 24), "window": (206, 224, 232),
    "head": (236, 204, 176), "eyes": (34, 30, 36), "mouth": (128, 50, 52),
}  # fmt: skip
_PART_PROBABILITY: Final[dict[str, float]] = {"door": 0.8, "window": 0.75, "eyes": 0.9, "mouth": 0.8}


@dataclass(frozen=True)
class Whole:
    """A house or a face. `parts` maps the parts that are there to their masks [64, 64]."""

    kind: str
    position: str
    mask_hw: BoolArray
    parts: dict[str, BoolArray]


def _box(pen: Pen, x0: float, y0: float, x1: float, y1: float, ellipse: bool = False) -> None:
    corners = [SUPERSAMPLING * v for v in (x0, y0, x1, y1)]
    (pen.ellipse if ellipse else pen.rectangle)(corners, fill=255)


def _alpha(paint: Callable[[Pen], None]) -> FloatArray:
    image, pen = canvas()
    paint(pen)
    return to_alpha(image)


def _house_layers(cx: float, cy: float) -> dict[str, FloatArray]:
    def roof(pen: Pen) -> None:
        tip, left, right = (cx, cy - 13), (cx - 13, cy - 3), (cx + 13, cy - 3)
        pen.polygon([(SUPERSAMPLING * x, SUPERSAMPLING * y) for x, y in (tip, left, right)], fill=255)

    return {
        "walls": _alpha(lambda pen: _box(pen, cx - 11, cy - 3, cx + 11, cy + 12)),
        "roof": _alpha(roof),
        "door": _alpha(lambda pen: _box(pen, cx - 8.5, cy + 2, cx - 2.5, cy + 12)),
        "window": _alpha(lambda pen: _box(pen, cx + 2, cy + 0.5, cx + 8.5, cy + 7)),
    }


def _face_layers(cx: float, cy: float) -> dict[str, FloatArray]:
    def eyes(pen: Pen) -> None:
        _box(pen, cx - 7.5, cy - 6, cx - 2.5, cy - 1, ellipse=True)
        _box(pen, cx + 2.5, cy - 6, cx + 7.5, cy - 1, ellipse=True)

    return {
        "head": _alpha(lambda pen: _box(pen, cx - 12.5, cy - 12.5, cx + 12.5, cy + 12.5, ellipse=True)),
        "eyes": _alpha(eyes),
        "mouth": _alpha(lambda pen: _box(pen, cx - 6, cy + 3.5, cx + 6, cy + 8, ellipse=True)),
    }


def paint_whole(
    image_hwc: FloatArray, kind: str, position: str, centre: tuple[float, float], rng: np.random.Generator
) -> Whole:
    """Paint a house or a face into an image in 0..255, in place, and return it with its masks."""
    layers = (_house_layers if kind == "house" else _face_layers)(*centre)
    chances = rng.random(len(layers))
    jitter = rng.uniform(-10, 10, size=3).astype(np.float32)
    kept = {
        name: alpha_hw
        for (name, alpha_hw), chance in zip(layers.items(), chances, strict=True)
        if chance < _PART_PROBABILITY.get(name, 1.0)
    }
    visible: dict[str, BoolArray] = {}
    for name, alpha_hw in kept.items():
        rgb = np.array(_PART_RGB[name], dtype=np.float32) + jitter
        image_hwc += alpha_hw[:, :, None] * (rgb - image_hwc)
        covered_hw = alpha_hw > 0.5
        for earlier in visible:
            visible[earlier] = visible[earlier] & ~covered_hw
        visible[name] = covered_hw
    mask_hw = np.logical_or.reduce(list(visible.values()))
    parts = {name: part_hw for name, part_hw in visible.items() if name != "head"}
    return Whole(kind=kind, position=position, mask_hw=mask_hw, parts=parts)
