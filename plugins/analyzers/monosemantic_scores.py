"""Monosemanticity score, the formulas: Pach et al., "Sparse Autoencoders Learn Monosemantic Features in VLMs".

    MS = Σ_{i<j} ã_i ã_j cos(e_i, e_j) / Σ_{i<j} ã_i ã_j        ã = activations, min-max normalised

Pairs of an image with itself are left out. With unit vectors ê the sums over pairs have a linear form,
(‖Σ ã ê‖² − Σ ã²) / ((Σ ã)² − Σ ã²), one pass over the activations. Where one image outweighs all others its
differences cancel; those features take a form that only adds.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, repeat
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.directions import Directions
from glasshouse.plugins.analyzers.feature_rows import FeatureRows

if TYPE_CHECKING:
    import scipy.sparse

Floats = npt.NDArray[np.float64]

POLYSEMANTIC: Final = "polysemantic"
MODERATE: Final = "moderate"
MONOSEMANTIC: Final = "monosemantic"

COLUMNS_AT_ONCE = 128
"""Coordinates per product: their float64 copy for 200,000 images takes 200 MB."""

CANCELS = 1e-4
"""Below this share of (Σ ã)² the difference (Σ ã)² − Σ ã² has lost too many of its sixteen digits."""

ROWS_AT_ONCE = 4096


def min_max_weights(rows: FeatureRows) -> Floats:
    """ã [rows]: 1 for a feature's strongest image, 0 for its weakest; 1 for all where they are equal."""
    value_r = rows.value_r.astype(np.float64)
    filled_f = rows.counts_f > 0
    highest_f, lowest_f = value_r[rows.bounds_f[:-1][filled_f]], value_r[rows.bounds_f[1:][filled_f] - 1]
    counts_f = rows.counts_f[filled_f]
    range_r = np.repeat(highest_f - lowest_f, counts_f)
    weight_r: Floats = np.ones(len(value_r))
    np.divide(value_r - np.repeat(lowest_f, counts_f), range_r, out=weight_r, where=range_r > 0)
    return weight_r


def weights_among_all(rows: FeatureRows, n_images: int) -> Floats:
    """ã [rows] where every one of n images counts, those without a row as 0.

    The minimum is 0 unless a feature is active on all images, and a common factor changes nothing in the score.
    """
    weight_r = rows.value_r.astype(np.float64)
    everywhere_r = np.repeat(rows.counts_f == n_images, rows.counts_f)
    if everywhere_r.any():
        weight_r[everywhere_r] = min_max_weights(rows)[everywhere_r]
    return weight_r


def scores(rows: FeatureRows, weight_r: Floats, directions: Directions) -> Floats:
    """MS [features]; NaN where no pair of images has weight.

    Args:
        rows: whose images are rows of `directions`.
        weight_r: ã ≥ 0 of each row.
        directions: of the images.
    """
    total_f, squares_f = _sums(rows, weight_r), _sums(rows, weight_r**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        score_f: Floats = (_squared_lengths(rows, weight_r, directions) - squares_f) / (total_f**2 - squares_f)
        cancels_f = ~(1 - squares_f / total_f**2 > CANCELS)
    for feature in np.flatnonzero(cancels_f):
        own = slice(*rows.bounds_f[feature : feature + 2])
        score_f[feature] = adding_score(rows.image_r[own], weight_r[own], directions)
    return score_f


def _sums(rows: FeatureRows, number_r: Floats) -> Floats:
    """Sum [features] of a number over each feature's rows."""
    sum_f = np.zeros(len(rows.bounds_f) - 1)
    filled_f = rows.counts_f > 0
    if filled_f.any():
        sum_f[filled_f] = np.add.reduceat(number_r, rows.bounds_f[:-1][filled_f])
    return sum_f


def _squared_lengths(rows: FeatureRows, weight_r: Floats, directions: Directions) -> Floats:
    """‖Σ ã ê‖² [features], some coordinates at a time, in a thread for each processor."""
    n_threads = len(os.sched_getaffinity(0))
    # More parts than threads, because a part takes the longer the more its images are scattered.
    parts = _row_parts(rows, weight_r, len(directions.image_ids), 4 * n_threads)
    length_f = np.zeros(len(rows.bounds_f) - 1)
    width = directions.width
    # One buffer for all: fresh memory of this size costs more than what is written to it.
    buffer = np.empty(len(directions.image_ids) * min(width, COLUMNS_AT_ONCE))
    with ThreadPoolExecutor(n_threads, "monosemanticity") as pool:
        for first in range(0, width, COLUMNS_AT_ONCE):
            end = min(first + COLUMNS_AT_ONCE, width)
            shape = (len(directions.image_ids), end - first)
            unit_nc = directions.columns(first, end, buffer[: shape[0] * shape[1]].reshape(shape))
            length_f += np.concatenate(list(pool.map(_squares_of_product, parts, repeat(unit_nc))))
    return length_f


def _squares_of_product(part_fn: scipy.sparse.csr_array, unit_nc: Floats) -> Floats:
    """Squared length [features] of each row of the product."""
    sum_fc = part_fn @ unit_nc
    squares_f: Floats = np.einsum("fc,fc->f", sum_fc, sum_fc)
    return squares_f


def _row_parts(rows: FeatureRows, weight_r: Floats, n_images: int, n_parts: int) -> list[scipy.sparse.csr_array]:
    """Split the weights, sparse [features, images], into parts of about as many rows each."""
    import scipy.sparse  # late: half a second that `glasshouse analyze --help` need not wait

    cuts = np.searchsorted(rows.bounds_f, np.arange(1, n_parts) * (rows.bounds_f[-1] // n_parts))
    edges = np.unique([0, *cuts, len(rows.bounds_f) - 1])
    parts = []
    for first, end in pairwise(edges.tolist()):
        own = slice(rows.bounds_f[first], rows.bounds_f[end])
        bounds = (rows.bounds_f[first : end + 1] - rows.bounds_f[first]).astype(np.int32)
        parts.append(
            scipy.sparse.csr_array(
                (weight_r[own], rows.image_r[own], bounds), shape=(end - first, n_images), copy=False
            )
        )
    return parts


def adding_score(image_r: npt.NDArray[np.int32], weight_r: Floats, directions: Directions) -> float:
    """MS of one feature without a difference: Σ_j ã_j ê_j · Σ_{i<j} ã_i ê_i over the same of ã, weakest first.

    Every term of the denominator is positive, and the errors of the numerator are as small against it as its terms.
    NaN where no pair has weight.
    """
    order = np.argsort(weight_r, kind="stable")
    sum_e, sum_weight, above, below = np.zeros(directions.width), 0.0, 0.0, 0.0
    for start in range(0, len(order), ROWS_AT_ONCE):
        part = order[start : start + ROWS_AT_ONCE]
        weighted_re = directions.rows(image_r[part]) * weight_r[part, None]
        sums_re = np.cumsum(np.vstack([sum_e[None], weighted_re]), axis=0)
        sums_r = np.cumsum(np.concatenate([[sum_weight], weight_r[part]]))
        above += float(np.einsum("re,re->", weighted_re, sums_re[:-1]))
        below += float(weight_r[part] @ sums_r[:-1])
        sum_e, sum_weight = sums_re[-1], float(sums_r[-1])
    return above / below if below > 0 else float("nan")


def classes(score_f: Floats, thresholds: tuple[float, float] | None) -> list[str | None]:
    """Class of each score, from the thresholds of moderate and monosemantic; None for NaN, and without thresholds."""
    if thresholds is None:
        return [None] * len(score_f)
    moderate_from, monosemantic_from = thresholds
    names = np.array([POLYSEMANTIC, MODERATE, MONOSEMANTIC], dtype=object)
    class_f = names[(score_f >= moderate_from).astype(int) + (score_f >= monosemantic_from)]
    class_f[np.isnan(score_f)] = None
    return list(class_f)


def concentration(sum_f: Floats, squares_f: Floats) -> Floats:
    """Σa² / (Σa)² [features] over the active images: 1 / n when all are equal, 1 for a single one; NaN for none."""
    with np.errstate(invalid="ignore"):
        concentration_f: Floats = squares_f / sum_f**2
    return concentration_f
