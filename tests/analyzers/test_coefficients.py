"""Sparse correlation against scipy on the same dense vectors, feature by feature."""

from __future__ import annotations

import warnings
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from glasshouse.plugins.analyzers.coefficients import correlate, rated_images
from glasshouse.plugins.analyzers.feature_rows import FeatureRows
from glasshouse.plugins.analyzers.significance import benjamini_hochberg, fisher_interval, two_sided_p

Array = np.ndarray[Any, Any]


def sparse_rows(dense_nf: Array) -> FeatureRows:
    """Bring a matrix [images, features] into the form in which a space is read."""
    image, feature = np.nonzero(dense_nf)
    value = dense_nf[image, feature]
    order = np.lexsort((image, -value, feature))
    bounds = np.concatenate([[0], np.cumsum(np.bincount(feature, minlength=dense_nf.shape[1]))])
    return FeatureRows(0, bounds, image[order].astype(np.int32), value[order].astype(np.float32))


def ours(dense_nf: Array, ratings_n: Array, covariates_nc: Array | None = None, *, ranks: bool = False) -> Array:
    """Return r [features] of every column with one rating; NaN where it is not tested."""
    covariates_nc = np.zeros((len(ratings_n), 0)) if covariates_nc is None else covariates_nc
    images = rated_images(ratings_n[:, None], covariates_nc, [0], ranks=ranks)
    if not len(images.columns_t):
        return np.full(dense_nf.shape[1], np.nan)
    return correlate(sparse_rows(dense_nf), [images], ranks=ranks)[0][:, 0]


def by_scipy(x_n: Array, y_n: Array, *, ranks: bool) -> tuple[float, float]:
    rated = ~np.isnan(y_n)
    x, y = x_n[rated].astype(np.float64), y_n[rated]
    if len(set(x)) < 2 or len(set(y)) < 2:
        return np.nan, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nearly constant input, which is among what is tried here
        found = scipy.stats.spearmanr(x, y) if ranks else scipy.stats.pearsonr(x, y)
    return float(found.statistic), float(found.pvalue)


def naive_partial(x: Array, y: Array, covariates_nc: Array) -> float:
    """Pearson of what least squares leave, written from the definition."""
    design = np.column_stack([np.ones(len(x)), covariates_nc])
    left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x.astype(np.float64), y)]
    return float(np.corrcoef(left)[0, 1])


def random_case(seed: int, n: int = 60, n_features: int = 40) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    dense = rng.exponential(size=(n, n_features)) * (rng.random((n, n_features)) < rng.random(n_features))
    ratings = np.round(rng.normal(4, 1, n) + dense[:, 3], 1)
    ratings[rng.random(n) < 0.2] = np.nan
    return dense.astype(np.float32), ratings


@pytest.mark.parametrize("ranks", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_r_and_p_equal_scipy(seed: int, ranks: bool) -> None:
    dense, ratings = random_case(seed)
    found = ours(dense, ratings, ranks=ranks)
    n = int((~np.isnan(ratings)).sum())
    compared = 0
    for x_n, r in zip(dense.T, found, strict=True):
        expected_r, expected_p = by_scipy(x_n, ratings, ranks=ranks)
        assert np.isnan(r) == np.isnan(expected_r)
        if not np.isnan(r):
            compared += 1
            assert r == pytest.approx(expected_r, abs=1e-12)
            assert float(two_sided_p(np.array(r), n - 2)) == pytest.approx(expected_p, rel=1e-9)
    assert compared > 30


NASTY = {
    "never active": np.zeros(12),
    "active on one image": np.eye(12)[5],
    "active on all": np.linspace(1, 2, 12),
    "equal on all": np.full(12, 0.7),
    "equal where active": np.repeat([0, 3.3], 6),
    "hardly varies": 1000 + np.arange(12) * 2.0**-13,
    "one image hardly differs": np.where(np.arange(12) == 7, 1 + 2.0**-23, 1.0),
    "huge": np.arange(12) * 1e37,
    "tiny": np.arange(12) * 1e-37,
    "huge beside tiny": np.array([1e-30, 1e30] * 6),
    "active only where nobody rated": np.array([5.0] * 2 + [0.0] * 10),
    "equal but where nobody rated": np.array([5.0] * 2 + [2.0] * 10),
}
RATINGS = {
    "plain": np.array([np.nan, np.nan, 1, 5, 2, 2, 7, 3, 3, 4, 1, 6.5]),
    "binary": np.array([np.nan, np.nan, 0, 1, 0, 0, 1, 1, 0, 1, 0, 1]),
    "far from zero": 1e9 + np.array([np.nan, np.nan, 1, 5, 2, 2, 7, 3, 3, 4, 1, 6.5]),
    "huge": 1e200 * np.array([np.nan, np.nan, 1, 5, 2, 2, 7, 3, 3, 4, 1, 6.5]),
    "equal": np.array([np.nan, np.nan, *[0.1] * 10]),
    "three": np.array([1.0, np.nan, np.nan, 2.0, *[np.nan] * 7, 4.0]),
}


@pytest.mark.parametrize("ranks", [False, True])
@pytest.mark.parametrize("rating", RATINGS)
def test_nasty_features_and_ratings_equal_scipy(rating: str, ranks: bool) -> None:
    dense = np.array(list(NASTY.values())).T.astype(np.float32)
    ratings = RATINGS[rating]
    scale = 1e-200 if rating == "huge" and not ranks else 1.0  # scipy overflows there; r does not depend on the scale
    for name, x_n, r in zip(NASTY, dense.T, ours(dense, ratings, ranks=ranks), strict=True):
        expected = by_scipy(x_n, ratings * scale, ranks=ranks)[0]
        assert r == pytest.approx(expected, abs=1e-9, nan_ok=True), name
    assert rating != "equal" or np.isnan(ours(dense, ratings)).all()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_anything_small_equals_scipy(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 12))
    value = st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.0, 2.0, 1e-3, 123.25])
    dense = np.array(data.draw(st.lists(st.lists(value, min_size=3, max_size=3), min_size=n, max_size=n)), np.float32)
    rating = st.sampled_from([np.nan, 1.0, 2.0, 2.5, 7.0, -3.0])
    ratings = np.array(data.draw(st.lists(rating, min_size=n, max_size=n)))
    ranks = data.draw(st.booleans())
    n_rated = int((~np.isnan(ratings)).sum())
    if n_rated < 3:
        return
    for x_n, r in zip(dense.T, ours(dense, ratings, ranks=ranks), strict=True):
        expected_r, expected_p = by_scipy(x_n, ratings, ranks=ranks)
        assert r == pytest.approx(expected_r, abs=1e-9, nan_ok=True)
        if not np.isnan(r) and abs(r) < 1 - 1e-9:
            assert float(two_sided_p(np.array(r), n_rated - 2)) == pytest.approx(expected_p, rel=1e-7)


def test_dimensions_with_different_gaps_do_not_mix() -> None:
    dense, _ = random_case(9)
    rng = np.random.default_rng(2)
    ratings = rng.normal(size=(len(dense), 3))
    ratings[:7, 0] = ratings[20:45, 2] = np.nan
    groups = [rated_images(ratings, np.zeros((len(dense), 0)), [c], ranks=False) for c in range(3)]
    for column, r_ft in enumerate(correlate(sparse_rows(dense), groups, ranks=False)):
        expected = [by_scipy(x_n, ratings[:, column], ranks=False)[0] for x_n in dense.T]
        np.testing.assert_allclose(r_ft[:, 0], expected, atol=1e-12)


def test_point_biserial_is_pearson_of_two_values() -> None:
    dense, ratings = random_case(5)
    binary = np.where(np.isnan(ratings), np.nan, (ratings > 4.5) * 2.0 + 1)
    rated = ~np.isnan(binary)
    for x_n, r in zip(dense.T, ours(dense, binary), strict=True):
        if not np.isnan(r):
            expected = scipy.stats.pointbiserialr(binary[rated] == 3, x_n[rated].astype(np.float64))
            assert r == pytest.approx(expected.statistic, abs=1e-12)


@pytest.mark.parametrize("ranks", [False, True])
@pytest.mark.parametrize("n_covariates", [1, 3])
def test_partial_correlation_equals_pearson_of_residuals(n_covariates: int, ranks: bool) -> None:
    dense, ratings = random_case(11)
    covariates = np.random.default_rng(4).random((len(dense), n_covariates))
    ratings = ratings + 3 * covariates[:, 0]
    dense[:, 7] = (covariates[:, 0] + 0.05 * dense[:, 7]).astype(np.float32)
    rated = ~np.isnan(ratings)
    rank = (lambda v: scipy.stats.rankdata(v, axis=0)) if ranks else (lambda v: v)
    found = ours(dense, ratings, covariates, ranks=ranks)
    for x_n, r in zip(dense.T, found, strict=True):
        if len(set(x_n[rated])) > 1:
            expected = naive_partial(rank(x_n[rated]), rank(ratings[rated]), rank(covariates[rated]))
            assert r == pytest.approx(expected, abs=1e-9)
    assert abs(ours(dense, ratings, ranks=ranks)[7]) > 0.4 > 0.3 > abs(found[7])


def test_covariates_that_say_nothing_cost_no_degrees_of_freedom() -> None:
    dense, ratings = random_case(12)
    one = np.random.default_rng(4).random((len(dense), 1))
    doubled = np.column_stack([one, np.full(len(one), 0.3), 2 * one - 1])
    images = rated_images(ratings[:, None], doubled, [0], ranks=False)
    assert images.n_covariates == 1
    np.testing.assert_allclose(ours(dense, ratings, doubled), ours(dense, ratings, one), atol=1e-12)


def test_a_feature_that_is_a_covariate_has_nothing_left() -> None:
    dense, ratings = random_case(13)
    covariates = np.random.default_rng(4).random((len(dense), 2)).astype(np.float32).astype(np.float64)
    dense[:, 0], dense[:, 1] = covariates[:, 0], np.float32(0.25) * covariates[:, 1]
    found = ours(dense, ratings, covariates)
    assert np.isnan(found[:2]).all() and np.isfinite(found[3])
    assert np.isnan(ours(dense, covariates[:, 0] * 5 + 1, covariates)).all()


def exact_p(r: float, freedom: int) -> Any:
    """Return p from the incomplete beta function, in 60 digits."""
    with mpmath.workdps(60):
        left = (1 - mpmath.mpf(r)) * (1 + mpmath.mpf(r))
        return mpmath.betainc(mpmath.mpf(freedom) / 2, mpmath.mpf(1) / 2, 0, left, regularized=True)


@pytest.mark.parametrize(
    ("r", "freedom"),
    [
        (0.5, 1), (0.999999, 1), (-0.9, 10), (1 - 1e-12, 3), (1e-9, 50), (0.99, 100), (-0.6, 1998), (0.08, 199_998),
        (-0.0825, 199_998), (0.9, 500), (0.0, 7),
    ],
)  # fmt: skip
def test_p_keeps_its_precision_in_the_far_tail(r: float, freedom: int) -> None:
    p, exact = float(two_sided_p(np.array(r), freedom)), exact_p(r, freedom)
    assert abs((mpmath.mpf(p) - exact) / exact) < 1e-9
    assert p > 0


def test_p_of_a_perfect_correlation_is_zero_and_never_above_one() -> None:
    np.testing.assert_array_equal(two_sided_p(np.array([1.0, -1.0, 0.0]), 5), [0, 0, 1])


def test_q_equals_statsmodels() -> None:
    rng = np.random.default_rng(0)
    p = np.concatenate([rng.random(500), rng.random(50) ** 8, [0, 0, 1e-300, 1, 1], np.full(20, 0.01)])
    np.testing.assert_allclose(benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1], rtol=1e-14)
    assert benjamini_hochberg(np.array([])).shape == (0,)


def test_the_interval_equals_scipy() -> None:
    dense, ratings = random_case(6)
    rated = ~np.isnan(ratings)
    r = ours(dense, ratings)
    low, high = fisher_interval(r, float(rated.sum() - 3), 0.9)
    for x_n, bounds in zip(dense.T, zip(low, high, strict=True), strict=True):
        if not np.isnan(bounds[0]):
            found = scipy.stats.pearsonr(x_n[rated].astype(np.float64), ratings[rated])
            expected = found.confidence_interval(0.9)
            np.testing.assert_allclose(bounds, [expected.low, expected.high], atol=1e-12)
    assert np.isnan(fisher_interval(np.array([0.5]), 0.0, 0.95)).all()
    np.testing.assert_array_equal(np.array(fisher_interval(np.array([1.0, -1.0]), 9.0, 0.95)), [[1, -1], [1, -1]])
