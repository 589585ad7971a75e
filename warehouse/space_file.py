"""Opening a space's file as it is on disk now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from glasshouse.warehouse.quoting import literal


def keep_of(connection: duckdb.DuckDBPyConnection) -> int | None:
    """Return how many images the space's file keeps of each feature; None where it keeps all.

    Args:
        connection: on the file. Those of older versions do not say it: they keep all.
    """
    found = connection.execute("FROM space").fetchnumpy()
    said = found["keep"].tolist() if "keep" in found else [None]
    return None if said[0] is None else int(said[0])


@contextmanager
def space_file(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection whose default database is a space's file, read-only.

    Attached, not connected to: DuckDB gives every connection of a process to one path the same database, and a reader
    that is still open on the file that was replaced would hand on the old one's rows.
    """
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH {literal(path)} AS opened (READ_ONLY)")
        connection.execute("USE opened")
        yield connection
