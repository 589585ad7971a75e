"""The one place where names and paths become SQL text. Values are bound; identifiers and ATTACH paths come here."""

from __future__ import annotations

import re
from pathlib import Path

from glasshouse.schema.errors import UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def identifier(name: str) -> str:
    """Quote a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def result_table(analyzer: str) -> str:
    """Quote the name of an analyzer's table in the catalogue."""
    return f"results.{identifier(analyzer)}"


def literal(text: str | Path) -> str:
    """Quote a SQL string literal, for the places where DuckDB takes no bound value (ATTACH, views)."""
    return "'" + str(text).replace("'", "''") + "'"


def check_name(kind: str, name: str) -> str:
    """Return the name of a space or embedding if it can be a file's and a table's name everywhere.

    Raises:
        UsageError: it cannot; the message says what can.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot name {kind}: use lower-case letters, digits, '.', '_' and '-', "
            "starting with a letter or digit, at most 64 characters, e.g. 'l8-cls'."
        )
    return name


def slug(text: str) -> str:
    """Make a valid name out of a spec, e.g. `hf:facebook/dinov2-small` → `hf-facebook-dinov2-small`."""
    return (re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-._") or "unnamed")[:64]
