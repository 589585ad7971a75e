"""Heat maps over pictures: where the heat is, what is dimmed, and the colours' order."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from glasshouse.warehouse.showing.overlay import heat_colours, heat_of, heat_overlay

CENTRE = {"resize": "shortest", "resize_to": [64, 64], "crop_to": [64, 64], "crop_rounding": "round"}


def naive_heat(map_hw, box, size):
    """Return bilinear interpolation pixel by pixel, written from its definition; NaN outside the box."""
    (left, top, right, bottom), (rows, columns) = box, map_hw.shape
    out = np.full((size[1], size[0]), np.nan)
    for y in range(size[1]):
        for x in range(size[0]):
            if not (left <= x + 0.5 < right and top <= y + 0.5 < bottom):
                continue
            u = min(max((x + 0.5 - left) / (right - left) * columns - 0.5, 0), columns - 1)
            v = min(max((y + 0.5 - top) / (bottom - top) * rows - 0.5, 0), rows - 1)
            i, j = min(int(v), rows - 2), min(int(u), columns - 2)
            a, b = v - i, u - j
            above = (1 - b) * map_hw[i, j] + b * map_hw[i, j + 1]
            out[y, x] = (1 - a) * above + a * ((1 - b) * map_hw[i + 1, j] + b * map_hw[i + 1, j + 1])
    return out / map_hw.max()


@pytest.mark.parametrize(
    ("size", "box", "framing"),
    [
        ((33, 21), (0, 0, 33, 21), None),
        ((60, 30), (15, 0, 45, 30), CENTRE),
        ((30, 60), (0, 15, 30, 45), CENTRE),
        ((40, 20), (0, -10, 40, 30), {**CENTRE, "resize": "fit"}),
    ],
)
def test_heat_is_bilinear_over_the_box(size, box, framing):
    map_hw = np.random.default_rng(0).random((3, 5))
    heat_hw, seen_hw = heat_of(map_hw, framing, size)
    expected_hw = naive_heat(map_hw, box, size)
    np.testing.assert_array_equal(seen_hw, ~np.isnan(expected_hw))
    np.testing.assert_allclose(heat_hw[seen_hw], expected_hw[seen_hw], atol=1e-5)


def test_a_silent_map_leaves_the_picture_and_what_is_not_seen_is_dimmed():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8))
    shown = np.asarray(heat_overlay(picture, np.zeros((4, 4)), CENTRE)).astype(int)
    pixels = np.asarray(picture).astype(int)
    np.testing.assert_array_equal(shown[:, 16:48], pixels[:, 16:48])
    assert (shown[:, :16] <= np.round(pixels[:, :16] * 0.35) + 1).all()


def test_the_maximum_makes_pictures_comparable():
    picture = Image.new("RGB", (16, 16), (128, 128, 128))
    weak, strong = np.full((2, 2), 1.0), np.full((2, 2), 4.0)
    alone = [np.asarray(heat_overlay(picture, m, None)) for m in (weak, strong)]
    together = [np.asarray(heat_overlay(picture, m, None, maximum=4.0)) for m in (weak, strong)]
    np.testing.assert_array_equal(*alone)
    assert together[1].sum() > together[0].sum()
    beyond = heat_overlay(picture, strong * 10, None, maximum=4.0)
    np.testing.assert_array_equal(np.asarray(beyond), together[1])


def test_values_that_are_no_numbers_are_cold():
    picture = Image.new("RGB", (8, 8), (50, 60, 70))
    shown = heat_overlay(picture, np.array([[np.nan, 0.0], [0.0, 0.0]]), None)
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(picture))


def test_a_smaller_copy_shows_what_the_original_does():
    """`none` with a crop counts pixels of the original, so the copy must know its size."""
    framing = {"resize": "none", "resize_to": [1, 1], "crop_to": [100, 100], "crop_rounding": "round"}
    _, large_hw = heat_of(np.ones((2, 2)), framing, (400, 200))
    _, small_hw = heat_of(np.ones((2, 2)), framing, (100, 50), original_size=(400, 200))
    assert small_hw.any() and not small_hw.all()
    np.testing.assert_array_equal(small_hw, large_hw[2::4, 2::4])


def lightness(colour):
    """OKLab's L of an sRGB colour 0..255 (Ottosson 2020)."""
    c = np.asarray(colour, dtype=np.float64) / 255
    r, g, b = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    lms = np.array([
        0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b,
        0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b,
        0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b,
    ])  # fmt: skip
    return np.array([0.2104542553, 0.7936177850, -0.0040720468]) @ np.cbrt(lms)


def test_more_heat_is_always_brighter_in_even_steps():
    levels = np.array([lightness(c) for c in heat_colours(np.linspace(0, 1, 9, dtype=np.float32))])
    steps = np.diff(levels)
    assert (steps > 0).all()
    assert steps.max() / steps.min() < 1.1
    between = np.array([lightness(c) for c in heat_colours(np.linspace(0, 1, 100, dtype=np.float32))])
    assert (np.diff(between) > 0).all()
