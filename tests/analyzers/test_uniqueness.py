"""Uniqueness against sets of images compared one pair of features after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from glasshouse.plugins.analyzers import uniqueness

Array = np.ndarray[Any, Any]
N = 30


def naive_rows(values_nf: Array, k: int) -> list[tuple[int, float, int | None, float]]:
    sets = {}
    for feature, column in enumerate(values_nf.T):
        active = [i for i in range(len(column)) if column[i] > 0]
        if active:
            sets[feature] = set(sorted(active, key=lambda i: (-column[i], i))[:k])
    rows = []
    for feature, own in sets.items():
        nearest, largest = None, 0.0
        for other, theirs in sets.items():
            jaccard = len(own & theirs) / len(own | theirs)
            if other != feature and jaccard > largest:
                nearest, largest = other, jaccard
        rows.append((feature, 1 - largest, nearest, largest))
    return rows


def values() -> Array:
    """Activations [30, 14]: random, twice the same, equal values, disjoint from all others, silent, on all images."""
    rng = np.random.default_rng(0)
    values_nf = np.zeros((N, 14))
    values_nf[:28, :8] = rng.exponential(size=(28, 8)) * (rng.random((28, 8)) < np.linspace(0.1, 0.9, 8))
    values_nf[:, 8] = values_nf[:, 3]
    values_nf[:28, 9] = 1
    values_nf[28:, 10] = 1
    values_nf[:28, 12] = 2
    values_nf[:, 13] = values_nf[:, 3] * 2
    return values_nf.astype(np.float32)


def stored(warehouse: Any, **parameters: Any) -> list[tuple[int, float, int | None, float]]:
    (report,) = warehouse.analyze("uniqueness", "s", **parameters)
    rows = warehouse.result_rows(report.run).sort("feature_id")
    return [tuple(row) for row in rows.select("feature_id", "uniqueness", "nearest_feature_id", "jaccard").rows()]


@pytest.mark.parametrize("k", [1, 3, 16, 100])
def test_equals_the_comparison_of_all_sets(warehouse: Any, k: int) -> None:
    warehouse.import_features("s", values(), list(range(N)))
    expected = naive_rows(values(), k)
    assert len(expected) == 13 and (10, 1.0, None, 0.0) in expected
    assert stored(warehouse, k=k) == expected


def test_equal_neighbours_give_the_lowest(warehouse: Any) -> None:
    warehouse.import_features("s", values(), list(range(N)))
    found = {row[0]: row[1:] for row in stored(warehouse)}
    assert found[3] == (0, 8, 1) and found[8] == (0, 3, 1) and found[13] == (0, 3, 1)
    assert 11 not in found


def test_blocks_change_nothing(warehouse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse.import_features("s", values(), list(range(N)))
    whole = stored(warehouse)
    monkeypatch.setattr(uniqueness, "MAX_MEETINGS", 5)
    warehouse.analyze("uniqueness", "s", force=True)
    assert stored(warehouse) == whole


def test_a_single_feature_and_none_at_all(warehouse: Any) -> None:
    single_nf = values()[:, [11, 3, 11]]
    warehouse.import_features("s", single_nf, list(range(N)), n_features=3)
    assert stored(warehouse) == [(1, 1.0, None, 0.0)]
