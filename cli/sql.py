"""`glasshouse sql`: ask the warehouse."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from glasshouse.cli.options import open_warehouse, warehouse_option
from glasshouse.schema.errors import UsageError

FORMATS = ("table", "csv", "json", "parquet", "arrow")


@click.command()
@click.argument("query", required=False)
@click.option("-f", "--file", "file", type=click.Path(exists=True, dir_okay=False), help="Read the query from a file.")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="By default that of -o's ending, else table.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file instead of stdout.")
@click.option("-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A value for $NAME in the query.")
@warehouse_option
def sql(
    query: str | None,
    file: str | None,
    format_: str | None,
    output: Path | None,
    params: tuple[str, ...],
    warehouse: str | None,
) -> None:
    """Ask the warehouse in SQL.

    Runs QUERY (DuckDB's SQL; `-` reads it from stdin) on read-only connections and prints its result.

    Tables: images, image_paths, ratings, captions, image_labels, annotations, failures, rejected_rows, intakes,
    spaces, embeddings; and over all spaces, with a column `space`: activations, token_activations,
    image_top_features, features, feature_histograms.

    Example: glasshouse sql "SELECT feature_id, n_active FROM features WHERE space = 'cls' ORDER BY 2 DESC LIMIT 5"
    """
    from glasshouse.cli.sql_output import write_result

    text = _query_text(query, file)
    chosen = format_ or format_of(output)
    with open_warehouse(warehouse).querying(text, dict(_parameter(param) for param in params)) as result:
        write_result(result, chosen, output)


def _query_text(query: str | None, file: str | None) -> str:
    if (query is None) == (file is None):
        raise UsageError("Give a query, or a file of one with -f; `-` as the query reads stdin.")
    text = Path(file).read_text(encoding="utf-8") if file else (sys.stdin.read() if query == "-" else str(query))
    if not text.strip():
        raise UsageError("The query is empty.")
    return text


def format_of(output: Path | None, advice: str = f"Say which with --format ({', '.join(FORMATS)}).") -> str:
    """Return the format that a file's ending names.

    Raises:
        UsageError: it names none; the message ends with `advice`.
    """
    if output is None:
        return "table"
    ending = output.suffix.lower().removeprefix(".")
    known = {"txt": "table", "feather": "arrow", "ipc": "arrow", **{name: name for name in FORMATS}}
    if ending not in known:
        raise UsageError(f"The ending of {output} names no format. {advice}")
    return known[ending]


def _parameter(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; plain decimal numbers are numbers, all else (`007` too) is text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--param takes NAME=VALUE, not '{text}'.")
    if re.fullmatch(r"-?(0|[1-9]\d*)", value):
        return name, int(value)
    if re.fullmatch(r"-?(0|[1-9]\d*)\.\d+", value):
        return name, float(value)
    return name, value
