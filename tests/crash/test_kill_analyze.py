"""kill -9 during analyses: a run is there with all of its rows and vectors, or not at all."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import KIT, TOY_PLUGIN

from glasshouse.warehouse.checking.check import check

N_VICTIMS = 12
WORDS = ["--plugin", str(TOY_PLUGIN), "--plugin", str(KIT / "counting_plugin.py"), "analyze", "directions", "--force"]


def rows_of(warehouse: Any) -> tuple[list[Any], list[float]]:
    """Return the rows and vectors of the newest result."""
    (newest,) = [run for run in warehouse.runs() if run.analyzer == "directions" and run.is_latest]
    vectors = warehouse.result_vectors(newest)
    return warehouse.sql("SELECT feature_id FROM directions ORDER BY 1").rows(), vectors.vectors_ke.ravel().tolist()


@pytest.mark.slow
def test_a_killed_analysis_leaves_all_or_nothing(warehouse: Any, tmp_path: Path, driver: Any) -> None:
    warehouse.extract("toy:0", [("x", "blocks.0.resid_post", "cls", "neurons")])
    warehouse.close()
    undisturbed = driver.run(WORDS, tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    expected = rows_of(warehouse)
    rng, n_killed = random.Random(0), 0
    for _ in range(N_VICTIMS):
        n_before = len(warehouse.runs())
        done = driver.run(WORDS, tmp_path, kill_after=rng.uniform(0.02, undisturbed.seconds))
        n_killed += done.returncode == -9
        n_after = len(warehouse.runs())
        assert n_after - n_before in ((0, 1) if done.returncode else (1,))
        assert rows_of(warehouse) == expected
        left = check(warehouse.layout).remaining
        # Killed behind the commit, the run is there and attach.sql still shows the one before it.
        expects_old_views = n_after > n_before and done.returncode != 0
        assert all("interrupted" in p.what or (expects_old_views and "attach.sql" in p.where) for p in left), left
        check(warehouse.layout, repair=True)
        assert check(warehouse.layout).remaining == []
    assert n_killed >= N_VICTIMS // 4, "too few were killed in the middle of their work to say anything"


def test_killed_between_the_commit_and_attach_sql_other_clients_see_the_run_before(
    warehouse: Any, tmp_path: Path, driver: Any
) -> None:
    warehouse.extract("toy:0", [("x", "blocks.0.resid_post", "cls", "neurons")])
    warehouse.close()
    assert driver.run(WORDS, tmp_path).returncode == 0
    killed = driver.run(WORDS, tmp_path, die_at=("glasshouse.warehouse.surface", "write_attach_sql", False))
    assert killed.returncode == -9
    assert [run.is_latest for run in warehouse.runs() if run.analyzer == "directions"] == [False, True]
    before, after = (run.run_id for run in warehouse.runs() if run.analyzer == "directions")
    assert ids_in_attached(warehouse) == [before]
    (problem,) = check(warehouse.layout).remaining
    assert problem.where.endswith("attach.sql")
    check(warehouse.layout, repair=True)
    assert check(warehouse.layout).remaining == []
    assert ids_in_attached(warehouse) == [after]


def ids_in_attached(warehouse: Any) -> list[int]:
    """Return the runs whose rows another DuckDB client sees through attach.sql."""
    with duckdb.connect() as client:
        client.execute(warehouse.layout.attach_sql.read_text(encoding="utf-8"))
        return [int(run) for (run,) in client.sql("SELECT DISTINCT run_id FROM directions ORDER BY 1").fetchall()]
