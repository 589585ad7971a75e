"""Cut-outs on contact sheets: the frame is where the box is, and the part below it is that part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.showing.cut_outs import cut_out_sheet, cut_outs
from glasshouse.warehouse.showing.sheet import CELL
from glasshouse.warehouse.showing.thumbnails import Tally


@pytest.fixture
def cut(warehouse: Any) -> Any:
    warehouse.extract("toy:0", [("patch", "blocks.0.resid_post", "patches", "neurons")], "toy")
    warehouse.analyze("examples", embedding="toy", crop=True, n=4, crop_threshold=0.5)
    return warehouse


def test_they_are_the_stored_ones_best_first(cut: Any) -> None:
    rows = cut.sql("FROM examples WHERE feature_id = 3 ORDER BY rank LIMIT 2").to_dicts()
    found = cut_outs(cut, "patch", 3, 2)
    assert [one.image_id for one in found] == [row["image_id"] for row in rows]
    assert [one.box for one in found] == [
        tuple(row[side] for side in ("left", "top", "right", "bottom")) for row in rows
    ]


def test_the_sheet_shows_the_part_in_its_own_pixels(cut: Any) -> None:
    (first, *_) = found = cut_outs(cut, "patch", 3, 4)
    sheet = np.asarray(cut_out_sheet(cut.feature("patch", 3, 4), found))
    part = cut.picture(first.image_id).crop(first.box)
    factor = max(1, CELL // max(part.size))
    large = np.asarray(part.resize((part.width * factor, part.height * factor), Image.Resampling.NEAREST))
    corner = large[:8, :8].reshape(-1, 3)
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (8, 8, 3)).reshape(-1, 8 * 8 * 3)
    assert (windows == corner.ravel()).all(axis=1).any()
    assert (sheet == (223, 41, 83)).all(axis=2).any(), "the frame"


def test_a_picture_that_is_gone_is_counted(cut: Any) -> None:
    found = cut_outs(cut, "patch", 3, 4)
    Path(cut.images()["path"][found[0].image_id]).unlink()
    tally = Tally()
    cut_out_sheet(cut.feature("patch", 3, 4), found, tally)
    assert tally.missing == {found[0].image_id}


def test_without_cut_outs_the_command_is_named(warehouse: Any) -> None:
    warehouse.extract("toy:0", [("patch", "blocks.0.resid_post", "patches", "neurons")], "toy")
    with pytest.raises(UsageError, match="analyze examples --crop --space patch"):
        cut_outs(warehouse, "patch", 3, 4)


def test_the_command_writes_the_sheet(cut: Any, glasshouse: Any, tmp_path: Path) -> None:
    cut.close()
    done = glasshouse("show", "feature", "patch:3", "--crops", "--png", "s.png", "-w", str(cut.root))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.png").is_file()
    refused = glasshouse("show", "feature", "patch:3", "--crops", "-w", str(cut.root))
    assert refused.returncode == 2 and "--png FILE" in refused.stderr


def test_long_lists_of_numbers_are_cut_short_in_text() -> None:
    from glasshouse.warehouse.showing.text import columns_of

    assert columns_of({"image_ids": [4, 5, 6, 7, 8], "x": 0.5, "run_id": 3}) == "image_ids 4, 5, 6, … (5), x 0.5"
    assert columns_of({"image_ids": [4, 5]}) == "image_ids [4, 5]"
