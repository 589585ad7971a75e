"""Checks of the results of analyses: the record of each run against its rows and its vectors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from glasshouse.schema.errors import WarehouseError
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.checking.problems import Problem
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.quoting import result_table
from glasshouse.warehouse.results.records import Run
from glasshouse.warehouse.results.store import all_runs, forget
from glasshouse.warehouse.results.vectors import drop_vectors, read_vectors, result_vector_store, stray_vectors


def result_problems(layout: Layout, *, hashes: bool) -> Iterator[Problem]:
    """Yield runs whose rows or vectors are not what was recorded, and vectors of no run; with `hashes` all are read."""
    runs = all_runs(Catalogue(layout.root))
    for run in runs:
        what = _wrong_with(layout, run, hashes=hashes)
        if what:
            remedy = f"forgotten; run `glasshouse analyze {run.analyzer} --space {run.space}` again"
            yield Problem(f"run {run.run_id} of '{run.analyzer}'", what, remedy, partial(forget, layout, [run]))
    for name in stray_vectors(layout, {run.vectors for run in runs if run.vectors}):
        what = "left by an analysis that was interrupted"
        yield Problem(f"vectors/results/{name}.lance", what, "removed", partial(drop_vectors, layout, name))


def _wrong_with(layout: Layout, run: Run, *, hashes: bool) -> str:
    with Catalogue(layout.root).reading() as connection:
        rows = connection.execute(
            f"SELECT count(*) FROM {result_table(run.analyzer)} WHERE run_id = $run", {"run": run.run_id}
        ).fetchall()
    if rows[0][0] != run.n_rows:
        return f"its record says {run.n_rows} rows, there are {rows[0][0]}"
    if run.vectors is None:
        return ""
    if run.vectors not in result_vector_store(layout).names():
        return "its vectors are missing"
    if hashes:
        try:
            read_vectors(layout, run.vectors)
        except WarehouseError:
            return "its vectors are damaged"
    return ""
