"""How results look on stdout: aligned text for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from glasshouse.schema.plain import plain


def print_json(value: Any) -> None:
    """Print a value as indented JSON; dates and paths become text."""
    click.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Iterable[str] = ()) -> None:
    """Print rows under headings, numbers to the right; as wide as the terminal, or as it takes in a pipe."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    right = set(numeric)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(Text(plain(column)), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        # Text, never markup: what a caption or a path says must not be read as formatting.
        table.add_row(*(Text(cell(value)) for value in row))
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, soft_wrap=not sys.stdout.isatty()).print(table)


def cell(value: Any) -> str:
    """Return a value as a table shows it: floats with five digits, nothing for NULL."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, (list, dict)):
        return plain(json.dumps(value, default=str, ensure_ascii=False))
    # A caption or a label may hold what a terminal takes as a command.
    return plain(str(value).replace("\n", "↵"))


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 image`, `2,000 images`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
