"""Tables (CSV, TSV, Parquet): pictures by a column of paths or URLs, ratings, captions and labels.

Ratings are long (image, dimension, value and perhaps rater) or wide (a column for each dimension); labels likewise.
A table that is added itself brings pictures only, since nothing says what its other columns mean.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from pathlib import Path

from glasshouse.plugins import hookimpl
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.sources import columns as known
from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.intake.opening import read_source
from glasshouse.warehouse.intake.paths import absolute, choose_root, extension, is_url, likely_roots
from glasshouse.warehouse.intake.records import (
    CaptionRecord,
    ImageRecord,
    Kind,
    LabelRecord,
    MissingRecord,
    NoteRecord,
    PlainFile,
    RatingRecord,
    ReadOptions,
    Record,
    RejectedRecord,
    Source,
    Url,
)
from glasshouse.warehouse.intake.tables import TABLE_EXTENSIONS, BrokenRow, Table, read_table


class TableSource:
    """A table with one row, or several, for each picture."""

    summary = ".csv, .tsv, .txt and .parquet: pictures by path or URL, ratings, captions, labels"

    def claims(self, path: str) -> bool:
        """Claim files called like a table."""
        return extension(path) in TABLE_EXTENSIONS and not Path(path).is_dir()

    def read(self, path: str, want: frozenset[str], options: ReadOptions) -> Iterator[Record]:
        """Yield the pictures the table lists, or its ratings, captions or labels."""
        if want == {"annotations"}:
            raise SourceError(f"{path} is a table; annotations come as COCO JSON (.json).")
        table = read_table(path, read_source(path))
        if "images" in want:
            yield from _images(path, table, options)
            return
        for kind, read in _READERS.items():
            if kind in want:
                key = known.image_column(path, table, known.KEY_COLUMNS, options.image_column)
                yield from _broken_rows(table, kind)
                yield from read(path, table, key)


def _broken_rows(table: Table, kind: Kind) -> Iterator[Record]:
    """Yield the rows that do not fit the header, and those that are all empty."""
    for number, cells in table.rows:
        if isinstance(cells, BrokenRow):
            yield RejectedRecord(kind, cells.text, cells.reason, number)
        elif _is_empty(cells):
            yield MissingRecord(kind, number)


def _is_empty(cells: list[str]) -> bool:
    return not any(map(str.strip, cells))


def _filled(table: Table) -> Iterator[tuple[int, list[str]]]:
    return ((number, cells) for number, cells in table.good_rows() if not _is_empty(cells))


def _images(path: str, table: Table, options: ReadOptions) -> Iterator[Record]:
    """Yield pictures in the order of the rows; relative paths start where most of them are found."""
    key = known.image_column(path, table, known.PATH_COLUMNS, options.image_column)
    names = [cells[key].strip().replace("\\", "/") for _, cells in _filled(table)]
    local = [name for name in names if not is_url(name)]
    if options.image_root is not None:
        root = absolute(options.image_root)
    else:
        root = choose_root(local, likely_roots(posixpath.dirname(path), Path(path).stem))
    for number, cells in table.rows:
        if isinstance(cells, BrokenRow):
            yield RejectedRecord("images", f"{path} row {number}", f"{cells.reason}: {cells.text}", number)
        elif not _is_empty(cells):
            yield _image(path, cells[key], root, number)


def _image(table_path: str, cell: str, root: str, number: int) -> Record:
    name = cell.strip()
    if not name:
        return RejectedRecord("images", f"{table_path} row {number}", "the row names no image", number)
    if is_url(name):
        address = absolute(name)
        return ImageRecord(address, Url(address) if is_url(address) else PlainFile(address))
    for spelling in (cell, name, name.replace("\\", "/")):
        file = absolute(posixpath.join(root, spelling))
        if _exists(file):
            break
    return ImageRecord(file, PlainFile(file))


def _exists(file: str) -> bool:
    try:
        return Path(file).exists()
    except (OSError, ValueError):  # too long a name, a null character
        return False


def _ratings(path: str, table: Table, key: int) -> Iterator[Record]:
    dimension = known.find(table.columns, known.DIMENSION_COLUMNS)
    value = known.find(table.columns, known.VALUE_COLUMNS)
    rater = known.find(table.columns, known.RATER_COLUMNS)
    if dimension is not None and value is not None:
        for number, cells in _filled(table):
            who = cells[rater] if rater is not None else ""
            yield RatingRecord(cells[key], cells[dimension], who, table.number_text(cells[value]), number)
        return
    numbers, texts = known.numeric_columns(table, {key} | ({rater} if rater is not None else set()))
    if not numbers:
        raise SourceError(
            f"{path} has no ratings: beside '{table.columns[key]}' no column holds numbers. Give a column for each "
            f"dimension, or the columns image, dimension and value. Its columns are {', '.join(table.columns)}."
        )
    for position in texts:
        name = table.columns[position]
        yield NoteRecord(f"{path}: column '{name}' holds text and was not read as ratings.")
    for number, cells in _filled(table):
        who = cells[rater] if rater is not None else ""
        for position in numbers:
            text = table.number_text(cells[position])
            yield RatingRecord(cells[key], table.columns[position], who, text, number)


def _captions(path: str, table: Table, key: int) -> Iterator[Record]:
    positions = known.caption_columns(path, table, key)
    for number, cells in _filled(table):
        for position in positions:
            yield CaptionRecord(cells[key], cells[position], number)


def _labels(path: str, table: Table, key: int) -> Iterator[Record]:
    attribute = known.find(table.columns, known.ATTRIBUTE_COLUMNS)
    value = known.find(table.columns, known.LABEL_VALUE_COLUMNS)
    if attribute is not None and value is not None:
        for number, cells in _filled(table):
            yield LabelRecord(cells[key], cells[attribute], cells[value], number)
        return
    positions = known.label_columns(table, key)
    if not positions:
        raise SourceError(f"{path} has no labels: '{table.columns[key]}' is its only column.")
    for number, cells in _filled(table):
        for position in positions:
            yield LabelRecord(cells[key], table.columns[position], cells[position], number)


_READERS: dict[Kind, Callable[[str, Table, int], Iterator[Record]]] = {
    "ratings": _ratings,
    "captions": _captions,
    "labels": _labels,
}


@hookimpl
def register_sources(register: Register[Source]) -> None:
    """Register tables."""
    register("table", TableSource())
