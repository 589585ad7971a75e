"""kill -9 during analyses: a run is there with all of its rows and vectors, or not at all."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

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
        assert all("interrupted" in problem.what for problem in left), left
        check(warehouse.layout, repair=True)
        assert check(warehouse.layout).remaining == []
    assert n_killed >= N_VICTIMS // 4, "too few were killed in the middle of their work to say anything"
