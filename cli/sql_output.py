"""Writing a query's result, streamed batch by batch so that size is no matter; a file appears whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from glasshouse.cli.output_file import check_output, writing
from glasshouse.cli.printing import print_table
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.atomic import replacing
from glasshouse.warehouse.surface import explain

if TYPE_CHECKING:
    import duckdb

TABLE_ROWS = 1000
"""Rows that the table format shows; more are counted."""

BATCH_ROWS = 100_000


def write_result(result: duckdb.DuckDBPyRelation, format_: str, output: Path | None) -> None:
    """Write a pending result to a file or to stdout.

    Raises:
        UsageError: a binary format would go to a terminal; the query fails on its way.
    """
    if format_ in ("parquet", "arrow") and output is None and sys.stdout.isatty():
        raise UsageError(f"{format_} is binary and would garble the terminal. Give a file with -o FILE.")
    if format_ == "table" and output is None:
        _print(_readable(result.limit(TABLE_ROWS + 1).to_arrow_reader(BATCH_ROWS)))
        return
    reader = _readable(result.to_arrow_reader(BATCH_ROWS))
    with _sink(output) as sink:
        WRITERS[format_](reader, sink)


def _readable(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Make a result one that every format can hold: columns named once, and text for what has no common form."""
    names: list[str] = []
    for name in reader.schema.names:
        fresh, n = name, 0
        while fresh in names:
            n += 1
            fresh = f"{name}_{n}"
        names.append(fresh)
    kinds = [pa.string() if _is_exotic(field.type) else field.type for field in reader.schema]
    schema = pa.schema([pa.field(name, kind) for name, kind in zip(names, kinds, strict=True)])

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for batch in reader:
                columns = [
                    column if column.type == kind else pa.array([_as_text(v) for v in column.to_pylist()], kind)
                    for column, kind in zip(batch.columns, kinds, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=schema)
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"The query failed. {explain(error)}") from error

    return pa.RecordBatchReader.from_batches(schema, batches())


def _is_exotic(kind: pa.DataType) -> bool:
    """Say whether a type has no form in CSV, JSON or Parquet: bytes, bits, intervals."""
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_interval(kind)
        or isinstance(kind, pa.BaseExtensionType)
    )


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, pa.MonthDayNano):
        return f"{value.months} months {value.days} days {value.nanoseconds / 1e9:g} seconds"
    return value.hex() if isinstance(value, bytes) else str(value)


@contextmanager
def _sink(output: Path | None) -> Iterator[IO[bytes]]:
    """Give a binary file: stdout, or a temporary that takes its name at the end."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    check_output(output, "result.csv")
    with writing(output), replacing(output) as temporary, temporary.open("wb") as sink:
        yield sink


def _print(reader: pa.RecordBatchReader) -> None:
    """Print at most TABLE_ROWS rows; the query is not run further than it takes to know that there are more."""
    rows = [row for batch in reader for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)]
    print_table(reader.schema.names, rows[:TABLE_ROWS], numeric=_numeric(reader.schema))
    if len(rows) > TABLE_ROWS:
        print(f"… more than {TABLE_ROWS:,} rows; -o FILE.csv or --format csv writes them all", file=sys.stderr)


def _numeric(schema: pa.Schema) -> list[str]:
    return [
        field.name
        for field in schema
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
    ]


def _write_table(reader: pa.RecordBatchReader, sink: IO[bytes]) -> None:
    """Write the same columns as on the terminal, all rows, as tab-separated text."""
    from glasshouse.cli.printing import cell

    sink.write(("\t".join(reader.schema.names) + "\n").encode())
    for batch in reader:
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            sink.write(("\t".join(cell(value) for value in row) + "\n").encode())


def _write_csv(reader: pa.RecordBatchReader, sink: IO[bytes]) -> None:
    """Write CSV; nested values, which CSV has no form for, as JSON."""
    import polars as pl

    header = True
    for batch in _batches(reader):
        frame = pl.from_arrow(batch)
        assert_frame = frame if isinstance(frame, pl.DataFrame) else frame.to_frame()
        sink.write(_flat(assert_frame).write_csv(include_header=header).encode())
        header = False


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """Yield at least one batch, so that an empty result still has its header."""
    n_batches = 0
    for batch in reader:
        n_batches += 1
        yield batch
    if n_batches == 0:
        yield pa.RecordBatch.from_pylist([], schema=reader.schema)


def _flat(frame: Any) -> Any:
    """Turn list and struct columns into JSON text."""
    import json

    import polars as pl

    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    return frame.with_columns(
        pl.Series(name, [None if v is None else json.dumps(v, default=str) for v in frame[name].to_list()], pl.String)
        for name in nested
    )


def _write_json(reader: pa.RecordBatchReader, sink: IO[bytes]) -> None:
    """Write one array of objects, one object a line; NaN and infinities become null, which is all JSON has for them."""
    import polars as pl

    separator = b"[\n"
    for batch in reader:
        frame = pl.from_arrow(batch)
        lines = (frame if isinstance(frame, pl.DataFrame) else frame.to_frame()).write_ndjson().encode()
        if batch.num_rows:
            sink.write(separator + b",\n".join(lines.splitlines()))
            separator = b",\n"
    sink.write(b"\n]\n" if separator == b",\n" else b"[]\n")


def _write_parquet(reader: pa.RecordBatchReader, sink: IO[bytes]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(sink, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


def _write_arrow(reader: pa.RecordBatchReader, sink: IO[bytes]) -> None:
    with pa.ipc.new_file(sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


WRITERS: dict[str, Callable[[pa.RecordBatchReader, IO[bytes]], None]] = {
    "table": _write_table,
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
    "arrow": _write_arrow,
}
