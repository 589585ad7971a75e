"""What the columns of a table are, told by their usual names and, where these say nothing, by their values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from glasshouse.schema.errors import SourceError, unknown_name
from glasshouse.warehouse.intake.numbers import BadValueError, parse_number
from glasshouse.warehouse.intake.paths import is_url, looks_like_image
from glasshouse.warehouse.intake.tables import Table

_PATHS = """
    path image_path img_path file_path filepath file file_name filename image_file image_filename image_name
    image img picture photo url image_url img_url image_uri uri
"""
_RATERS = """
    rater rater_id participant participant_id subject subject_id user user_id worker worker_id annotator
    annotator_id judge
"""

PATH_COLUMNS = tuple(_PATHS.split())
"""Usual names of a column of paths, file names or URLs, the clearest first."""

KEY_COLUMNS = (
    *PATH_COLUMNS,
    *("image_id", "img_id", "imageid", "stimulus", "stimulus_id", "id", "key", "stem", "sha256", "hash", "name"),
)
"""Usual names of a column that says which picture a row is about."""

DIMENSION_COLUMNS = ("dimension", "dim", "scale", "question", "rating_type", "measure", "variable", "attribute")
VALUE_COLUMNS = ("value", "rating", "score", "response", "answer")
RATER_COLUMNS = tuple(_RATERS.split())
ATTRIBUTE_COLUMNS = ("attribute", "attribute_name", "dimension", "variable", "label_type")
LABEL_VALUE_COLUMNS = ("value", "attribute_value", "label", "label_value")
CAPTION_COLUMNS = ("caption", "captions", "text", "description", "sentence", "prompt", "title")

_NUMBERED_CAPTION = re.compile(r"(?:caption|text|description|sentence)_?\d+")
_INDEX_COLUMN = re.compile(r"column_\d+|unnamed:_\d+|index|row|row_number")
_N_LOOKED_AT = 200


def find(columns: Sequence[str], names: Iterable[str]) -> int | None:
    """Return the position of the first of `names` that is a column; case, spaces and dashes do not count."""
    known = [plain(column) for column in columns]
    return next((known.index(name) for name in names if name in known), None)


def plain(column: str) -> str:
    """Write a column's name as the tuples above do: `Image Path` and `image-path` become `image_path`."""
    return re.sub(r"[\s\-.]+", "_", column.strip().casefold())


def image_column(name: str, table: Table, usual: Sequence[str], wanted: str | None) -> int:
    """Return the position of the column that names the pictures.

    Args:
        name: the table's name, for messages.
        table: the table.
        usual: usual names, the clearest first.
        wanted: the user's choice, if any.

    Raises:
        UsageError: there is no column `wanted`.
        SourceError: no column has a usual name, and not exactly one holds paths.
    """
    if wanted is not None:
        position = table.columns.index(wanted) if wanted in table.columns else find(table.columns, [plain(wanted)])
        if position is None:
            raise unknown_name(f"column in {name} called", wanted, table.columns)
        return position
    position = find(table.columns, usual)
    if position is not None:
        return position
    holding = [position for position in range(len(table.columns)) if _holds_paths(table, position)]
    if len(holding) == 1:
        return holding[0]
    several = "several columns hold paths" if holding else "no column has a usual name (image, path, file_name, …)"
    raise SourceError(
        f"{name} does not say which column names the images: {several}. "
        f"Its columns are {', '.join(table.columns)}; choose with --image-column NAME."
    )


def numeric_columns(table: Table, leave_out: Iterable[int]) -> tuple[list[int], list[int]]:
    """Split the columns but `leave_out` into those of numbers and those of text.

    Numbers are the columns where at least half of the values that are not missing are numbers. Columns called like
    an index or a key are neither.
    """
    numbers: list[int] = []
    texts: list[int] = []
    for position, column in enumerate(table.columns):
        if position in leave_out or _INDEX_COLUMN.fullmatch(plain(column)) or plain(column) in KEY_COLUMNS:
            continue
        n_numbers, n_texts = _count_numbers(table, position)
        (numbers if n_numbers >= n_texts else texts).append(position)
    return numbers, texts


def caption_columns(name: str, table: Table, key: int) -> list[int]:
    """Return the column of captions, or the numbered ones, or the only column beside the key.

    Raises:
        SourceError: none can be told.
    """
    position = find(table.columns, CAPTION_COLUMNS)
    if position is not None and position != key:
        return [position]
    numbered = [at for at, column in enumerate(table.columns) if _NUMBERED_CAPTION.fullmatch(plain(column))]
    others = [at for at in range(len(table.columns)) if at != key]
    if numbered:
        return numbered
    if len(others) == 1:
        return others
    raise SourceError(
        f"{name} has no column of captions. Its columns are {', '.join(table.columns)}; call one of them 'caption'."
    )


def label_columns(table: Table, key: int) -> list[int]:
    """Return every column that is neither the key nor an index."""
    names = enumerate(table.columns)
    return [at for at, name in names if at != key and not _INDEX_COLUMN.fullmatch(plain(name))]


def _holds_paths(table: Table, position: int) -> bool:
    cells = [cells[position] for _, cells in zip(range(_N_LOOKED_AT), _good_cells(table), strict=False)]
    filled = [cell for cell in cells if cell.strip()]
    return bool(filled) and sum(is_url(cell) or looks_like_image(cell) for cell in filled) * 2 > len(filled)


def _good_cells(table: Table) -> Iterable[list[str]]:
    return (cells for _, cells in table.good_rows())


def _count_numbers(table: Table, position: int) -> tuple[int, int]:
    n_numbers = n_texts = 0
    for cells in _good_cells(table):
        try:
            n_numbers += parse_number(table.number_text(cells[position])) is not None
        except BadValueError:
            n_texts += 1
    return n_numbers, n_texts
