"""Where a token grid lies on a picture, against what the real preprocessing does with marked pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.plugins.manager import Plugins
from glasshouse.schema.errors import ModelError
from glasshouse.warehouse.showing.framing import Box, grid_box, seen_box
from glasshouse.warehouse.warehouse import Warehouse

PADDED = 255


def coordinates(width: int, height: int) -> Image.Image:
    """Return a picture that says where each pixel is: red is its column, green its row."""
    pixels_hwc = np.zeros((height, width, 3), dtype=np.uint8)
    pixels_hwc[..., 0] = np.arange(width)[None, :]
    pixels_hwc[..., 1] = np.arange(height)[:, None]
    return Image.fromarray(pixels_hwc)


@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(20, 200),
    height=st.integers(20, 200),
    resize=st.sampled_from(["none", "squash", "shortest", "fill", "fit"]),
    resize_to=st.tuples(st.integers(16, 60), st.integers(16, 60)),
    crop_to=st.none() | st.tuples(st.integers(16, 60), st.integers(16, 60)),
    crop_rounding=st.sampled_from(["round", "floor"]),
)
def test_every_pixel_that_the_encoder_sees_comes_from_where_the_box_says(width, height, **rule):
    transform = ImageTransform(
        **rule, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1), fill_color=(0, 0, PADDED), rescale=1.0
    )
    seen_chw = transform(coordinates(width, height)).numpy()
    n_rows, n_columns = seen_chw.shape[1:]
    box = grid_box(transform.framing, width, height)
    x_w = box.left + (np.arange(n_columns) + 0.5) / n_columns * (box.right - box.left)
    y_h = box.top + (np.arange(n_rows) + 0.5) / n_rows * (box.bottom - box.top)
    outside_hw = ~(((y_h > 0) & (y_h < height))[:, None] & ((x_w > 0) & (x_w < width))[None, :])
    np.testing.assert_array_equal(seen_chw[2] == PADDED, outside_hw)
    # At the picture's edges the filter has neighbours on one side only; 1.5 pixels of the encoder's cover that.
    for channel, places in ((0, np.broadcast_to(x_w, outside_hw.shape)), (1, y_h[:, None] + 0 * x_w)):
        step = 0.51 + 0.75 * (x_w[1] - x_w[0] if channel == 0 else y_h[1] - y_h[0])
        assert np.abs(seen_chw[channel] + 0.5 - places)[~outside_hw].max() <= step


@pytest.mark.parametrize(
    ("framing", "expected"),
    [
        (None, (0, 0, 300, 200)),
        ({"resize": "squash", "resize_to": [64, 64]}, (0, 0, 300, 200)),
        ({"resize": "shortest", "resize_to": [100, 100], "crop_to": [100, 100]}, (50, 0, 250, 200)),
        ({"resize": "shortest", "resize_to": [100, 100], "crop_to": [50, 50]}, (100, 50, 200, 150)),
        ({"resize": "none", "resize_to": [9, 9], "crop_to": [100, 100]}, (100, 50, 200, 150)),
    ],
)
def test_boxes_by_hand(framing: Any, expected: Any) -> None:
    assert seen_box(framing, 300, 200) == Box(*expected) == grid_box(framing, 300, 200)


def test_padding_lies_outside_the_grid_but_not_outside_what_is_seen() -> None:
    framing = {"resize": "fit", "resize_to": [100, 100], "crop_to": [100, 100], "crop_rounding": "round"}
    assert grid_box(framing, 400, 200) == Box(0, -100, 400, 300)
    assert seen_box(framing, 400, 200) == Box(0, 0, 400, 200)


@pytest.mark.parametrize(
    "framing",
    [
        {}, {"resize": "stretch", "resize_to": [1, 1]}, {"resize": "squash", "resize_to": [1]},
        {"resize": "squash", "resize_to": [0, 4]}, {"resize": "squash", "resize_to": "ab"},
        {"resize": "squash", "resize_to": [4, 4], "crop_rounding": "up"}, "squash",
    ],
)  # fmt: skip
def test_what_is_no_framing_is_refused(framing: Any) -> None:
    with pytest.raises(ModelError, match="is no framing"):
        grid_box(framing, 10, 10)


def test_a_space_remembers_how_its_encoder_cuts_pictures(tmp_path: Path) -> None:
    warehouse = Warehouse.create(tmp_path / "w.glasshouse", Plugins(external=False))
    write_pictures(tmp_path / "pictures", 3)
    warehouse.add([tmp_path / "pictures"])
    encoder = warehouse.plugins.load_encoder("starter:clip")
    warehouse.extract(encoder, [("cls", encoder.hook_points()[0].name, "cls", "neurons")])
    framing = json.loads(warehouse.spaces()["framing"][0])
    assert framing == json.loads(json.dumps(encoder.transform.framing))
    assert set(framing) == {"resize", "resize_to", "crop_to", "crop_rounding"}
    assert warehouse.space("cls").framing == framing


def test_an_encoder_that_does_not_say_it_leaves_it_open(warehouse: Warehouse) -> None:
    warehouse.extract("toy:0", [("cls", "blocks.1.resid_post", "cls", "neurons")])
    assert warehouse.spaces()["framing"].to_list() == [None]
    assert warehouse.space("cls").framing is None


def test_a_wrong_framing_is_refused_before_anything_is_extracted(warehouse: Warehouse, toy_encoder_class: Any) -> None:
    encoder = toy_encoder_class("0")
    encoder.framing = {"resize": "somehow"}
    with pytest.raises(ModelError, match="is no framing"):
        warehouse.extract(encoder, [("cls", "blocks.1.resid_post", "cls", "neurons")])
    assert warehouse.spaces().height == 0
