"""Redundancy and comparison against loops over their definitions, and the neighbours behind both."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from glasshouse.plugins.analyzers import nearest as nearest_module
from glasshouse.plugins.analyzers.nearest import directions, nearest
from glasshouse.schema.errors import UsageError

Array = np.ndarray[Any, Any]
N = 30


def cosine(one: Any, other: Any, centre: Any = None) -> float | None:
    a, b = ([float(x) for x in v] for v in (one, other))
    if centre is not None:
        a, b = ([x - float(c) for x, c in zip(v, centre, strict=True)] for v in (a, b))
    lengths = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else None


def naive_nearest(own: Array, others: Array | None, k: int) -> list[list[tuple[float, int]]]:
    """Every pair, sorted."""
    keys = own if others is None else others
    found = []
    for i, one in enumerate(own):
        pairs = [(cosine(one, other), j) for j, other in enumerate(keys) if others is not None or i != j]
        found.append(sorted(((c, j) for c, j in pairs if c is not None), key=lambda pair: (-pair[0], pair[1]))[:k])
    return found


VALUES = st.one_of(st.integers(-2, 2).map(float), st.floats(-100, 100, width=32))


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.just(3)), elements=VALUES),
    hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(3)), elements=VALUES),
    st.integers(1, 4),
    st.booleans(),
)
@settings(deadline=None)
def test_the_nearest_are_those_of_all_pairs(own: Array, others: Array, k: int, within: bool) -> None:
    unit_le = None if within else directions(others)
    found = nearest(directions(own), unit_le, k)
    for i, expected in enumerate(naive_nearest(own, None if within else others, k)):
        n = len(expected)
        assert (found.row_nk[i, n:] == -1).all() and np.isnan(found.cosine_nk[i, n:]).all()
        np.testing.assert_allclose(found.cosine_nk[i, :n], [c for c, _ in expected], atol=1e-6)
        for rank in range(n):
            pair = cosine(own[i], (own if within else others)[found.row_nk[i, rank]])
            assert found.cosine_nk[i, rank] == pytest.approx(pair, abs=1e-12)
        assert len(set(found.row_nk[i, :n])) == n and (not within or i not in found.row_nk[i, :n])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 8))
    vectors[[3, 70]] = 0
    whole = nearest(directions(vectors), None, 3)
    monkeypatch.setattr(nearest_module, "AT_ONCE", 10)
    monkeypatch.setattr(nearest_module, "FEWEST_ROWS", 7)
    seen: list[tuple[int, int]] = []
    parts = nearest(directions(vectors), None, 3, lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(parts.row_nk, whole.row_nk)
    assert seen[-1] == (198, 198) and len(seen) == 29


def test_near_ties_are_settled_in_float64() -> None:
    """Cosines that differ by 1e-9 are the same number in float32."""
    own = np.array([[1.0, 0, 0]])
    angles = np.array([1.00000001e-2, 1e-2, 1.00000002e-2])
    others = np.stack([np.cos(angles), np.sin(angles), np.zeros(3)], axis=1)
    assert nearest(directions(own), directions(others), 3).row_nk.tolist() == [[1, 0, 2]]


def test_what_a_centre_leaves_of_equal_vectors_has_no_direction() -> None:
    centre = np.array([3.0, 4.0, 0.0])
    unit = directions(np.array([[3, 4, 0], [3, 4, 1e-7], [3, 5, 0]], np.float32), centre)
    assert np.isnan(unit[:2]).all() and unit[2].tolist() == [0, 1, 0]


# -- redundancy ------------------------------------------------------------------------------------------------


def filled(warehouse: Any) -> tuple[Array, Array]:
    """Two spaces and an embedding of all images; feature 2 of `s` is 1 again, 3 is silent, 4 is active on one image."""
    rng = np.random.default_rng(1)
    acts_nf = rng.exponential(size=(N, 7)).astype(np.float32) * (rng.random((N, 7)) < 0.6)
    acts_nf[:, 2] = 2 * acts_nf[:, 1]
    acts_nf[:, 3], acts_nf[:, 4] = 0, 0
    acts_nf[8, 4] = 1
    other_nf = rng.exponential(size=(N, 5)).astype(np.float32) * (rng.random((N, 5)) < 0.6)
    other_nf[:, 3] = acts_nf[:, 0]
    vectors_ne = rng.normal(0.5, 1, (N, 4)).astype(np.float32)
    warehouse.import_features("s", acts_nf, list(range(N)))
    warehouse.import_features("t", other_nf, list(range(N)))
    warehouse.import_embeddings("e", vectors_ne, list(range(N)))
    return acts_nf, other_nf


def concept_vectors(warehouse: Any, acts_nf: Array, embedding: str = "e", k: int = 30) -> dict[int, Array]:
    vectors_ne = warehouse.embeddings(embedding).vectors_ne.astype(float)
    found = {}
    for feature in range(acts_nf.shape[1]):
        active = sorted((i for i in range(N) if acts_nf[i, feature] > 0), key=lambda i: (-acts_nf[i, feature], i))[:k]
        if active:
            # Stored as float32, and compared as it is stored.
            found[feature] = np.mean([vectors_ne[i] for i in active], axis=0).astype(np.float32)
    return found


@pytest.mark.parametrize("centred", [False, True])
def test_redundancy_is_the_largest_cosine_with_another_feature(warehouse: Any, centred: bool) -> None:
    acts_nf, _ = filled(warehouse)
    reports = warehouse.analyze("redundancy", "s", embedding="e", centre=centred)
    assert [report.analyzer for report in reports] == ["concepts", "redundancy"]
    vectors = concept_vectors(warehouse, acts_nf)
    centre = warehouse.embeddings("e").vectors_ne.astype(float).mean(axis=0) if centred else None
    rows = warehouse.sql("SELECT feature_id, twin, redundancy FROM redundancy").rows()
    assert [row[0] for row in rows] == [0, 1, 2, 4, 5, 6]
    for feature, twin, score in rows:
        of_others = {other: cosine(vectors[feature], vectors[other], centre) for other in vectors if other != feature}
        assert score == pytest.approx(max(of_others.values()), abs=1e-6)
        assert of_others[twin] == pytest.approx(score, abs=1e-9)
    twins = {feature: (twin, score) for feature, twin, score in rows}
    assert twins[1] == (2, pytest.approx(1)) and twins[2] == (1, pytest.approx(1))
    mean = np.mean([score for *_, score in rows])
    assert reports[-1].run.notes["mean_redundancy"] == pytest.approx(mean, abs=1e-12)


def test_all_scores_are_columns_of_features(warehouse: Any) -> None:
    filled(warehouse)
    for analyzer in ("clarity", "polysemanticity", "redundancy"):
        warehouse.analyze(analyzer, "s", embedding="e")
    rows = warehouse.sql("SELECT feature_id, clarity, polysemanticity, redundancy FROM features WHERE space = 's'")
    assert rows.height == 7 and rows["redundancy"].null_count() == 1 and rows["clarity"].null_count() == 2


def test_as_many_features_as_dimensions(warehouse: Any) -> None:
    """Where a product with the wrong side of a matrix would go unnoticed."""
    rng = np.random.default_rng(4)
    acts_nf = rng.exponential(size=(N, 6)).astype(np.float32)
    warehouse.import_features("s", acts_nf, list(range(N)))
    warehouse.import_embeddings("e", rng.normal(size=(N, 6)).astype(np.float32), list(range(N)))
    warehouse.analyze("redundancy", "s", embedding="e")
    vectors = list(concept_vectors(warehouse, acts_nf).values())
    found = warehouse.sql("SELECT redundancy FROM redundancy ORDER BY feature_id").to_series().to_list()
    best = [max(c for j, o in enumerate(vectors) if j != i and (c := cosine(v, o))) for i, v in enumerate(vectors)]
    assert found == pytest.approx(best, abs=1e-6)


def test_the_newest_concept_vectors_are_taken_and_new_ones_make_it_stale(warehouse: Any) -> None:
    filled(warehouse)
    rng = np.random.default_rng(3)
    warehouse.import_embeddings("other", rng.normal(size=(N, 3)).astype(np.float32), list(range(N)))
    warehouse.analyze("concepts", "s", embedding="e")
    warehouse.analyze("concepts", "s", embedding="other", n=9)
    (report,) = warehouse.analyze("redundancy", "s")
    assert report.run.facets["embedding"] == "other"
    warehouse.analyze("redundancy", "s", embedding="e")
    assert sorted(warehouse.sql("SELECT DISTINCT embedding FROM redundancy").to_series()) == ["e", "other"]
    warehouse.analyze("concepts", "s", embedding="other", n=5)
    stale = {run.facets["embedding"]: run.is_stale for run in warehouse.runs() if run.analyzer == "redundancy"}
    assert stale == {"e": False, "other": True}


def test_a_single_feature_and_none_at_all(warehouse: Any) -> None:
    warehouse.import_features("s", np.eye(N, 3, dtype=np.float32)[:1], [0])
    warehouse.import_features("t", np.eye(N, 3, dtype=np.float32)[:1], [1])
    warehouse.import_embeddings("e", np.ones((1, 4), np.float32), [0])
    warehouse.analyze("redundancy", "s", embedding="e")
    (report,) = [r for r in warehouse.analyze("redundancy", "t", embedding="e") if r.analyzer == "redundancy"]
    assert warehouse.sql("SELECT feature_id, twin, redundancy FROM redundancy").rows() == [(0, None, None)]
    assert report.run.n_rows == 0


def test_without_any_embedding_it_says_what_to_run(warehouse: Any) -> None:
    warehouse.import_features("s", np.eye(N, 3, dtype=np.float32), list(range(N)))
    with pytest.raises(UsageError, match="glasshouse embed"):
        warehouse.analyze("redundancy", "s")
