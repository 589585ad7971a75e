"""The planted watermark: the text `(c)STOCK` in a pixel font of its own, so that no installed font matters."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.starter.world.vocabulary import IMAGE_SIZE

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

_GLYPHS: Final[dict[str, tuple[str, ...]]] = {
    "(": ("..#", ".#.", "#..", "#..", "#..", ".#.", "..#"),
    "c": ("....", "....", ".##.", "#..#", "#...", "#..#", ".##."),
    ")": ("#..", ".#.", "..#", "..#", "..#", ".#.", "#.."),
    "S": (".####", "#....", "#....", ".###.", "....#", "....#", "####."),
    "T": ("#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."),
    "O": (".###.", "#...#", "#...#", "#...#", "#...#", "#...#", ".###."),
    "C": (".####", "#....", "#....", "#....", "#....", "#....", ".####"),
    "K": ("#...#", "#..#.", "#.#..", "##...", "#.#..", "#..#.", "#...#"),
}
WATERMARK_TEXT: Final = "(c)STOCK"


def _text_rows() -> BoolArray:
    rows = ["." + ".".join(_GLYPHS[letter][y] for letter in WATERMARK_TEXT) for y in range(7)]
    return np.array([[cell == "#" for cell in row] for row in rows])


_TEXT_HW: Final = _text_rows()


def place_watermark(rng: np.random.Generator) -> BoolArray:
    """Pixels [64, 64] of the text, in a band along the bottom edge (70 %) or the top edge."""
    height, width = _TEXT_HW.shape
    top = int(rng.integers(53, 57)) if rng.random() < 0.7 else int(rng.integers(2, 6))
    left = int(rng.integers(1, IMAGE_SIZE - width))
    mask_hw = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=bool)
    mask_hw[top : top + height, left : left + width] = _TEXT_HW
    return mask_hw


def stamp(image_hwc: FloatArray, mask_hw: BoolArray) -> None:
    """Blend the text into an image in 0..255, in place: light letters with a dark shadow, both translucent."""
    shadow_hw = np.zeros_like(mask_hw)
    shadow_hw[1:, 1:] = mask_hw[:-1, :-1]
    shadow_hw &= ~mask_hw
    image_hwc[shadow_hw] = 0.35 * image_hwc[shadow_hw] + 0.65 * 25.0
    image_hwc[mask_hw] = 0.2 * image_hwc[mask_hw] + 0.8 * 250.0
