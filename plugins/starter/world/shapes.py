"""Masks of the eight shapes: drawn with Pillow four times too large, then averaged down."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from glasshouse.plugins.starter.world.vocabulary import IMAGE_SIZE

FloatArray = npt.NDArray[np.float32]
SUPERSAMPLING: Final = 4


def _regular(n_points: int, radii: tuple[float, ...]) -> FloatArray:
    """Corners [n_points, 2] on circles of alternating radii, the first one pointing up."""
    angles = np.arange(n_points) * (2 * np.pi / n_points) - np.pi / 2
    radius = np.resize(np.array(radii), n_points)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1).astype(np.float32)


def _heart() -> FloatArray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return (np.stack([x, y - 2.5], axis=1) / 15.5).astype(np.float32)


_ARM: Final = 0.33
_OUTLINES: Final[dict[str, FloatArray]] = {
    "square": np.array([(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)], dtype=np.float32),
    "triangle": _regular(3, (1.08,)) + np.array([0.0, 0.18], dtype=np.float32),
    "star": _regular(10, (1.1, 0.46)),
    "cross": np.array(
        [(-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
         (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)], dtype=np.float32,
    ),
    "heart": _heart(),
}  # fmt: skip


def _disc(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, fill: int) -> None:
    s, (cx, cy) = SUPERSAMPLING, centre
    draw.ellipse([s * (cx - radius), s * (cy - radius), s * (cx + radius), s * (cy + radius)], fill=fill)


def draw_polygon(draw: ImageDraw.ImageDraw, corners_n2: FloatArray, fill: int = 255) -> None:
    """Fill a polygon whose corners are (x, y) in image pixels, on a canvas `SUPERSAMPLING` times as large."""
    draw.polygon([(float(x), float(y)) for x, y in corners_n2 * SUPERSAMPLING], fill=fill)


def canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty supersampled mask and the pen for it."""
    side = IMAGE_SIZE * SUPERSAMPLING
    image = Image.new("L", (side, side), 0)
    return image, ImageDraw.Draw(image)


def to_alpha(image: Image.Image) -> FloatArray:
    """Average a supersampled mask down to [64, 64] coverage in 0..1."""
    return np.asarray(image.reduce(SUPERSAMPLING), dtype=np.float32) / 255.0


def shape_alpha(shape: str, centre: tuple[float, float], radius: float, angle: float) -> FloatArray:
    """Coverage [64, 64] in 0..1 of one shape; centre (x, y) and radius in pixels, angle in radians."""
    image, draw = canvas()
    cos, sin = np.cos(angle), np.sin(angle)
    if shape in _OUTLINES:
        rotation = np.array([[cos, -sin], [sin, cos]], dtype=np.float32)
        corners = radius * (_OUTLINES[shape] @ rotation.T) + np.array(centre, dtype=np.float32)
        draw_polygon(draw, corners.astype(np.float32))
        return to_alpha(image)
    _disc(draw, centre, radius, 255)
    if shape == "ring":
        _disc(draw, centre, 0.52 * radius, 0)
    elif shape == "crescent":
        bite = (centre[0] + 0.5 * radius * cos, centre[1] + 0.5 * radius * sin)
        _disc(draw, bite, 0.78 * radius, 0)
    return to_alpha(image)
