"""A picture with the boxes of its caption's concepts, their names in the boxes' colours below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from glasshouse.warehouse.showing.plain import figure
from glasshouse.warehouse.showing.sheet import drawable
from glasshouse.warehouse.showing.thumbnails import fit

if TYPE_CHECKING:
    from glasshouse.warehouse.showing.caption import ImageCaption

SIDE = 640
"""Longer side of the picture, in pixels."""
MIN_WIDTH = 480
_MARGIN, _LINE, _TEXT = 16, 24, 16
_COLOURS = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167),
    (146, 73, 0), (86, 60, 170), (90, 90, 90), (190, 20, 60),
)  # fmt: skip
"""Dark enough to be read on white, and told apart with the common kinds of colour blindness; they come again."""


def caption_picture(caption: ImageCaption, picture: Image.Image) -> Image.Image:
    """Return the picture with numbered boxes, and below it the name, region and strength of each.

    Args:
        caption: of the picture.
        picture: RGB, full size.
    """
    small = fit(picture.convert("RGB"), SIDE)
    scale = (small.width / caption.width, small.height / caption.height)
    lines = [
        f"{number}  {concept.name}, {concept.region}, {figure(concept.strength, 2)} of its maximum"
        for number, concept in enumerate(caption.concepts, start=1)
    ] or [caption.sentence]
    width = max(small.width, MIN_WIDTH) + 2 * _MARGIN
    sheet = Image.new("RGB", (width, small.height + 3 * _MARGIN + _LINE * len(lines)), (255, 255, 255))
    sheet.paste(small, (_MARGIN, _MARGIN))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT)
    for place, concept in reversed(list(enumerate(caption.concepts))):
        colour = _COLOURS[place % len(_COLOURS)]
        # Boxes that fall together lie inside each other, so that each can be seen.
        inset = 3 * place
        left, top = (round(concept.box[i] * scale[i]) + _MARGIN + inset for i in (0, 1))
        right, bottom = (round(concept.box[i + 2] * scale[i]) + _MARGIN - 1 - inset for i in (0, 1))
        if right - left < 8 or bottom - top < 8:
            left, top, right, bottom = left - inset, top - inset, right + inset, bottom + inset
        pen.rectangle((left, top, right, bottom), outline=colour, width=3)
        tag = (left, top, left + 11 * len(str(place + 1)) + 8, top + 20)
        pen.rectangle(tag, fill=colour)
        pen.text((left + 4, top + 1), str(place + 1), fill=(255, 255, 255), font=font)
    for row, line in enumerate(lines):
        y = small.height + 2 * _MARGIN + row * _LINE
        colour = _COLOURS[row % len(_COLOURS)] if caption.concepts else (20, 20, 24)
        pen.text((_MARGIN, y), drawable(line)[:90], fill=colour, font=font)
    return sheet
