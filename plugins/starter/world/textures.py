"""Textures of objects and patterns of backgrounds, as analytic functions of the pixel grid."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.starter.world.vocabulary import BACKGROUND_RGB, COLOUR_RGB, IMAGE_SIZE

FloatArray = npt.NDArray[np.float32]

_Y, _X = (grid.astype(np.float32) for grid in np.meshgrid(np.arange(IMAGE_SIZE), np.arange(IMAGE_SIZE), indexing="ij"))
STRIPE_PERIOD: Final[dict[str, float]] = {"thin": 4.0, "thick": 8.0}
"""Distance between stripes in pixels."""
DARK_SHARE: Final = 0.38
"""Brightness of a texture's second tone, as a share of the object's colour."""


def texture_mask(texture: str, stripes: str | None, rng: np.random.Generator) -> FloatArray | None:
    """Where the dark second tone goes: [64, 64] in {0, 1}; None for a solid object."""
    phase_x, phase_y = rng.uniform(0, 8, size=2)
    if texture == "striped":
        angle = rng.integers(4) * np.pi / 4
        along = _X * np.cos(angle) + _Y * np.sin(angle) + phase_x
        period = STRIPE_PERIOD[stripes or "thick"]
        dark: npt.NDArray[np.generic] = along % period < period / 2
        return dark.astype(np.float32)
    if texture == "dotted":
        dx, dy = (_X + phase_x) % 5 - 2.5, (_Y + phase_y) % 5 - 2.5
        dark = dx * dx + dy * dy < 2.4
        return dark.astype(np.float32)
    if texture == "checkered":
        cell = 4.0
        dark = (np.floor((_X + phase_x) / cell) + np.floor((_Y + phase_y) / cell)) % 2
        return dark.astype(np.float32)
    return None


def object_paint(colour: str, dark_hw: FloatArray | None, rng: np.random.Generator) -> FloatArray:
    """Paint of an object, [64, 64, 3] (or [1, 1, 3] when solid) in 0..255."""
    rgb = np.array(COLOUR_RGB[colour], dtype=np.float32) + rng.uniform(-10, 10, size=3).astype(np.float32)
    if dark_hw is None:
        return rgb[None, None, :]
    shade: FloatArray = 1.0 - (1.0 - DARK_SHARE) * dark_hw[:, :, None]
    return shade * rgb


def background_paint(colour: str, pattern: str, rng: np.random.Generator) -> FloatArray:
    """Background [64, 64, 3] in 0..255; the pattern is a second tone nearer to middle grey."""
    base = np.array(BACKGROUND_RGB[colour], dtype=np.float32) + rng.uniform(-6, 6, size=3).astype(np.float32)
    step = 48.0 if colour in ("black", "grey") else -48.0
    phase_x, phase_y = rng.uniform(0, 12, size=2)
    if pattern == "grid":
        mark = ((_X + np.floor(phase_x)) % 9 < 1) | ((_Y + np.floor(phase_y)) % 9 < 1)
        weight = mark.astype(np.float32)
    elif pattern == "wavy":
        height = _Y + 2.6 * np.sin((_X + phase_x) * (2 * np.pi / 20)) + phase_y
        weight = (0.5 + 0.5 * np.sin(height * (2 * np.pi / 9))).astype(np.float32)
    elif pattern == "speckled":
        weight = (rng.random((IMAGE_SIZE, IMAGE_SIZE), dtype=np.float32) < 0.12).astype(np.float32)
    else:
        return np.broadcast_to(base, (IMAGE_SIZE, IMAGE_SIZE, 3)).copy()
    paint: FloatArray = base + step * weight[:, :, None]
    return paint
