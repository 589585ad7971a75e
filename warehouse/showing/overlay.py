"""A token map laid over the picture that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from glasshouse.warehouse.showing.framing import grid_box

_HEAT_COLOURS = (
    (27, 2, 80), (70, 4, 107), (121, 8, 117), (174, 16, 109), (223, 41, 83),
    (252, 93, 41), (253, 155, 63), (253, 203, 104), (254, 247, 141),
)  # fmt: skip
"""Indigo to pale yellow, cold to hot: lightness in OKLab rises in equal steps, so that more is always brighter."""

_OPACITY = 0.75
"""Of the hottest places, so that what is there can still be made out; of colder ones times heat to the power .75."""

_DIMMED = 0.35
"""Brightness that is left where the encoder does not see the picture."""


def heat_overlay(
    picture: Image.Image,
    map_hw: npt.ArrayLike,
    framing: Mapping[str, Any] | None,
    *,
    maximum: float | None = None,
    original_size: tuple[int, int] | None = None,
) -> Image.Image:
    """Return the picture with a token map over the part that the encoder saw; the rest is dimmed.

    Args:
        picture: RGB.
        map_hw: activations ≥ 0 over the token grid [rows, columns].
        framing: how the encoder cuts pictures, as stored with the space; None: it sees the whole picture.
        maximum: the activation that is drawn hottest; by default the map's largest. Give one to several pictures to
            make them comparable.
        original_size: width and height of the original, where `picture` is a smaller copy of it.
    """
    heat_hw, seen_hw = heat_of(map_hw, framing, picture.size, maximum=maximum, original_size=original_size)
    pixels_hwc = np.asarray(picture.convert("RGB"), dtype=np.float32)
    alpha_hw1 = (_OPACITY * heat_hw**0.75)[..., None]
    out_hwc = pixels_hwc * (1 - alpha_hw1) + heat_colours(heat_hw) * alpha_hw1
    out_hwc[~seen_hw] = pixels_hwc[~seen_hw] * np.float32(_DIMMED)
    return Image.fromarray(np.round(out_hwc).astype(np.uint8))


def heat_of(
    map_hw: npt.ArrayLike,
    framing: Mapping[str, Any] | None,
    size: tuple[int, int],
    *,
    maximum: float | None = None,
    original_size: tuple[int, int] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return a token map in the pixels of a picture: heat 0..1 [height, width], and which pixels the encoder saw.

    Bilinear between the centres of the tokens; beyond the outermost centres their values go on. `size` is width and
    height of the picture that is drawn; the rest is as of `heat_overlay`.
    """
    tokens_hw = np.nan_to_num(np.asarray(map_hw, dtype=np.float32))
    top_value = float(tokens_hw.max(initial=0.0)) if maximum is None else maximum
    scaled_hw = np.clip(tokens_hw / top_value, 0, 1) if top_value > 0 else np.zeros_like(tokens_hw)
    width, height = original_size or size
    left, top, right, bottom = grid_box(framing, width, height)
    x_weights_wc, x_seen_w = axis_weights(size[0], width, left, right, tokens_hw.shape[1])
    y_weights_hr, y_seen_h = axis_weights(size[1], height, top, bottom, tokens_hw.shape[0])
    return y_weights_hr @ scaled_hw @ x_weights_wc.T, y_seen_h[:, None] & x_seen_w[None, :]


def axis_weights(
    n_pixels: int, original: int, start: float, end: float, n_cells: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return bilinear weights of the cells for each pixel [pixels, cells] along one axis, and which lie in the box."""
    centres_p = (np.arange(n_pixels) + 0.5) * original / n_pixels
    places_p = (centres_p - start) / (end - start) * n_cells - 0.5
    seen_p = (centres_p >= start) & (centres_p < end)
    places_p = np.clip(places_p, 0, n_cells - 1)
    weights_pc = np.maximum(0, 1 - np.abs(places_p[:, None] - np.arange(n_cells)[None, :]))
    return weights_pc.astype(np.float32), seen_p


def heat_colours(heat: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the colour of each heat 0..1, as RGB 0..255 on a new last axis."""
    table_c3 = np.array(_HEAT_COLOURS, dtype=np.float32)
    places = np.linspace(0, 1, len(table_c3))
    return np.stack([np.interp(heat, places, table_c3[:, c]).astype(np.float32) for c in range(3)], axis=-1)
