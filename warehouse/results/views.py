"""SQL text of the views over results: one per analyzer, and what the view `features` shows of each.

Made from the catalogue alone, so that results can be read where the plugin that made them is not installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import duckdb

from glasshouse.warehouse.quoting import identifier, result_table


class ResultView(NamedTuple):
    """What the views of one analyzer are made from: its table, and the runs that count."""

    analyzer: str
    columns: list[str]
    in_features: list[str]
    strongest: str | None
    is_incremental: bool
    latest: list[int]
    """The newest run of each space and facets; every run where runs add to each other."""
    newest: list[int]
    """The newest run of each space whatever its facets; every run where runs add to each other."""


def result_views(connection: duckdb.DuckDBPyConnection) -> list[ResultView]:
    """Return what the catalogue knows of result tables, in the order in which analyzers were first run."""
    # Sorted out here and not by the view `latest_runs`: this is part of every query, and takes a quarter of the time.
    runs = connection.execute("SELECT analyzer, space, facets::VARCHAR, run_id FROM runs ORDER BY run_id").fetchall()
    tables = connection.execute(
        "SELECT analyzer, columns::VARCHAR, in_features::VARCHAR, strongest, is_incremental FROM result_tables"
    ).fetchall()
    views = []
    for analyzer, columns, in_features, strongest, incremental in tables:
        own = [run[1:] for run in runs if run[0] == analyzer]
        if incremental:
            latest = newest = [run_id for *_, run_id in own]
        else:
            latest = sorted({(space, facets): run_id for space, facets, run_id in own}.values())
            newest = sorted({space: run_id for space, _, run_id in own}.values())
        names = [name for name, _ in json.loads(columns)]
        views.append(ResultView(analyzer, names, json.loads(in_features), strongest, incremental, latest, newest))
    return sorted(views, key=lambda view: min(view.latest, default=0))


def view_text(view: ResultView, prefix: str) -> str:
    """Return the SELECT of an analyzer's view; `prefix` is the catalogue's name and a dot, or ''."""
    rows = _rows(view, view.latest, prefix, by_facets=True)
    columns = ", ".join(identifier(name) for name in view.columns)
    return f"SELECT space, {columns}, run_id, run_id IN (SELECT run_id FROM {prefix}stale_runs) AS stale FROM {rows}"


def _rows(view: ResultView, runs: Sequence[int], prefix: str, *, by_facets: bool) -> str:
    """Return the rows that count, as a parenthesised SELECT."""
    table = f"{prefix}{result_table(view.analyzer)}"
    chosen = f"SELECT * FROM {table} WHERE run_id IN ({', '.join(map(str, runs)) or 'NULL'})"
    if not view.is_incremental:
        return f"({chosen}) AS rows"
    facets = f", (SELECT any_value(facets) FROM {prefix}runs AS r WHERE r.run_id = c.run_id)" if by_facets else ""
    window = f"max(run_id) OVER (PARTITION BY space, feature_id{facets})"
    return f"(SELECT * FROM ({chosen}) AS c QUALIFY run_id = {window}) AS rows"


def feature_joins(views: Sequence[ResultView], taken: Sequence[str], prefix: str) -> tuple[list[str], list[str]]:
    """Return the columns that `features` gets from results, and the joins that bring them.

    Args:
        views: of all analyzers.
        taken: names of columns that `features` has already; a column of the same name gets its analyzer's in front.
        prefix: the catalogue's name and a dot, or ''.
    """
    columns, joins, known = [], [], set(taken)
    for view in views:
        if not view.in_features or "feature_id" not in view.columns:
            continue
        alias = _alias(view)
        for column in view.in_features:
            name = column if column not in known else f"{view.analyzer}_{column}"
            known.add(name)
            columns.append(f"{alias}.{identifier(column)} AS {identifier(name)}")
        joins.append(f"LEFT JOIN ({_one_row_each(view, prefix)}) AS {alias} USING (space, feature_id)")
    return columns, joins


def _one_row_each(view: ResultView, prefix: str) -> str:
    """Return a SELECT with one row for each space and feature, and the run that it comes from."""
    rows = _rows(view, view.newest, prefix, by_facets=False)
    names = [identifier(column) for column in (*view.in_features, "run_id")]
    if view.strongest is None:
        return f"SELECT space, feature_id, {', '.join(names)} FROM {rows}"
    packed = ", ".join(f"{name} := {name}" for name in names)
    best = f"arg_max(struct_pack({packed}), abs({identifier(view.strongest)}))"
    return f"SELECT space, feature_id, unnest({best}) FROM {rows} GROUP BY space, feature_id"


def stale_text(views: Sequence[ResultView], prefix: str) -> str:
    """Return the expression of the column `stale` of `features`: whether a result that the row shows is stale."""
    shown = [_alias(view) for view in views if view.in_features and "feature_id" in view.columns]
    runs = ", ".join(f"{alias}.run_id" for alias in shown)
    return f"list_has_any([{runs}]::INTEGER[], (SELECT coalesce(list(run_id), []) FROM {prefix}stale_runs))"


def _alias(view: ResultView) -> str:
    return identifier(f"result {view.analyzer}")


def result_statements(views: Sequence[ResultView], kind: str, prefix: str) -> Iterator[str]:
    """Yield the statements that define the analyzers' views; `kind` is `VIEW` or `TEMP VIEW`."""
    for view in views:
        yield f"CREATE OR REPLACE {kind} {identifier(view.analyzer)} AS {view_text(view, prefix)}"
