"""Writing and finding runs. A run's record, rows and inputs are committed together, its vectors before them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from glasshouse.schema.errors import PluginError
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse import surface
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.quoting import identifier, result_table
from glasshouse.warehouse.results.inputs import current_input
from glasshouse.warehouse.results.records import Input, Request, ResultTable, Run, as_json
from glasshouse.warehouse.results.vectors import VECTOR_COLUMN, drop_vectors, write_vectors


@dataclass(frozen=True)
class Outcome:
    """What a run computed: its rows, everything it read, and what it noted. `duration_s` in seconds."""

    rows: pa.Table
    inputs: Sequence[Input]
    started_at: datetime
    duration_s: float
    seed: int | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


def all_runs(catalogue: Catalogue) -> list[Run]:
    """Return every run, oldest first."""

    def read() -> list[Run]:
        with catalogue.reading() as connection:
            rows = connection.execute(read_sql("queries/runs.sql")).fetchall()
            living = _living(connection)
        runs = [_run(row) for row in rows]
        return [replace(run, is_latest=True) if run.run_id in living else run for run in runs]

    return list(catalogue.remembered("runs", read))


def _living(connection: duckdb.DuckDBPyConnection) -> set[int]:
    """Return the runs that add to others and of which some row still counts."""
    analyzers = connection.execute("SELECT analyzer FROM result_tables WHERE is_incremental").fetchall()
    living = set()
    for (analyzer,) in analyzers:
        found = connection.execute(
            "SELECT DISTINCT run_id FROM (SELECT run_id, rows.space, feature_id, facets "
            f"FROM {result_table(analyzer)} AS rows JOIN runs USING (run_id) "
            "QUALIFY run_id = max(run_id) OVER (PARTITION BY rows.space, feature_id, facets))"
        ).fetchall()
        living |= {int(run_id) for (run_id,) in found}
    return living


def _run(row: Sequence[Any]) -> Run:
    run_id, analyzer, version, space, parameters, facets, seed, notes, *rest = row
    return Run(
        run_id, analyzer, version, space, json.loads(parameters), json.loads(facets), seed, json.loads(notes), *rest
    )


def latest_run(catalogue: Catalogue, analyzer: str, space: str, facets: Mapping[str, Any] | None = None) -> Run | None:
    """Return the newest run of an analyzer on a space, among those with the given facets; None if there is none."""
    wanted = dict(facets or {}).items()
    runs = [run for run in all_runs(catalogue) if run.analyzer == analyzer and run.space == space]
    return next((run for run in reversed(runs) if wanted <= run.facets.items()), None)


def identical_run(catalogue: Catalogue, request: Request, *, is_incremental: bool) -> Run | None:
    """Return the run that a request would only repeat; None when there is something to compute.

    A run that a later one with other parameters has replaced counts only where runs add to each other.
    """
    parameters = json.loads(as_json(request.parameters))
    for run in reversed(all_runs(catalogue)):
        # Files are read anew only for the one run that is the same otherwise.
        is_same = (run.analyzer, run.version, run.space) == (request.analyzer, request.version, request.space)
        is_good = not run.is_stale and (run.is_latest or is_incremental) and "incomplete" not in run.notes
        if is_same and is_good and run.parameters == parameters and not _changed_files(catalogue, run):
            return run
    return None


def _changed_files(catalogue: Catalogue, run: Run) -> list[str]:
    """Return the files that a run has read and that are no longer the same."""
    with catalogue.reading() as connection:
        files = connection.execute(
            "SELECT name, state FROM run_inputs WHERE run_id = $run AND kind = 'file'", {"run": run.run_id}
        ).fetchall()
    return [name for name, state in files if current_input(catalogue, "file", name).state != state]


def commit_run(layout: Layout, request: Request, table: ResultTable, outcome: Outcome) -> int:
    """Store a run with everything that belongs to it; return its id.

    Raises:
        PluginError: the analyzer's columns are not those of its table.
        WarehouseError: the disk is full or not writable; nothing is stored then.
    """
    rows, vectors = outcome.rows, None
    if VECTOR_COLUMN in rows.column_names:
        if rows[VECTOR_COLUMN].null_count < rows.num_rows:
            vectors = f"{request.analyzer}-{uuid.uuid4().hex[:16]}"
            write_vectors(layout, vectors, rows)
        rows = rows.drop_columns([VECTOR_COLUMN])
    try:
        with Catalogue(layout.root).writing() as connection:
            connection.register("incoming", rows)
            _prepare_table(connection, table)
            run_id = _record(connection, request, outcome, vectors)
            connection.execute(
                f"INSERT INTO {result_table(table.analyzer)} SELECT $run_id, $space, * FROM incoming",
                {"run_id": run_id, "space": request.space},
            )
    except BaseException:
        if vectors is not None:
            drop_vectors(layout, vectors)
        raise
    surface.write_attach_sql(layout)
    return run_id


def _prepare_table(connection: duckdb.DuckDBPyConnection, table: ResultTable) -> None:
    """Create the analyzer's table, or see that it is still the same; new columns are added to it."""
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {result_table(table.analyzer)} AS "
        "SELECT 0::INTEGER AS run_id, ''::VARCHAR AS space, * FROM incoming WHERE false"
    )
    wanted = _columns(connection, "incoming")
    present = _columns(connection, result_table(table.analyzer))[2:]
    if wanted[: len(present)] != present:
        raise PluginError(
            f"The analyzer '{table.analyzer}' now fills other columns ({_words(wanted)}) than its table has "
            f"({_words(present)}). Its old results are in the way: `glasshouse forget {table.analyzer}`."
        )
    for column, type_text in wanted[len(present) :]:
        connection.execute(f"ALTER TABLE {result_table(table.analyzer)} ADD COLUMN {identifier(column)} {type_text}")
    connection.execute(
        "INSERT OR REPLACE INTO result_tables VALUES ($analyzer, $columns, $in_features, $strongest, $incremental)",
        {
            "analyzer": table.analyzer,
            "columns": as_json(wanted),
            "in_features": as_json(list(table.in_features)),
            "strongest": table.strongest,
            "incremental": table.is_incremental,
        },
    )


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> list[tuple[str, str]]:
    """Name and SQL type of each column of a table, whose name is quoted already."""
    listing = f"DESCRIBE {table}"
    return [(str(row[0]), str(row[1])) for row in connection.execute(listing).fetchall()]


def _words(columns: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns)


def _record(connection: duckdb.DuckDBPyConnection, request: Request, outcome: Outcome, vectors: str | None) -> int:
    row = connection.execute("SELECT nextval('run_ids')").fetchall()
    run_id = int(row[0][0])
    connection.execute(
        "INSERT INTO runs VALUES ($run_id, $analyzer, $version, $space, $parameters, $facets, $seed, $notes, $n_rows, "
        "$vectors, $started_at, $duration_s)",
        {
            "run_id": run_id,
            "analyzer": request.analyzer,
            "version": request.version,
            "space": request.space,
            "parameters": as_json(request.parameters),
            "facets": as_json(request.facets),
            "seed": outcome.seed,
            "notes": as_json(outcome.notes),
            "n_rows": outcome.rows.num_rows,
            "vectors": vectors,
            "started_at": outcome.started_at,
            "duration_s": outcome.duration_s,
        },
    )
    for given in outcome.inputs:
        connection.execute("INSERT INTO run_inputs VALUES (?, ?, ?, ?)", [run_id, *given])
    return run_id


def forget(layout: Layout, runs: Sequence[Run]) -> None:
    """Remove runs with their rows and vectors. A table that no run has any more goes too."""
    if not runs:
        return
    with Catalogue(layout.root).writing() as connection:
        for run in runs:
            connection.execute(f"DELETE FROM {result_table(run.analyzer)} WHERE run_id = $run", {"run": run.run_id})
            connection.execute("DELETE FROM run_inputs WHERE run_id = $run", {"run": run.run_id})
            connection.execute("DELETE FROM runs WHERE run_id = $run", {"run": run.run_id})
        left = {str(row[0]) for row in connection.execute("SELECT DISTINCT analyzer FROM runs").fetchall()}
        for analyzer in {run.analyzer for run in runs} - left:
            connection.execute(f"DROP TABLE {result_table(analyzer)}")
            connection.execute("DELETE FROM result_tables WHERE analyzer = $name", {"name": analyzer})
    for run in runs:
        if run.vectors is not None:
            drop_vectors(layout, run.vectors)
    surface.write_attach_sql(layout)
