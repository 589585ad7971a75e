"""Writing a query's result, streamed batch by batch so that size is no matter; a file appears whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from glasshouse.cli.printing import print_table
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    import duckdb

TABLE_ROWS = 1000
"""Rows that the table format shows; more are counted."""

BATCH_ROWS = 100_000


def write_result(result: duckdb.DuckDBPyRelation, format_: str, output: Path | None) -> None:
    """Write a pending result to a file or to stdout.

    Raises:
        UsageError: a binary format would go to a terminal.
    """
    if format_ in ("parquet", "arrow") and output is None and sys.stdout.isatty():
        raise UsageError(f"{format_} is binary and would garble the terminal. Give a file with -o FILE.")
    reader = result.to_arrow_reader(BATCH_ROWS)
    if format_ == "table" and output is None:
        _print(reader)
        return
    with _sink(output) as sink:
        WRITERS[format_](reader, sink)


@contextmanager
def _sink(output: Path | None) -> Iterator[IO[bytes]]:
    """Give a binary file: stdout, or a temporary that takes its name at the end."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    temporary = output.with_name(f".{output.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as sink:
            yield sink
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


def _print(reader: pa.RecordBatchReader) -> None:
    """Print at most TABLE_ROWS rows and count the rest."""
    rows: list[tuple[Any, ...]] = []
    n_rows = 0
    for batch in reader:
        wanted = batch.slice(0, max(0, TABLE_ROWS - n_rows))
        rows.extend(zip(*(column.to_pylist() for column in wanted.columns), strict=True))
        n_rows += batch.num_rows
    print_table(reader.schema.names, rows, numeric=_numeric(reader.schema))
    if n_rows > TABLE_ROWS:
        print(f"… {n_rows - TABLE_ROWS:,} more rows; -o FILE.csv or --format csv writes them all", file=sys.stderr)


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
