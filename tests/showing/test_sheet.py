"""Contact sheets: they hold every picture, whatever its size, and no text leaves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kit.hostile import HOSTILE_FILE
from PIL import Image

from glasshouse.warehouse.showing.sheet import CELL, drawable, feature_sheet, image_sheet
from glasshouse.warehouse.showing.thumbnails import fit
from glasshouse.warehouse.warehouse import Warehouse


def holds(sheet: Image.Image, picture: Image.Image) -> bool:
    """Say whether a picture is somewhere on a sheet, pixel by pixel; its first row is looked for first."""
    sheet_hwc, wanted_hwc = np.asarray(sheet), np.asarray(picture)
    height, width = wanted_hwc.shape[:2]
    for y, x in np.argwhere((sheet_hwc == wanted_hwc[0, 0]).all(axis=2)):
        if np.array_equal(sheet_hwc[y : y + height, x : x + width], wanted_hwc):
            return True
    return False


def test_every_top_image_is_on_the_sheet_once_plain_and_once_under_its_map(analysed: Warehouse) -> None:
    card = analysed.feature("patches", analysed.space("patches").n_features - 1, k=6)
    sheet = feature_sheet(card)
    assert len(card.top_images) > 2
    for top in card.top_images:
        assert holds(sheet, fit(analysed.picture(top.image_id), CELL)), top
    plain_sheet = feature_sheet(analysed.feature("cls", 0, k=6))
    assert sheet.height > plain_sheet.height  # the maps


def test_an_image_has_its_features_below_it(analysed: Warehouse) -> None:
    card = analysed.image(HOSTILE_FILE, k=3)
    sheet = image_sheet(card)
    assert holds(sheet, fit(analysed.picture(card.image_id), CELL * 2))
    fewer = image_sheet(analysed.image(HOSTILE_FILE, k=1))
    assert fewer.height < sheet.height


def test_a_missing_picture_leaves_a_frame(analysed: Warehouse, tmp_path: Path) -> None:
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    assert feature_sheet(analysed.feature("patches", 0)).size > (0, 0)
    assert image_sheet(analysed.image(0)).size > (0, 0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((64, 64), (192, 192)), ((640, 480), (192, 144)), ((150, 10), (150, 10)), ((5000, 3), (192, 1)),
     ((1, 1), (192, 192))],
)  # fmt: skip
def test_small_pictures_grow_by_whole_factors_and_large_ones_shrink(size, expected):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    shown = fit(picture, 192)
    assert shown.size == expected
    factor = shown.size[0] // size[0]
    if factor > 1:
        np.testing.assert_array_equal(np.asarray(shown)[::factor, ::factor], np.asarray(picture))


def test_letters_that_the_font_lacks():
    assert drawable("café – 3 × 4 \x1b[1m straße") == "cafe - 3 x 4 [1m strasse"
