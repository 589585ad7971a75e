"""A picture with the boxes of its caption's concepts, their names in the boxes' colours below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from glasshouse.warehouse.showing.plain import figure
from glasshouse.warehouse.showing.sheet import drawable
from glasshouse.warehouse.showing.thumbnails import fit

if TYPE_CHECKING:
    from glasshouse.warehouse.showing.caption import ImageCaption

SIDE = 640
"""Longer side of the picture, in pixels."""
MIN_WIDTH = 480
Tag = tuple[int, int, int, int]
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
        f"{number}  {concept.short_name}, {concept.region}, {figure(concept.strength, 2)} of its maximum"
        for number, concept in enumerate(caption.concepts, start=1)
    ] or [caption.sentence]
    pen, font = ImageDraw.Draw(small), ImageFont.load_default(_TEXT)
    lines = [drawable(line) for line in lines]
    longest = int(np.ceil(max(pen.textlength(line, font) for line in lines)))
    width = max(small.width, MIN_WIDTH, longest) + 2 * _MARGIN
    sheet = Image.new("RGB", (width, small.height + 3 * _MARGIN + _LINE * len(lines)), (255, 255, 255))
    sheet.paste(small, (_MARGIN, _MARGIN))
    pen = ImageDraw.Draw(sheet)
    corners = {}
    for place, concept in reversed(list(enumerate(caption.concepts))):
        colour = _COLOURS[place % len(_COLOURS)]
        # Boxes that fall together lie inside each other, so that each can be seen.
        inset = 3 * place
        left, top = (round(concept.box[i] * scale[i]) + _MARGIN + inset for i in (0, 1))
        right, bottom = (round(concept.box[i + 2] * scale[i]) + _MARGIN - 1 - inset for i in (0, 1))
        if right - left < 8 or bottom - top < 8:
            left, top, right, bottom = left - inset, top - inset, right + inset, bottom + inset
        pen.rectangle((left, top, right, bottom), outline=colour, width=3)
        corners[place] = (left, top)
    tags: list[Tag] = []
    for place in range(len(caption.concepts)):
        size = (11 * len(str(place + 1)) + 8, 20)
        tags.append(free_tag(corners[place], size, tags, (_MARGIN + small.width, _MARGIN + small.height)))
        pen.rectangle(tags[-1], fill=_COLOURS[place % len(_COLOURS)])
        pen.text((tags[-1][0] + 4, tags[-1][1] + 1), str(place + 1), fill=(255, 255, 255), font=font)
    for row, line in enumerate(lines):
        y = small.height + 2 * _MARGIN + row * _LINE
        colour = _COLOURS[row % len(_COLOURS)] if caption.concepts else (20, 20, 24)
        pen.text((_MARGIN, y), line, fill=colour, font=font)
    return sheet


def free_tag(corner: tuple[int, int], size: tuple[int, int], taken: Sequence[Tag], end: tuple[int, int]) -> Tag:
    """Return where a tag of a size stands: at a corner, or beside it to the right or below where others stand there.

    Args:
        corner: left and top of its box.
        size: width and height of the tag.
        taken: left, top, right, bottom of the other tags.
        end: right and bottom of the picture.
    """
    width, height = size
    for top in range(corner[1], max(end[1] - height, corner[1] + 1), height + 2):
        for left in range(corner[0], max(end[0] - width, corner[0] + 1), width + 2):
            tag = (left, top, left + width, top + height)
            if not any(
                left <= other[2] and other[0] <= tag[2] and top <= other[3] and other[1] <= tag[3] for other in taken
            ):
                return tag
    return (*corner, corner[0] + width, corner[1] + height)
