"""Histograms of activations, whose bins are fixed in advance, so that those of batches and of later images add up.

A bin holds the float32 numbers of one exponent and of the same first three bits of the mantissa: eight bins of equal
width for each doubling of the value. A bin is at most 1/8 as wide as its lower edge (12.5 %), but for subnormal numbers
(below 1.2e-38). Zero is a bin of its own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

N_BINS = 2042
"""Bin 0 is zero, bins 1 to 2040 are finite values, bin 2041 is infinity."""

_SHIFT = 20
"""Bits of a float32 below the first three of its mantissa."""

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def bins_of(value_n: Floats) -> npt.NDArray[np.int16]:
    """Return the bin of each value; values are at least 0."""
    bits_n = np.ascontiguousarray(value_n, dtype=np.float32).view(np.int32)
    return np.where(bits_n == 0, 0, (bits_n >> _SHIFT) + 1).astype(np.int16)


def edges_of(bin_n: npt.NDArray[np.integer[Any]]) -> tuple[Floats, Floats]:
    """Return the lower edge of bins, which belongs to them, and the upper one, which belongs to the next."""
    highest = np.int32(N_BINS - 2)
    step_n = bin_n.astype(np.int32)
    lower_n = (np.maximum(step_n - 1, 0) << _SHIFT).view(np.float32)
    upper_n = (np.minimum(step_n, highest) << _SHIFT).view(np.float32)
    return lower_n, upper_n


def quantiles(
    feature_r: Ints, bin_r: Ints, n_r: Ints, max_f: npt.NDArray[np.float64], shares_q: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return quantiles of features over all images, silent ones included: [F, quantiles].

    Within a bin values are taken to be spread evenly; none is given above the feature's maximum. So a quantile is off
    by less than its bin is wide.

    Args:
        feature_r: feature of each row of the histograms, ascending.
        bin_r: its bin, ascending within a feature.
        n_r: images in it.
        max_f: the largest value of each feature [F], NaN where it is never active.
        shares_q: share of the images that lie at or below the quantile, 0 to 1.
    """
    result_fq = np.zeros((len(max_f), len(shares_q)))
    lower_r, upper_r = (edge_r.astype(np.float64) for edge_r in edges_of(bin_r))
    upper_r = np.fmin(upper_r, max_f[feature_r])
    bounds = np.searchsorted(feature_r, np.arange(len(max_f) + 1))
    for feature, (first, end) in enumerate(pairwise(bounds)):
        if first == end:
            continue
        up_to_r = np.cumsum(n_r[first:end])
        wanted_q = shares_q * up_to_r[-1]
        place_q = np.minimum(np.searchsorted(up_to_r, wanted_q), end - first - 1)
        row_q = first + place_q
        within_q = (wanted_q - (up_to_r[place_q] - n_r[row_q])) / n_r[row_q]
        with np.errstate(invalid="ignore"):  # infinite activations have no quantile between them
            inside_q = lower_r[row_q] + np.maximum(within_q, 0) * (upper_r[row_q] - lower_r[row_q])
        result_fq[feature] = np.where(bin_r[row_q] == 0, 0.0, inside_q)
    return result_fq
