"""Writes and compares the golden schema: what an empty warehouse's catalogue and an empty space look like."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import duckdb

from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.catalogue import migrate

GOLDEN = Path(__file__).with_name("golden.sql")


def describe(connection: duckdb.DuckDBPyConnection) -> str:
    """Return every table's statement and columns, in the order of names."""
    tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE NOT temporary ORDER BY 1").fetchall()
    parts = []
    for (table,) in tables:
        columns = connection.execute(
            "SELECT column_name, data_type, is_nullable FROM duckdb_columns() WHERE table_name = $table "
            "ORDER BY column_index",
            {"table": table},
        ).fetchall()
        keys = connection.execute(
            "SELECT constraint_text FROM duckdb_constraints() WHERE table_name = $table "
            "AND constraint_type IN ('PRIMARY KEY', 'UNIQUE') ORDER BY 1",
            {"table": table},
        ).fetchall()
        lines = [f"    {name} {kind}{'' if nullable else ' NOT NULL'}" for name, kind, nullable in columns]
        lines += [f"    {text}" for (text,) in keys]
        parts.append(f"{table} (\n" + "\n".join(lines) + "\n)\n")
    return "\n".join(parts)


def catalogue_schema(path: Path) -> str:
    """Return the schema of a catalogue file."""
    with duckdb.connect(str(path), read_only=True) as connection:
        return describe(connection)


def space_schema() -> str:
    """Return the schema of a space file."""
    with duckdb.connect() as connection:
        connection.execute(read_sql("space.sql"))
        return describe(connection)


def current() -> str:
    """Return the whole golden text as it is now."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.duckdb"
        migrate(path)
        return f"-- catalog.duckdb\n\n{catalogue_schema(path)}\n-- spaces/<space>.duckdb\n\n{space_schema()}"


if __name__ == "__main__":
    GOLDEN.write_text(current(), encoding="utf-8")
    sys.stdout.write(f"wrote {GOLDEN}\n")
