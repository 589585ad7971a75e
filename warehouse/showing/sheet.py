"""Contact sheets: a feature's strongest images, or an image with its strongest features, as one picture.

Pillow's own font is drawn, so that a sheet looks the same everywhere. It has the letters of ASCII: accents are left
out, other scripts show as boxes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from glasshouse.schema.plain import plain
from glasshouse.warehouse.showing.cards import FeatureCard, ImageCard, StrongFeature
from glasshouse.warehouse.showing.plain import activation, figure
from glasshouse.warehouse.showing.text import activity, rating_words
from glasshouse.warehouse.showing.thumbnails import Tally, Thumbnail, Thumbnails

CELL = 192
"""Longer side of a picture on a sheet, in pixels; three times the starter world's."""

N_COLUMNS = 5
_MARGIN, _GAP, _LINE = 24, 12, 6
_TITLE, _TEXT, _SMALL = 28, 17, 14
_PAPER, _INK, _GREY = (255, 255, 255), (20, 20, 24), (105, 105, 115)
_MIN_WIDTH = 760
_CLOSE = str.maketrans({"×": "x", "–": "-", "—": "-", "−": "-", "’": "'", "ß": "ss", "ø": "o", "æ": "ae"})


class Line(NamedTuple):
    """One line of text above the pictures."""

    text: str
    size: int = _TEXT
    colour: tuple[int, int, int] = _INK


class Cell(NamedTuple):
    """Pictures one below the other, and the lines under them; the first line is the darker one."""

    pictures: Sequence[Thumbnail]
    captions: Sequence[str]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def feature_sheet(card: FeatureCard, tally: Tally | None = None) -> Image.Image:
    """Return a feature's contact sheet: in patch spaces each picture has its heat map below it, on one scale.

    Pictures are counted in `tally`.
    """
    thumbnails = Thumbnails(card.warehouse, CELL, tally)
    thumbnails.prepare(top.image_id for top in card.top_images)
    has_maps = card.warehouse.space(card.space).grid is not None
    cells = []
    for top in card.top_images:
        shown = [thumbnails.of(top.image_id)]
        if has_maps and shown[0].image is not None:
            heat = thumbnails.heat(card.space, card.feature_id, top.image_id, card.statistics["max_value"])
            shown.append(heat)
        cells.append(Cell(shown, (activation(top.value), top.path.rsplit("/", 1)[-1])))
    return drawn_sheet(feature_lines(card), cells_in_rows(cells, N_COLUMNS))


def feature_lines(card: FeatureCard) -> list[Line]:
    """Return what stands above a feature's pictures: its name, scores and correlations."""
    title = f"{card.label}   {card.name}" if card.label else card.name
    scores = [f"tier {row['tier']} {row.get('tier_name') or ''}" for row in card.rows("tiers") if row.get("tier")]
    for row in card.rows("monosemanticity"):
        if row.get("ms") is not None:
            scores.append(f"MS {row['ms']:.3f} {row.get('ms_class') or ''} ({row.get('variant') or 'top'})")
    for row in card.rows("label_score"):
        if row.get("auc") is not None:
            scores.append(f"label AUC {row['auc']:.2f}")
    lines = [Line(title, _TITLE), Line("   ".join([activity(card), *scores]))]
    tested = [row for row in card.correlations if row.get("r") is not None and not row.get("covariates")][:4]
    if tested:
        words = (f"{row.get('dimension')} {row['r']:+.2f} (q {figure(row.get('q'), 2)})" for row in tested)
        lines.append(Line("correlation:  " + "   ".join(words), _TEXT, _GREY))
    if card.is_stale:
        lines.append(Line("some of these results are stale", _TEXT, _GREY))
    return lines


def image_sheet(card: ImageCard, n_features: int = 5, n_examples: int = 4, tally: Tally | None = None) -> Image.Image:
    """Return an image with what is known of it, and its strongest features with images where they are stronger.

    Pictures are counted in `tally`.
    """
    large = Thumbnails(card.warehouse, CELL * 2, tally)
    record = card.record
    lines = [
        Line(card.path.rsplit("/", 1)[-1], _TITLE),
        Line(f"image {card.image_id}   {record['width']} × {record['height']} pixels", _TEXT, _GREY),
        *(Line(caption) for caption in card.captions[:3]),
        *(Line(rating_words(row), _TEXT, _GREY) for row in card.ratings[:6]),
    ]
    rows = [[Cell([large.of(card.image_id)], ())]]
    small = Thumbnails(card.warehouse, CELL * 2 // 3, tally)
    for space, features in card.features.items():
        rows += [_feature_row(card, small, space, f, n_examples) for f in features[:n_features]]
    return drawn_sheet(lines, rows)


def _feature_row(card: ImageCard, small: Thumbnails, space: str, strong: StrongFeature, n_examples: int) -> list[Cell]:
    """Return one feature's row: where it is on this image, and images on which it is strongest."""
    words = (f"{space}:{strong.feature_id}   {activation(strong.value)}", strong.label or "")
    here = small.heat(space, strong.feature_id, card.image_id, None)
    cells = [Cell([here], words)]
    for row in card.warehouse.top_images(space, strong.feature_id, n_examples).iter_rows(named=True):
        shown = small.heat(space, strong.feature_id, row["image_id"], None)
        cells.append(Cell([shown], (activation(row["value"]), str(row["path"]).rsplit("/", 1)[-1])))
    return cells


def cells_in_rows(cells: Sequence[Cell], n_columns: int) -> list[list[Cell]]:
    """Return cells in rows of `n_columns`."""
    return [list(cells[i : i + n_columns]) for i in range(0, len(cells), n_columns)]


def drawn_sheet(lines: Sequence[Line], rows: Sequence[Sequence[Cell]]) -> Image.Image:
    """Draw lines of text above rows of pictures; columns are as wide as the widest picture in any of them."""
    side = max((_size(t)[0] for row in rows for cell in row for t in cell.pictures), default=CELL)
    column = max((_size(t)[0] for row in rows for cell in row for t in cell.pictures if len(row) > 1), default=side)
    n_columns = max((len(row) for row in rows), default=1)
    width = max(_MIN_WIDTH, 2 * _MARGIN + n_columns * (column + _GAP) - _GAP, 2 * _MARGIN + side)
    wrapped = [Line(part, line.size, line.colour) for line in lines for part in _wrap(line, width - 2 * _MARGIN)]
    height = 2 * _MARGIN + sum(line.size + _LINE for line in wrapped) + sum(_row_height(row) + _GAP for row in rows)
    sheet = Image.new("RGB", (width, height + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    y = _MARGIN
    for line in wrapped:
        pen.text((_MARGIN, y), line.text, fill=line.colour, font=_font(line.size))
        y += line.size + _LINE
    y += _GAP
    for row in rows:
        _draw_row(sheet, pen, row, y, column if len(row) > 1 else side)
        y += _row_height(row) + _GAP
    return sheet


def _size(thumbnail: Thumbnail) -> tuple[int, int]:
    return (CELL * 2 // 3, CELL // 2) if thumbnail.image is None else thumbnail.image.size


def _slots(row: Sequence[Cell]) -> list[int]:
    """Return the height of each layer of pictures of a row: heat maps stand beside heat maps."""
    n_layers = max((len(cell.pictures) for cell in row), default=0)
    layers = ([_size(cell.pictures[i])[1] for cell in row if i < len(cell.pictures)] for i in range(n_layers))
    return [max(heights) for heights in layers]


def _row_height(row: Sequence[Cell]) -> int:
    lines = max((len(cell.captions) for cell in row), default=0)
    return sum(height + _LINE for height in _slots(row)) + lines * (_SMALL + _LINE)


def _draw_row(sheet: Image.Image, pen: ImageDraw.ImageDraw, row: Sequence[Cell], y: int, column: int) -> None:
    """Draw a row from `y` down: pictures stand on the line below them, captions begin at one height."""
    for layer, height in enumerate(_slots(row)):
        y += height
        for i, cell in enumerate(row):
            if layer < len(cell.pictures):
                _draw_picture(sheet, pen, cell.pictures[layer], _MARGIN + i * (column + _GAP), y)
        y += _LINE
    for i, cell in enumerate(row):
        for n, caption in enumerate(cell.captions):
            text = _cut(drawable(caption), _SMALL, column)
            place = (_MARGIN + i * (column + _GAP), y + n * (_SMALL + _LINE))
            pen.text(place, text, fill=_GREY if n else _INK, font=_font(_SMALL))


def _draw_picture(sheet: Image.Image, pen: ImageDraw.ImageDraw, thumbnail: Thumbnail, x: int, bottom: int) -> None:
    width, height = _size(thumbnail)
    if thumbnail.image is not None:
        sheet.paste(thumbnail.image, (x, bottom - height))
        return
    pen.rectangle((x, bottom - height, x + width - 1, bottom - 1), outline=_GREY)
    pen.text((x + 8, bottom - height + 8), "picture\nnot there", fill=_GREY, font=_font(_SMALL))


def drawable(text: str) -> str:
    """Return a text with what the font lacks replaced where something close is there."""
    apart = unicodedata.normalize("NFKD", plain(text).translate(_CLOSE))
    return "".join(c for c in apart if not unicodedata.combining(c))


def _length(text: str, size: int) -> float:
    return _font(size).getlength(text)


def _cut(text: str, size: int, width: int) -> str:
    """Return a text that fits, its start left out where it is too long: the ends of file names tell them apart."""
    if _length(text, size) <= width:
        return text
    while text and _length(f"…{text}", size) > width:
        text = text[1:]
    return f"…{text}"


def _wrap(line: Line, width: int) -> list[str]:
    """Break a line between words, and within a word that is longer than the sheet is wide; at most three lines."""
    lines, current = [], ""
    for word in drawable(line.text).split(" "):
        trial = f"{current} {word}" if current else word
        if current and _length(trial, line.size) > width:
            lines.append(current)
            trial = word
        while _length(trial, line.size) > width:
            n_fit = next(n for n in range(len(trial), 0, -1) if n == 1 or _length(trial[:n], line.size) <= width)
            lines.append(trial[:n_fit])
            trial = trial[n_fit:]
        current = trial
    return [*lines, current][:3]
