"""Reading the rows of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.frames import frame_of
from glasshouse.warehouse.quoting import result_table
from glasshouse.warehouse.results.records import Run, as_json

if TYPE_CHECKING:
    import polars as pl


def rows_of_run(catalogue: Catalogue, run: Run) -> pl.DataFrame:
    """Return the rows of a run without the columns of the runner.

    Where runs add to each other: of each feature the newest rows, up to this run, of runs with the same facets.
    """
    with catalogue.reading() as connection:
        flags = connection.execute(
            "SELECT is_incremental FROM result_tables WHERE analyzer = $name", {"name": run.analyzer}
        ).fetchall()
        if not flags[0][0]:
            return frame_of(
                connection.sql(
                    f"SELECT * EXCLUDE (run_id, space) FROM {result_table(run.analyzer)} WHERE run_id = $run",
                    params={"run": run.run_id},
                )
            )
        return frame_of(
            connection.sql(
                f"SELECT * EXCLUDE (run_id, space) FROM {result_table(run.analyzer)} WHERE run_id IN "
                "(SELECT run_id FROM runs WHERE analyzer = $analyzer AND space = $space AND facets = $facets "
                "AND run_id <= $run) QUALIFY run_id = max(run_id) OVER (PARTITION BY feature_id)",
                params={
                    "analyzer": run.analyzer,
                    "space": run.space,
                    "facets": as_json(run.facets),
                    "run": run.run_id,
                },
            )
        )
