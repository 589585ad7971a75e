"""The SQL surface: read-only connections with every space attached, and the same views for other DuckDB clients.

A reading connection is opened on the catalogue for as long as one query takes. Space files are immutable, so they are
attached read-only; views over all of them carry the space's name in a column.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from glasshouse.schema.errors import UsageError, WarehouseError
from glasshouse.warehouse.atomic import replacing
from glasshouse.warehouse.catalogue import Catalogue, first_line
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.quoting import identifier, literal
from glasshouse.warehouse.results.views import ResultView, feature_joins, result_statements, result_views, stale_text

CATALOGUE_TABLES = (
    "images",
    "image_paths",
    "failures",
    "rejected_rows",
    "intakes",
    "ratings",
    "captions",
    "image_labels",
    "annotations",
    "spaces",
    "embeddings",
    "runs",
)

# View over all spaces: its columns, and the table of the space file that it reads.
SPACE_VIEWS = {
    "activations": ("image_id INTEGER, feature_id INTEGER, value FLOAT, token USMALLINT", "activations"),
    "token_activations": (
        "image_id INTEGER, token USMALLINT, feature_id INTEGER, value FLOAT",
        "token_activations",
    ),
    "image_top_features": (
        "image_id INTEGER, rank TINYINT, feature_id INTEGER, value FLOAT",
        "image_top_features",
    ),
    "features": (
        "feature_id INTEGER, n_active INTEGER, frequency DOUBLE, mean_active DOUBLE, std_active DOUBLE, "
        "max_value FLOAT, sum_value DOUBLE, sum_squares DOUBLE, n_tokens BIGINT",
        "feature_stats",
    ),
    "feature_histograms": (
        "feature_id INTEGER, bin SMALLINT, lower FLOAT, upper FLOAT, n_images BIGINT",
        "feature_histograms",
    ),
}

KEPT_ONLY = {"feature_histograms"}
"""Views over the spaces that keep the strongest images only; files of others need not have the table."""

RAISED_IN_FUNCTION = "Python exception occurred while executing the UDF: "
"""What DuckDB puts before the class and the message of an error that a Python function raised."""

Prepare = Callable[[duckdb.DuckDBPyConnection], None]


class ReadySpace(NamedTuple):
    """A finalised space and its file; whether it keeps the strongest images of each feature only."""

    name: str
    file: Path
    is_kept: bool = False


def finalised_spaces(connection: duckdb.DuckDBPyConnection, layout: Layout) -> list[ReadySpace]:
    """List the finalised spaces of the catalogue, in the order of their names; a file may be missing."""
    rows = connection.execute(
        "SELECT name, keep IS NOT NULL FROM spaces WHERE state = 'ready' ORDER BY name"
    ).fetchall()
    return [ReadySpace(str(name), layout.space_file(str(name)), is_kept) for name, is_kept in rows]


def _require_files(spaces: Sequence[ReadySpace], layout: Layout) -> None:
    for space in spaces:
        if not space.file.is_file():
            raise WarehouseError(
                f"The file {space.file} of the space '{space.name}' is missing. Put it back, or run "
                f"`glasshouse check --repair -w {layout.root}` to have it extracted again."
            )


@contextmanager
def reading(layout: Layout, prepare: Prepare = lambda connection: None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a read-only connection with every view, closed at the end of the block.

    Args:
        layout: of the warehouse.
        prepare: called with the connection once the views are there, to add functions and macros.
    """
    with Catalogue(layout.root).reading() as connection:
        spaces = finalised_spaces(connection, layout)
        _require_files(spaces, layout)
        results = result_views(connection)
        try:
            for statement in view_statements(spaces, results, "TEMP VIEW"):
                connection.execute(statement)
        except duckdb.Error as error:
            raise WarehouseError(
                f"A space of {layout.root} cannot be read: {first_line(error)} Run `glasshouse check --repair` to have "
                "it extracted again."
            ) from error
        prepare(connection)
        yield connection


def view_statements(
    spaces: Sequence[ReadySpace], results: Sequence[ResultView], kind: str, prefix: str = ""
) -> Iterator[str]:
    """Yield the statements that attach the spaces and define the views over them and over results.

    Args:
        spaces: finalised ones.
        results: of every analyzer.
        kind: `VIEW` or `TEMP VIEW`.
        prefix: the catalogue's name and a dot, or '' where it is the main database.
    """
    for space in spaces:
        yield f"ATTACH IF NOT EXISTS {literal(space.file)} AS {_alias(space)} (READ_ONLY)"
    for view, (columns, table) in SPACE_VIEWS.items():
        names = ", ".join(column.split()[0] for column in columns.split(", "))
        selects = [
            f"SELECT {literal(space.name)} AS space, {names} FROM {_alias(space)}.{table}"
            for space in spaces
            if space.is_kept or view not in KEPT_ONLY
        ]
        text = " UNION ALL ".join(selects) or _empty(columns)
        if view == "features":
            text = _with_results(text, names, results, prefix)
        yield f"CREATE OR REPLACE {kind} {view} AS {text}"
    yield from result_statements(results, kind, prefix)


def _with_results(statistics: str, names: str, results: Sequence[ResultView], prefix: str) -> str:
    """Return the view `features`: statistics, joined with the newest result of every analyzer."""
    taken = ["space", *names.split(", "), "stale"]
    columns, joins = feature_joins(results, taken, prefix)
    listing = ", ".join(["space", names, *columns, f"{stale_text(results, prefix)} AS stale"])
    return f"SELECT {listing} FROM ({statistics}) AS statistics {' '.join(joins)}"


def _alias(space: ReadySpace) -> str:
    return identifier(f"space {space.name}")


def _empty(columns: str) -> str:
    """Return a SELECT without rows but with the columns, for a warehouse without spaces."""
    typed = ", ".join("NULL::{1} AS {0}".format(*column.split()) for column in columns.split(", "))
    return f"SELECT ''::VARCHAR AS space, {typed} WHERE false"


def attach_text(layout: Layout) -> str:
    """Return the script that opens the same views in any DuckDB client: `duckdb -init art.glasshouse/attach.sql`.

    Paths in it are absolute, so it is written anew when the warehouse was moved.
    """
    with Catalogue(layout.root).reading() as connection:
        spaces = [space for space in finalised_spaces(connection, layout) if space.file.is_file()]
        results = result_views(connection)
    statements = [f"ATTACH IF NOT EXISTS {literal(layout.catalogue.resolve())} AS catalog (READ_ONLY)"]
    statements += [f"CREATE OR REPLACE VIEW {table} AS FROM catalog.{table}" for table in CATALOGUE_TABLES]
    resolved = [space._replace(file=space.file.resolve()) for space in spaces]
    statements += view_statements(resolved, results, "VIEW", "catalog.")
    return (
        "-- The views of this warehouse for any DuckDB client, read-only. Written by glasshouse; do not edit.\n"
        "-- While a client has this open, glasshouse cannot write to the catalogue: close it when you are done.\n"
        + "".join(f"{statement};\n" for statement in statements)
    )


def write_attach_sql(layout: Layout) -> Path:
    """Bring `attach.sql` up to date, in one step."""
    text = attach_text(layout)
    if not layout.attach_sql.is_file() or layout.attach_sql.read_text(encoding="utf-8") != text:
        with replacing(layout.attach_sql) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return layout.attach_sql


class Named(NamedTuple):
    """What a query names: tables and views, and columns; `*` among these where it asks for all."""

    tables: set[str]
    columns: set[str]


def names_in(connection: duckdb.DuckDBPyConnection, query: str) -> Named:
    """Return the lower-case names of the tables and columns in a SELECT, those inside subqueries too.

    Raises:
        UsageError: the query is no SELECT, or cannot be parsed.
    """
    rows = connection.execute("SELECT json_serialize_sql($query)::VARCHAR", {"query": query}).fetchall()
    tree = json.loads(rows[0][0])
    if tree.get("error"):
        raise UsageError(f"The query failed. {first_line(ValueError(tree.get('error_message', '')))}")
    named = Named(set(), set())
    _collect_names(tree, named)
    return named


def _collect_names(node: Any, named: Named) -> None:
    if isinstance(node, dict):
        if node.get("type") == "BASE_TABLE":
            named.tables.add(str(node["table_name"]).lower())
        elif node.get("type") == "STAR":
            named.columns.add("*")
        elif node.get("type") == "COLUMN_REF":
            named.columns.add(str(node["column_names"][-1]).lower())
        for child in node.values():
            _collect_names(child, named)
    elif isinstance(node, list):
        for child in node:
            _collect_names(child, named)


def explain(error: Exception) -> str:
    """Turn DuckDB's message about a user's query into one line that says what to do."""
    text = str(error).strip()
    _, raised, ours = text.partition(RAISED_IN_FUNCTION)
    if raised:
        return " ".join(ours.partition(": ")[2].split())
    if "read-only" in text.lower():
        return (
            f"{first_line(error)} Queries only read; change the warehouse with `glasshouse add`, `extract` or `import`."
        )
    if any(sign in text for sign in ("Corrupt database file", "Could not read enough bytes", "checksum")):
        return f"{first_line(error)} `glasshouse check --repair --hashes` finds the damage and has it extracted again."
    # The first paragraph says what is wrong and what was perhaps meant; the rest draws a caret under the query.
    words = " ".join(line.strip() for line in text.split("\n\n")[0].splitlines())
    return words
