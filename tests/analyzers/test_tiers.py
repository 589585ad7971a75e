"""Tiers: the rules one feature at a time, and a run on what the two other analyses left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.plugins.analyzers.tiers import Thresholds, fill, joined
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.warehouse import Warehouse

T = Thresholds(monosemantic=0.5, moderate=0.35, r_elite=0.25, r_good=0.15)
NAN = float("nan")


def by_hand(ms: list[float], r: list[float], n: int) -> list[tuple[int, int, int]]:
    """(feature, tier, rank), from the definition: each tier takes from what is left."""
    left = set(range(len(ms)))
    found = []
    for tier in (1, 2, 3):
        fits = []
        for f in left:
            big, size = ms[f] if ms[f] == ms[f] else -np.inf, abs(r[f]) if r[f] == r[f] else -1.0
            elite = big >= T.monosemantic and size >= T.r_elite
            good = big >= T.moderate or size >= T.r_good
            if (tier == 1 and elite) or (tier == 2 and good) or (tier == 3 and big > -np.inf):
                first, second = (big, max(size, 0)) if tier == 3 else (max(size, 0), big)
                fits.append((-first, -second, f))
        for rank, (_, _, f) in enumerate(sorted(fits)[:n]):
            found.append((f, tier, rank))
            left.remove(f)
    return found


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_filling_equals_the_rules(data: st.DataObject) -> None:
    n_features = data.draw(st.integers(1, 25))
    some_ms = st.sampled_from([NAN, -0.1, 0.2, 0.35, 0.4, 0.5, 0.8, 0.9])
    some_r = st.sampled_from([NAN, 0.0, -0.1, 0.15, -0.15, 0.2, -0.25, 0.3, 0.6, -0.6])
    ms = data.draw(st.lists(some_ms, min_size=n_features, max_size=n_features))
    r = data.draw(st.lists(some_r, min_size=n_features, max_size=n_features))
    n = data.draw(st.integers(1, 6))
    found = fill(np.array(ms), np.array(r), T, n)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == by_hand(ms, r, n)
    assert len(set(found[0].tolist())) == len(found[0])


def test_the_three_tiers() -> None:
    ms = np.array([0.6, 0.6, 0.2, 0.4, 0.1, NAN, NAN, 0.3])
    r = np.array([-0.3, 0.1, 0.2, NAN, 0.0, 0.9, 0.01, -0.1])
    feature, tier, _ = fill(ms, r, T, 50)
    assert dict(zip(feature.tolist(), tier.tolist(), strict=True)) == {0: 1, 1: 2, 2: 2, 3: 2, 5: 2, 4: 3, 7: 3}


def test_the_strongest_dimension_keeps_its_sign() -> None:
    scores = pl.DataFrame({"feature_id": [0, 1], "ms": [0.5, None]}, schema_overrides={"feature_id": pl.Int32})
    correlations = pl.DataFrame(
        {"feature_id": [0, 0, 2, 2], "dimension": ["a", "b", "b", "a"], "r": [0.2, -0.4, 0.3, -0.3]},
        schema_overrides={"feature_id": pl.Int32},
    )
    frame = joined(scores, correlations, 4)
    assert frame["r"][:1].to_list() == [-0.4] and frame["dimension"].to_list() == ["b", None, "a", None]
    assert frame["r"][2] == -0.3 and np.isnan(frame["r"][1])
    assert frame["ms"][0] == 0.5 and np.isnan(frame["ms"].to_numpy()[1:]).all()


@pytest.fixture
def scored(warehouse: Warehouse, tmp_path: Path) -> Warehouse:
    """Thirty pictures with a space, an embedding of another encoder and ratings."""
    rng = np.random.default_rng(3)
    names = [Path(path).name for path in warehouse.images()["path"]]
    dense = rng.random((30, 40)) * (rng.random((30, 40)) < 0.6)
    warehouse.import_features("x", dense.astype(np.float32), images=names)
    warehouse.import_embeddings("other", rng.normal(size=(30, 5)).astype(np.float32), images=names)
    rows = "\n".join(f"{name},mood,{dense[i, 0] + rng.normal() / 9}" for i, name in enumerate(names))
    (tmp_path / "r.csv").write_text(f"image,dimension,value\n{rows}\n")
    warehouse.add(ratings=[tmp_path / "r.csv"])
    return warehouse


def test_a_run_takes_thresholds_and_rows_from_both_analyses(scored: Warehouse) -> None:
    reports = scored.analyze("tiers", "x", n=5, r_elite=0.3)
    assert [report.analyzer for report in reports] == ["monosemanticity", "correlation", "tiers"]
    notes, run = reports[0].run.notes, reports[-1].run
    thresholds = Thresholds(notes["monosemantic_from"], notes["moderate_from"], 0.3, 0.15)
    assert run.notes["thresholds"] == thresholds._asdict()
    assert run.notes["embedding"] == "other" and run.notes["method"] == "pearson"
    rows = scored.sql("FROM tiers ORDER BY tier, rank")
    every = scored.sql("SELECT feature_id, f.ms, f.r, f.dimension FROM features AS f ORDER BY feature_id")
    expected = fill(every["ms"].fill_null(NAN).to_numpy(), every["r"].fill_null(NAN).to_numpy(), thresholds, 5)
    assert rows["feature_id"].to_list() == expected[0].tolist() and rows["tier"].to_list() == expected[1].tolist()
    assert rows.select("feature_id", "ms", "r", "dimension").rows() == every[expected[0].tolist()].rows()
    names = {1: "elite", 2: "good", 3: "diverse"}
    assert rows["tier_name"].to_list() == [names[tier] for tier in rows["tier"]]
    assert max(run.notes["n_by_tier"].values()) == 5
    shown = scored.sql("SELECT feature_id, f.tier FROM features AS f WHERE tier IS NOT NULL ORDER BY 1")
    assert shown.rows() == rows.sort("feature_id").select("feature_id", "tier").rows()


def test_without_ratings_tiers_are_left_out_with_the_reason(warehouse: Warehouse, plugins: Any) -> None:
    from glasshouse.plugins.runner import Runner

    rng = np.random.default_rng(3)
    ids = list(range(30))
    warehouse.import_features("x", rng.random((30, 8)).astype(np.float32), images=ids)
    warehouse.import_embeddings("other", rng.normal(size=(30, 5)).astype(np.float32), images=ids)
    with pytest.raises(UsageError, match="There are no ratings"):
        warehouse.analyze("tiers", "x")
    reports = {report.analyzer: report for report in Runner(warehouse, plugins.analyzers).run_all("x")}
    assert "There are no ratings" in reports["correlation"].left_out
    assert "'correlation'" in reports["tiers"].left_out
    assert reports["monosemanticity"].is_new is False  # it was computed on the way to the first attempt
