"""Bootstrap intervals of monosemanticity scores over the top images.

A resample draws as many of a feature's top images as it has, with replacement; image i comes w_i times, and the score
is Σ_{i<j} w_i w_j ã_i ã_j cos / Σ_{i<j} w_i w_j ã_i ã_j. An image that is drawn twice makes no pair with itself. The
cosines of a feature's images are computed once, and all its resamples are one matrix product over pairs. Features with
as many images share their draws, which leaves each interval as it is and makes the product one for many features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.directions import Directions
from glasshouse.plugins.analyzers.feature_rows import FeatureRows
from glasshouse.plugins.analyzers.monosemantic_scores import Floats

INTERVAL = (0.025, 0.975)
"""Percentiles of the resampled scores."""

NUMBERS_AT_ONCE = 1 << 21
"""Entries of the unit vectors that a thread works on: 16 MB."""


def intervals(
    rows: FeatureRows,
    weight_r: Floats,
    directions: Directions,
    n_resamples: int,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Floats, Floats]:
    """Lower and upper end of the 95 % interval [features]; NaN for features without a score.

    Args:
        rows: top images of each feature, as rows of `directions`.
        weight_r: ã of each row.
        directions: of the images.
        n_resamples: draws per feature.
        seed: of the draws.
        progress: told how many features are done.
    """
    low_f, high_f = (np.full(len(rows.bounds_f) - 1, np.nan) for _ in range(2))
    draws = {n: _pair_counts(n, n_resamples, seed) for n in map(int, np.unique(rows.counts_f)) if n > 1}

    def compute(features: npt.NDArray[np.intp]) -> int:
        n = int(rows.counts_f[features[0]])
        row_fk = rows.bounds_f[features, None] + np.arange(n)
        pairs = _weighted_pairs(rows.image_r[row_fk], weight_r[row_fk], directions)
        low_f[features], high_f[features] = _ends(*pairs, draws[n])
        return len(features)

    done = 0
    n_threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(n_threads, "bootstrap") as pool:
        for n_done in pool.map(compute, list(_groups(rows, directions.width))):
            done += n_done
            progress(done)
    return low_f, high_f


def _groups(rows: FeatureRows, width: int) -> Iterator[npt.NDArray[np.intp]]:
    """Yield features with equally many rows, as many of them as fit into `NUMBERS_AT_ONCE`."""
    for n in map(int, np.unique(rows.counts_f)):
        if n < 2:
            continue
        features = np.flatnonzero(rows.counts_f == n)
        step = max(1, NUMBERS_AT_ONCE // max(n * width, n * n))
        yield from (features[start : start + step] for start in range(0, len(features), step))


def _pair_counts(n: int, n_resamples: int, seed: int) -> Floats:
    """w_i w_j [resamples, pairs i < j] for draws of n from n."""
    rng = np.random.default_rng([seed, n])
    drawn_sk = rng.integers(n, size=(n_resamples, n))
    count_sk = np.apply_along_axis(np.bincount, 1, drawn_sk, minlength=n).astype(np.float64)
    one, other = np.triu_indices(n, 1)
    pair_sp: Floats = count_sk[:, one] * count_sk[:, other]
    return pair_sp


def _weighted_pairs(
    image_fk: npt.NDArray[np.int32], weight_fk: Floats, directions: Directions
) -> tuple[Floats, Floats]:
    """ã_i ã_j cos and ã_i ã_j [features, pairs i < j]."""
    unit_fke = directions.rows(image_fk)
    cosine_fkk = unit_fke @ unit_fke.transpose(0, 2, 1)
    one, other = np.triu_indices(image_fk.shape[1], 1)
    weight_fp = weight_fk[:, one] * weight_fk[:, other]
    return weight_fp * cosine_fkk[:, one, other], weight_fp


def _ends(above_fp: Floats, below_fp: Floats, draw_sp: Floats) -> tuple[Floats, Floats]:
    """Percentiles [features] of the resampled scores; resamples in which no pair has weight are left out."""
    with np.errstate(invalid="ignore"):
        score_fs = (above_fp @ draw_sp.T) / (below_fp @ draw_sp.T)
    score_fs.sort(axis=1)  # NaN goes to the end
    last_f = np.sum(~np.isnan(score_fs), axis=1) - 1
    low_f, high_f = (_quantile(score_fs, last_f, share) for share in INTERVAL)
    return low_f, high_f


def _quantile(sorted_fs: Floats, last_f: npt.NDArray[np.intp], share: float) -> Floats:
    """Interpolate linearly between the entries 0 to `last` of each row; NaN for rows without any."""
    place_f = share * np.maximum(last_f, 0)
    below_f = np.floor(place_f).astype(int)
    above_f = np.minimum(below_f + 1, np.maximum(last_f, 0))
    row_f = np.arange(len(sorted_fs))
    low_f, high_f = sorted_fs[row_f, below_f], sorted_fs[row_f, above_f]
    quantile_f: Floats = low_f + (place_f - below_f) * (high_f - low_f)
    return quantile_f
