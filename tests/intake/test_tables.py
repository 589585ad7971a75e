"""Tables as people write them. The references are the cells the tests wrote the files from."""

from __future__ import annotations

import io
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.intake.numbers import BadValueError, parse_number
from glasshouse.warehouse.intake.tables import BrokenRow, Table, decode_text, parse_delimited, read_table


def cells_of(table: Table) -> list[list[str]]:
    assert not any(isinstance(cells, BrokenRow) for _, cells in table.rows), table.rows
    assert [number for number, _ in table.rows] == list(range(1, len(table.rows) + 1))
    return [cells for _, cells in table.good_rows()]


def written(rows: list[list[str]], delimiter: str, line_end: str, quote_all: bool) -> str:
    """Write delimited text cell by cell (RFC 4180), not with the csv module, which the reader uses."""

    def cell(text: str) -> str:
        needs_quotes = quote_all or text == "" or any(mark in text for mark in (delimiter, '"', "\r", "\n"))
        return '"' + text.replace('"', '""') + '"' if needs_quotes else text

    return "".join(delimiter.join(map(cell, row)) + line_end for row in rows)


CELL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\ufeff"), max_size=12)
TEXTS = CELL | st.sampled_from(["", " ", 'a "b"', "x,y", "x;y", "x\ty", "two\nlines", "a\r\nb", "\r", "3,5", "'"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    n_columns = draw(st.integers(2, 5))
    header = [f"column_{position}_{draw(st.sampled_from('abc'))}" for position in range(n_columns)]
    rows = draw(st.lists(st.lists(TEXTS, min_size=n_columns, max_size=n_columns), max_size=8))
    return header, rows


@settings(max_examples=200, deadline=None)
@given(
    tables(),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.booleans(),
)
def test_what_was_written_is_read(
    content: tuple[list[str], list[list[str]]], delimiter: str, line_end: str, encoding: str, quote_all: bool
) -> None:
    header, rows = content
    data = written([header, *rows], delimiter, line_end, quote_all).encode(encoding)
    table = read_table("t.csv", data)
    assert table.columns == header
    assert cells_of(table) == rows
    assert table.has_decimal_comma == (delimiter == ";")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_a_table_or_one_clear_error(text: str) -> None:
    try:
        table = parse_delimited(text)
    except SourceError as error:
        assert str(error)
        return
    assert all(
        (isinstance(cells, BrokenRow) and cells.reason) or len(cells) == len(table.columns) for _, cells in table.rows
    )


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_one_clear_error(data: bytes) -> None:
    try:
        read_table("t.csv", data)
    except SourceError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\r\r\n", "\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks(line_end: str, mark: str) -> None:
    text = mark + line_end.join(["image,beauty", "a.jpg,3", "b.jpg,4"])
    assert cells_of(read_table("t.csv", text.encode())) == [["a.jpg", "3"], ["b.jpg", "4"]]


def test_utf16_with_its_mark_and_windows_1252() -> None:
    assert decode_text("Größe".encode("utf-16")) == "Größe"
    assert decode_text("Größe".encode("cp1252")) == "Größe"
    assert decode_text(b"\x81 is nothing in cp1252") == "\x81 is nothing in cp1252"
    with pytest.raises(SourceError, match="null bytes"):
        decode_text(b"a\0b", "t.csv")


def test_ragged_rows_are_kept_with_their_reason() -> None:
    table = parse_delimited("image,a,b\nx.jpg,1\ny.jpg,1,2\nz.jpg,1,2,3\n\nw.jpg,1,2,,\n")
    assert table.rows[0] == (1, BrokenRow("x.jpg, 1", "the row has 2 cells, the header has 3 columns"))
    assert table.rows[1] == (2, ["y.jpg", "1", "2"])
    assert table.rows[2] == (3, BrokenRow("z.jpg, 1, 2, 3", "the row has 4 cells, the header has 3 columns"))
    assert table.rows[3] == (4, ["w.jpg", "1", "2"])


def test_an_unclosed_quote_costs_its_own_row_only() -> None:
    table = parse_delimited('image,note\na.jpg,fine\nb.jpg,"open\nc.jpg,fine\nd.jpg,"really ""fine"""\n')
    assert [number for number, cells in table.rows if isinstance(cells, BrokenRow)] == [2]
    assert "closing quote" in table.rows[1][1].reason or "never closed" in table.rows[1][1].reason
    assert table.rows[2:] == [(3, ["c.jpg", "fine"]), (4, ["d.jpg", 'really "fine"'])]


def test_inches_in_unquoted_cells_are_no_quotes() -> None:
    assert cells_of(parse_delimited('image,size\na.jpg,5" x 7"\n')) == [["a.jpg", '5" x 7"']]


def test_columns_are_trimmed_unique_and_named() -> None:
    table = parse_delimited(" image ,a,a,,b,,\n1,2,3,4,5,,\n")
    assert table.columns == ["image", "a", "a (2)", "column 4", "b"]
    assert cells_of(table) == [["1", "2", "3", "4", "5"]]


def test_the_delimiter_is_the_one_that_fits_the_rows() -> None:
    semicolons = "image;beauty\na, b and c.jpg;3,5\nd.jpg;4,0\n"
    assert cells_of(parse_delimited(semicolons)) == [["a, b and c.jpg", "3,5"], ["d.jpg", "4,0"]]
    commas = "image,caption\na.jpg,one; two; three\n"
    assert cells_of(parse_delimited(commas)) == [["a.jpg", "one; two; three"]]
    assert cells_of(parse_delimited("image\na.jpg\nb.jpg\n")) == [["a.jpg"], ["b.jpg"]]


def test_decimal_commas_count_in_semicolon_files_only() -> None:
    semicolons, commas = parse_delimited("a;b\n1;2\n"), parse_delimited("a,b\n1,2\n")
    assert [semicolons.number_text(text) for text in ("3,5", " -,5 ", "1.234,5", "a,b")] == [
        "3.5",
        " -.5 ",
        "1.234,5",
        "a,b",
    ]
    assert commas.number_text("3,5") == "3,5"


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_table_is_an_error(data: bytes) -> None:
    with pytest.raises(SourceError, match="is empty"):
        read_table("t.csv", data)


def test_parquet_comes_as_text() -> None:
    table = pa.table(
        {
            "image": ["a.jpg", None],
            "beauty": [1.5, math.nan],
            "count": pa.array([3, None], pa.int32()),
            "seen": [True, False],
            "pixels": [b"\0", b"\1"],
            "tags": [["x"], []],
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    read = read_table("t.parquet", buffer.getvalue())
    assert read.columns == ["image", "beauty", "count", "seen"]
    assert cells_of(read) == [["a.jpg", "1.5", "3", "true"], ["", "nan", "", "false"]]


def test_a_broken_parquet_file_is_one_clear_line() -> None:
    for data in (b"PAR1 and then nothing", b"not at all"):
        with pytest.raises(SourceError, match=r"^t\.parquet is not a Parquet file") as caught:
            read_table("t.parquet", data)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "number"),
    [("3", 3.0), (" 3.50 ", 3.5), ("-1e-3", -0.001), (".5", 0.5), ("5.", 5.0), ("+2", 2.0), ("1E5", 1e5)],
)
def test_numbers(text: str, number: float) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize("text", ["", "  ", "NA", "nan", "NaN", "null", "NULL", "-", "None", "n/a", "#N/A"])
def test_missing_values(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize("text", ["abc", "3,5", "1_000", "inf", "-inf", "1e999", "٣", "0x10", "3 5", "3%", "--", "."])
def test_anything_else_is_no_number(text: str) -> None:
    with pytest.raises(BadValueError):
        parse_number(text)


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_python_writes_is_read_back(number: float) -> None:
    assert parse_number(repr(number)) == number
