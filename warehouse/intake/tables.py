"""Reading tables as text: CSV, TSV and their kin as people really write them, and Parquet.

Everything comes out as text, so that the one who knows what a column means decides what is a number. Rows are
numbered from 1, the header and blank lines not counted. A row that does not fit the header is handed out with its
reason instead of its cells.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from glasshouse.schema.errors import SourceError

DELIMITERS = (",", ";", "\t")
TABLE_EXTENSIONS = frozenset({".csv", ".tsv", ".tab", ".txt", ".parquet", ".pq"})

_DECIMAL_COMMA = re.compile(r"^\s*[+-]?\d*,\d+\s*$")
_N_SNIFFED = 50


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """A row that does not fit the header: its text, shortened, and why."""

    text: str
    reason: str


@dataclass(frozen=True)
class Table:
    """A table in memory.

    Attributes:
        columns: trimmed names, unique: a second `x` is called `x (2)`, an empty name `column N`.
        rows: (row number, cells in the order of `columns`), or (row number, why it cannot be read).
        has_decimal_comma: True for semicolon files, where `3,5` may be a number.
    """

    columns: list[str]
    rows: list[tuple[int, list[str] | BrokenRow]]
    has_decimal_comma: bool = False

    def good_rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows that fit the header."""
        for number, cells in self.rows:
            if not isinstance(cells, BrokenRow):
                yield number, cells

    def number_text(self, cell: str) -> str:
        """Return the cell with a decimal point where the file uses a decimal comma."""
        if self.has_decimal_comma and _DECIMAL_COMMA.match(cell):
            return cell.replace(",", ".")
        return cell


def read_table(name: str, data: bytes) -> Table:
    """Read a table from the bytes of a file called `name`.

    Raises:
        SourceError: empty, no text, or no Parquet.
    """
    if data[:4] == b"PAR1" or name.lower().endswith((".parquet", ".pq")):
        return _read_parquet(name, data)
    table = parse_delimited(decode_text(data, name))
    if not table.columns:
        raise SourceError(f"{name} is empty. A table starts with a line that names its columns.")
    return table


def decode_text(data: bytes, name: str = "the file") -> str:
    """Turn bytes into text: by byte order mark, else UTF-8, else Windows-1252.

    Raises:
        SourceError: the bytes are no text (null bytes).
    """
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    if b"\0" in data[:4096]:
        raise SourceError(f"{name} is no text: it holds null bytes. Save the table as CSV (UTF-8) or Parquet.")
    for encoding in ("utf-8", "cp1252"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def parse_delimited(text: str, delimiter: str | None = None) -> Table:
    r"""Parse delimited text with a header; `delimiter` is sniffed among comma, semicolon and tab when not given.

    Lines may end in \n, \r\n or \r; quoted cells may hold delimiters, doubled quotes and line ends.
    """
    lines = io.StringIO(text, newline="").readlines()
    delimiter = delimiter or sniff_delimiter(lines)
    records = _records(lines, delimiter)
    header = next((cells for cells in records if cells != []), None)
    if header is None:
        return Table([], [])
    if isinstance(header, BrokenRow):
        raise SourceError(f"The header of the table cannot be read: {header.reason}.")
    columns = _column_names(header)
    filled = (cells for cells in records if cells != [])
    rows = [(number, _fitted(cells, len(columns))) for number, cells in enumerate(filled, start=1)]
    return Table(columns, rows, has_decimal_comma=delimiter == ";")


def sniff_delimiter(lines: Sequence[str]) -> str:
    """Return the delimiter that splits the header and the most of the first rows into equally many cells."""
    best, best_score = ",", (0, 0)
    for delimiter in DELIMITERS:
        records = _records(lines[: 4 * _N_SNIFFED], delimiter)
        filled = [cells for cells in _first(records, _N_SNIFFED) if cells != []]
        widths = [0 if isinstance(cells, BrokenRow) else len(cells) for cells in filled]
        if not widths or widths[0] < 2:
            continue
        score = (sum(width == widths[0] for width in widths), widths[0])
        if score > best_score:
            best, best_score = delimiter, score
    return best


def _first(records: Iterator[list[str] | BrokenRow], n: int) -> Iterator[list[str] | BrokenRow]:
    for _, record in zip(range(n), records, strict=False):
        yield record


def _records(lines: Sequence[str], delimiter: str) -> Iterator[list[str] | BrokenRow]:
    """Yield rows; after a quote that goes wrong, go on with the line after the one where its row began.

    A quote that is opened and never closed would otherwise swallow the rest of the file.
    """
    start = 0
    limit = csv.field_size_limit()
    while start < len(lines):
        rest = map(lines.__getitem__, range(start, len(lines)))
        reader = csv.reader(rest, delimiter=delimiter, strict=True)
        n_read = 0
        try:
            for cells in reader:
                n_read = reader.line_num
                yield cells
            return
        except csv.Error as error:
            start += n_read
            reason = _csv_reason(str(error), limit)
            yield BrokenRow(lines[start].strip()[:200], reason)
            start += 1


def _csv_reason(message: str, limit: int) -> str:
    if "unexpected end" in message:
        return "a quote is opened and never closed"
    if "expected after" in message:
        return "text follows a closing quote"
    if "field larger" in message:
        return f"a cell is longer than {limit:,} characters; is a quote not closed?"
    return message


def _fitted(cells: list[str] | BrokenRow, n_columns: int) -> list[str] | BrokenRow:
    """Check the number of cells; empty ones too many at the end are what spreadsheets leave behind."""
    if isinstance(cells, BrokenRow) or len(cells) == n_columns:
        return cells
    if len(cells) > n_columns and not any(cell.strip() for cell in cells[n_columns:]):
        return cells[:n_columns]
    return BrokenRow(
        ", ".join(cells)[:200],
        f"the row has {len(cells)} cells, the header has {n_columns} columns",
    )


def _column_names(header: Sequence[str]) -> list[str]:
    """Trim names and make them unique; only empty ones at the end are left out."""
    names: list[str] = []
    n_named = max((position for position, cell in enumerate(header, start=1) if cell.strip()), default=1)
    for position, cell in enumerate(header[:n_named], start=1):
        base = cell.strip() or f"column {position}"
        name, count = base, 1
        while name in names:
            count += 1
            name = f"{base} ({count})"
        names.append(name)
    return names


def _read_parquet(name: str, data: bytes) -> Table:
    """Read the scalar columns of a Parquet file; nested ones and bytes cannot be keys or values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{name} is not a Parquet file that can be read: {str(error).splitlines()[0]}") from error
    kept = [field.name for field in table.schema if not (pa.types.is_nested(field.type) or _is_bytes(field.type))]
    columns = [[_cell(value) for value in table[column].to_pylist()] for column in kept]
    cells = zip(*columns, strict=True) if columns else iter(())
    return Table(_column_names(kept), [(number, list(row)) for number, row in enumerate(cells, start=1)])


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
