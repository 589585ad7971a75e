"""Co-occurrence against a loop over patches that knows nothing of sparse products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.patch_space import make_patch_space

from glasshouse.plugins.analyzers import patch_pairs
from glasshouse.plugins.analyzers.cooccurrence import npmi
from glasshouse.plugins.analyzers.patch_grid import neighbours
from glasshouse.schema.errors import UsageError

Array = np.ndarray[Any, Any]
GRID = (2, 3)
N, F = 9, 9
THRESHOLD = np.float32(0.001)


def values() -> Array:
    """Activations [9, 6, 9]: random, everywhere, on one patch, never, equal ones, the same patches, never above it."""
    rng = np.random.default_rng(0)
    values_ntf = rng.exponential(size=(N, 6, F)) * (rng.random((N, 6, F)) < 0.3)
    values_ntf[:, :, 3] = 2.5
    values_ntf[:, :, 4] = 0
    values_ntf[4, 2, 4] = 7
    values_ntf[:, :, 5] = 0
    values_ntf[:, :, 6] = np.where(values_ntf[:, :, 0] > 0, 1.0, 0)
    values_ntf[:, :, 7] = np.where(values_ntf[:, :, 1] > 0, 0.0005, 0)
    values_ntf[:, :, 8] = np.where(rng.random((N, 6)) < 0.5, 0.0008, values_ntf[:, :, 2])
    values_ntf[7] = 0
    return values_ntf.astype(np.float32)


def naive_rows(values_ntf: Array, grid: tuple[int, int], radius: int) -> dict[tuple[int, int], tuple[float, ...]]:
    """Count one pair, image and patch after the other."""
    n_images, n_tokens, n_features = values_ntf.shape
    active = values_ntf > THRESHOLD

    def is_near(image: int, token: int, feature: int) -> bool:
        row, column = divmod(token, grid[1])
        return any(
            active[image, other, feature]
            for other in range(n_tokens)
            if abs(other // grid[1] - row) <= radius and abs(other % grid[1] - column) <= radius
        )

    places = [(image, token) for image in range(n_images) for token in range(n_tokens)]
    near = {(*place, f): is_near(*place, f) for place in places for f in range(n_features)}
    rows = {}
    for i in range(n_features):
        for j in range(n_features):
            n_i, n_j = int(active[:, :, i].sum()), int(active[:, :, j].sum())
            both = sum(1 for place in places if active[(*place, i)] and near[(*place, j)])
            reverse = sum(1 for place in places if active[(*place, j)] and near[(*place, i)])
            if i == j or both == 0:
                continue
            summed = sum(float(values_ntf[(*place, i)]) for place in places if near[(*place, j)])
            own = sum(float(values_ntf[(*place, i)]) for place in places if active[(*place, i)])
            n_near = sum(1 for place in places if near[(*place, j)])
            lift = (both / n_i) / (n_near / len(places))
            share = both / len(places)
            score = 1.0 if share == 1 else math.log(lift) / -math.log(share)
            rows[i, j] = (both, n_i, n_j, both / n_i, reverse / n_j, summed / own, lift, score)
    return rows


COLUMNS = (
    "n_both", "n_feature", "n_other", "p_other_given_feature", "p_feature_given_other", "d_hat", "lift", "npmi",
)  # fmt: skip


def stored(warehouse: Any, **parameters: Any) -> dict[tuple[int, int], tuple[float, ...]]:
    (report,) = warehouse.analyze("cooccurrence", "p", **parameters)
    rows = warehouse.result_rows(report.run)
    assert set(rows["radius"]) <= {parameters.get("radius", 0)}
    assert not rows.select("feature_id", "other_feature_id").is_duplicated().any()
    return {row[:2]: row[2:] for row in rows.select("feature_id", "other_feature_id", *COLUMNS).rows()}


def check_equal(found: dict[Any, Any], expected: dict[Any, Any]) -> None:
    assert found.keys() == expected.keys()
    for pair, row in expected.items():
        assert found[pair] == pytest.approx(row, abs=1e-9), pair


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_equals_the_loop_over_patches(warehouse: Any, radius: int) -> None:
    make_patch_space(warehouse, "p", values(), GRID)
    expected = naive_rows(values(), GRID, radius)
    assert (4, 3) in expected and not any(5 in pair or 7 in pair for pair in expected)
    check_equal(stored(warehouse, radius=radius, min_support=1), expected)


def test_the_published_share(warehouse: Any) -> None:
    """Feature 1 is active where feature 0 is, and elsewhere: of 0 all of it falls where 1 is, of 1 a quarter."""
    values_ntf = np.zeros((1, 4, 2), dtype=np.float32)
    values_ntf[0, :1, 0], values_ntf[0, :4, 1] = 3, 2
    make_patch_space(warehouse, "p", values_ntf, (2, 2))
    found = stored(warehouse, min_support=1)
    assert found[0, 1][:6] == (1, 1, 4, 1.0, 0.25, 1.0) and found[1, 0][:6] == (1, 4, 1, 0.25, 1.0, 0.25)


@pytest.mark.parametrize("radius", [0, 1])
def test_blocks_change_nothing(warehouse: Any, monkeypatch: pytest.MonkeyPatch, radius: int) -> None:
    make_patch_space(warehouse, "p", values(), GRID)
    expected = naive_rows(values(), GRID, radius)
    for max_rows, max_pairs in ((1, 1), (40, 20), (10**6, 7)):
        monkeypatch.setattr(patch_pairs, "MAX_ROWS", max_rows)
        monkeypatch.setattr(patch_pairs, "MAX_PAIRS", max_pairs)
        check_equal(stored(warehouse, radius=radius, min_support=1, force=True), expected)


def test_images_that_the_space_does_not_cover_are_no_patches(warehouse: Any) -> None:
    ids = [1, 2, 5, 9, 12, 13, 20, 28, 29]
    make_patch_space(warehouse, "p", values(), GRID, ids)
    check_equal(stored(warehouse, min_support=1), naive_rows(values(), GRID, 0))


def test_limits_keep_the_strongest_pairs(warehouse: Any) -> None:
    make_patch_space(warehouse, "p", values(), GRID)
    everything = naive_rows(values(), GRID, 0)
    many = stored(warehouse, min_support=6)
    check_equal(many, {pair: row for pair, row in everything.items() if row[0] >= 6})
    assert len(many) < len(everything)
    strong = stored(warehouse, min_support=1, min_d_hat=0.5)
    check_equal(strong, {pair: row for pair, row in everything.items() if row[5] >= 0.5})
    assert len(strong) < len(everything)
    two = stored(warehouse, min_support=1, max_pairs=2)
    for feature in {i for i, _ in everything}:
        order = sorted((-row[5], j) for (i, j), row in everything.items() if i == feature)
        assert {j for i, j in two if i == feature} == {j for _, j in order[:2]}, feature


def test_only_the_most_frequent_features(warehouse: Any) -> None:
    make_patch_space(warehouse, "p", values(), GRID)
    counts = (values() > 0).sum((0, 1))
    most = set(sorted(range(F), key=lambda feature: (-counts[feature], feature))[:4])
    expected = {pair: row for pair, row in naive_rows(values(), GRID, 0).items() if set(pair) <= most}
    check_equal(stored(warehouse, min_support=1, features=4), expected)


def test_spaces_without_patches_are_refused(warehouse: Any) -> None:
    warehouse.import_features("s", values()[:, 0], list(range(N)))
    with pytest.raises(UsageError, match=r"needs patches.*--tokens patches"):
        list(warehouse.analyze("cooccurrence", "s"))


def test_a_silent_space_has_no_pairs(warehouse: Any) -> None:
    make_patch_space(warehouse, "p", np.zeros((2, 6, 3), dtype=np.float32), GRID)
    assert stored(warehouse) == {}


def test_results_of_several_radii_stand_side_by_side(warehouse: Any) -> None:
    make_patch_space(warehouse, "p", values(), GRID)
    for radius in (0, 1):
        stored(warehouse, radius=radius)
    assert sorted(warehouse.sql("SELECT DISTINCT radius FROM cooccurrence")["radius"]) == [0, 1]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 4))
def test_neighbours_are_within_the_distance(rows: int, columns: int, radius: int) -> None:
    near_tt = neighbours((rows, columns), radius)
    for one in range(rows * columns):
        for other in range(rows * columns):
            (r, c), (s, d) = divmod(one, columns), divmod(other, columns)
            assert near_tt[one, other] == (max(abs(r - s), abs(c - d)) <= radius)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.data())
def test_npmi_is_between_its_bounds(n: int, data: Any) -> None:
    n_i, n_j = data.draw(st.integers(1, n)), data.draw(st.integers(1, n))
    both = data.draw(st.integers(max(1, n_i + n_j - n), max(1, min(n_i, n_j))))
    score = float(npmi(np.array([both * n / (n_i * n_j)]), np.array([both / n]))[0])
    assert -1 - 1e-12 <= score <= 1 + 1e-12
    if both == n_i == n_j:
        assert score == pytest.approx(1)
