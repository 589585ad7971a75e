"""What runs read: naming it and taking down its state. The catalogue's view `input_states` says what it is now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.results.records import Input, Run
from glasshouse.warehouse.results.views import ResultView
from glasshouse.warehouse.surface import SPACE_VIEWS, Named

TRACKED_TABLES = {"images", "ratings", "captions", "image_labels", "annotations"}
"""Tables of the catalogue whose rows a result can depend on."""


def current_input(catalogue: Catalogue, kind: str, name: str) -> Input:
    """Return an input with its state as it is now; '' for what was never written, or a file that is not there."""
    if kind == "file":
        path = catalogue.path.parent / name  # an absolute name stays as it is
        return Input(kind, name, hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
    with catalogue.reading() as connection:
        rows = connection.execute(read_sql("queries/input_state.sql"), {"kind": kind, "name": name}).fetchall()
    return Input(kind, name, str(rows[0][0]) if rows else "")


def inputs_of_query(
    named: Named, results: Sequence[ResultView], runs: Sequence[Run], spaces: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield (kind, name) of the inputs behind what a query names.

    Args:
        named: tables, views and columns in the query.
        results: what the result views are made from; `features` shows some of their columns.
        runs: every run; the newest of each slot count as read where their rows can be.
        spaces: finished spaces; all of them count as read where a view over them is.
    """
    if named.tables & set(SPACE_VIEWS):
        yield from (("space", space) for space in spaces)
    read = {view.analyzer for view in results if view.analyzer in named.tables}
    if "features" in named.tables:
        read |= {view.analyzer for view in results if named.columns & {"*", *map(str.lower, view.in_features)}}
    yield from (("run", run.slot) for run in runs if run.is_latest and run.analyzer in read)
    yield from (("table", name) for name in sorted(named.tables & TRACKED_TABLES))
