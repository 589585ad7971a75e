"""A segmented picture as one PNG: classes in colours over it, and a legend with the strongest concepts.

Pillow's own font is drawn, as on contact sheets: it has the letters of ASCII.
"""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from glasshouse.plugins.segmentation.one import BACKGROUND, Segmented
from glasshouse.plugins.segmentation.pixels import NOWHERE, UNKNOWN
from glasshouse.schema.plain import plain

SHOWN = 768
"""Longer side of the picture in the drawing, in pixels, at least about that for small ones."""

_OPACITY, _DIMMED, _FADED = 0.55, 0.35, 0.6
_PAPER, _INK, _GREY = (255, 255, 255), (20, 20, 24), (105, 105, 115)
_LINE, _SMALL, _MARGIN, _BOX = 18, 14, 16, 18
_LEGEND = 360
_GOLDEN = 0.61803398875
Colour = tuple[int, int, int]


def colour_of(number: int) -> Colour:
    """Return the colour of a class: hues as far apart as they can be, whatever their number, in two lightnesses."""
    red, green, blue = colorsys.hls_to_rgb((0.02 + number * _GOLDEN) % 1, 0.5 if number % 2 else 0.6, 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def drawing(found: Segmented) -> Image.Image:
    """Return the picture with its classes in colours, background paler, unseen parts dimmed; the legend beside it."""
    overlay = _shown(_coloured(found))
    lines = _legend_lines(found)
    height = max(overlay.height + 2 * _MARGIN, sum(step for *_, step in lines) + 2 * _MARGIN)
    sheet = Image.new("RGB", (overlay.width + 3 * _MARGIN + _LEGEND, height), _PAPER)
    sheet.paste(overlay, (_MARGIN, _MARGIN))
    draw = ImageDraw.Draw(sheet)
    left, top = overlay.width + 2 * _MARGIN, _MARGIN
    for text, size, ink, colour, step in lines:
        if colour is not None:
            draw.rectangle((left, top, left + _BOX, top + _BOX), fill=colour, outline=_GREY)
        draw.text((left + _BOX + 8, top), _fitting(text, size), fill=ink, font=ImageFont.load_default(size))
        top += step
    return sheet


def _coloured(found: Segmented) -> Image.Image:
    pixels_hwc = np.asarray(found.picture.convert("RGB"), dtype=np.float32)
    palette = np.array([colour_of(i) for i in range(len(found.parts))], dtype=np.float32).reshape(-1, 3)
    out_hwc = pixels_hwc.copy()
    classed_hw = found.class_hw >= 0
    out_hwc[classed_hw] = pixels_hwc[classed_hw] * (1 - _OPACITY) + palette[found.class_hw[classed_hw]] * _OPACITY
    nowhere_hw, unseen_hw = found.class_hw == NOWHERE, found.class_hw == UNKNOWN
    out_hwc[nowhere_hw] = pixels_hwc[nowhere_hw] * (1 - _FADED) + 255 * _FADED
    out_hwc[unseen_hw] = pixels_hwc[unseen_hw] * _DIMMED
    return Image.fromarray(np.round(out_hwc).astype(np.uint8))


def _shown(overlay: Image.Image) -> Image.Image:
    """Bring a picture to the size of the drawing; small ones by whole pixels, so that they stay sharp."""
    longer = max(overlay.size)
    if longer > SHOWN:
        return overlay.resize(
            (max(1, overlay.width * SHOWN // longer), max(1, overlay.height * SHOWN // longer)),
            Image.Resampling.LANCZOS,
        )
    factor = max(1, SHOWN // longer)
    return overlay.resize((overlay.width * factor, overlay.height * factor), Image.Resampling.NEAREST)


def _legend_lines(found: Segmented) -> list[tuple[str, int, Colour, Colour | None, int]]:
    """Return text, size, ink, colour of the box, and height of each line; classes that cover most come first."""
    lines: list[tuple[str, int, Colour, Colour | None, int]] = []
    order = sorted(range(len(found.parts)), key=lambda i: -found.parts[i].area)
    there = [i for i in order if found.parts[i].area > 0]
    for i in there:
        part = found.parts[i]
        lines.append((f"{part.name}   {part.area:.1%}", _LINE, _INK, colour_of(i), _LINE + 8))
        for concept in part.concepts[:3]:
            name = f"{found.space}:{concept.feature_id}" + (f"  {concept.label}" if concept.label else "")
            lines.append((f"{concept.share:.0%}  {name}", _SMALL, _GREY, None, _SMALL + 4))
        text, size, ink, colour, step = lines.pop()
        lines.append((text, size, ink, colour, step + 8))
    if found.background_area > 0:
        faded: Colour = (235, 235, 235)
        lines.append((f"{BACKGROUND}   {found.background_area:.1%}", _LINE, _INK, faded, _LINE + 16))
    if len(there) < len(order):
        nowhere = ", ".join(found.parts[i].name for i in order[len(there) :])
        lines.append((f"nowhere: {nowhere}", _SMALL, _GREY, None, _SMALL + 8))
    if found.seen < 1:
        lines.append((f"dark: {1 - found.seen:.0%} of the picture is not seen", _SMALL, _GREY, None, _SMALL + 8))
    return lines


def _fitting(text: str, size: int) -> str:
    """Shorten a line to the legend's width."""
    text = plain(text).encode("ascii", "replace").decode()
    longest = int((_LEGEND - _BOX - 8) / (size * 0.55))
    return text if len(text) <= longest else text[: longest - 3] + "..."
