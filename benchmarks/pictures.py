"""Pictures to extract from: smooth noise, whose JPEGs take as long to decode as photographs of their size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(folder: Path, n: int, size: tuple[int, int], suffix: str) -> None:
    """Write n different pictures.

    Args:
        folder: made when it is not there.
        n: how many.
        size: width and height in pixels.
        suffix: `.jpg` (quality 90) or `.png`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(n):
        coarse, fine = _noise(rng, size, 16), _noise(rng, size, 2)
        Image.blend(coarse, fine, 0.3).save(folder / f"{number:06d}{suffix}", quality=90, compress_level=1)


def _noise(rng: np.random.Generator, size: tuple[int, int], step: int) -> Image.Image:
    """Noise whose neighbouring values lie `step` pixels apart, smoothly joined."""
    shape = (max(2, size[1] // step), max(2, size[0] // step), 3)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
