"""The loops that monosemanticity is measured against compute the same scores."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sys.path.insert(0, str(ROOT))
    synthetic = importlib.import_module("benchmarks.synthetic")
    found = synthetic.Setting(tmp_path_factory.mktemp("peers"), quick=True)
    found.shapes = (synthetic.SpaceShape("cls", 120, 8, 40),)
    yield found
    found.warehouse.close()
    sys.path.remove(str(ROOT))


def test_peers_compute_the_same(setting: Any) -> None:
    module = importlib.import_module("benchmarks.monosemanticity")
    data = module.in_memory(setting.embedded, "cls")
    stored = {}
    for variant in ("top", "all"):
        (report,) = setting.embedded.analyze("monosemanticity", "cls", variant=variant)
        stored[variant] = setting.embedded.result_rows(report.run).sort("feature_id")["ms"].to_list()
    dense_nf = setting.embedded.sparse_matrix("cls").toarray().astype(float)
    pairs = list(itertools.combinations(range(120), 2))
    by_pairs_f = module.sums_by_pairs(dense_nf, data.unit_ne, pairs)
    full = [feature for feature in range(40) if (dense_nf[:, feature] > 0).sum() >= module.K]
    assert len(full) > 5
    for feature in full:
        assert module.score_by_numpy(data, feature) == pytest.approx(stored["top"][feature], abs=1e-9)
        assert module.score_by_pairs(data, feature) == pytest.approx(stored["top"][feature], abs=1e-9)
        assert module.linear_score_by_numpy(data, feature) == pytest.approx(stored["all"][feature], abs=1e-9)
        assert by_pairs_f[feature] == pytest.approx(stored["all"][feature], abs=1e-9)
    assert np.isfinite(by_pairs_f[full]).all()


def test_rows_say_what_is_extrapolated(setting: Any) -> None:
    rows = list(importlib.import_module("benchmarks.monosemanticity").run(setting))
    assert len(rows) == 7
    against = [row for row in rows if row.against]
    assert len(against) == 4 and all("extrapolated from" in row.against for row in against)
    assert all((row.met is None) == (row.target == "") for row in rows)
    assert [row.target for row in rows if row.target] == ["<= 4 s", "<= 12 s", "<= 12 s", "<= 4 GiB"]
