"""Reads the SQL that ships with the package."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def read_sql(name: str) -> str:
    """Return a file of the schema folder, e.g. `space.sql` or `queries/top_images.sql`."""
    return (resources.files("glasshouse.schema") / name).read_text(encoding="utf-8")
