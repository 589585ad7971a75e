"""How well scores tell two sides apart: AUC, and balanced accuracy by a threshold that was chosen on other images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.floating[Any]]


def auc_columns(active_pl: Scores, silent_ql: Scores) -> npt.NDArray[np.float64]:
    """Return the AUC of every column: P(active > silent) + ½ P(equal); NaN where a side is empty.

    Args:
        active_pl: scores of the active images under L labels [P, L].
        silent_ql: scores of the silent images [Q, L].
    """
    from scipy.stats import rankdata

    n_active, n_silent = len(active_pl), len(silent_ql)
    if not n_active or not n_silent:
        return np.full(active_pl.shape[1], math.nan)
    ranks = rankdata(np.concatenate([active_pl, silent_ql]), axis=0)
    rank_sum_l = ranks[:n_active].sum(axis=0)
    return np.asarray((rank_sum_l - n_active * (n_active + 1) / 2) / (n_active * n_silent), dtype=np.float64)


def held_out_accuracy(active_p: Scores, silent_q: Scores) -> float:
    """Return the balanced accuracy of "score > threshold", the threshold always chosen on other images.

    Both sides are split in two, every other image; on each half the best threshold is found (the middle one of the
    best, halfway between two scores), and judged on the other half. A threshold chosen on the same images would make
    random labels look better than ½. NaN with fewer than two images on a side.
    """
    if len(active_p) < 2 or len(silent_q) < 2:
        return math.nan
    halves = [(active_p[i::2], silent_q[i::2]) for i in (0, 1)]
    accuracies = [balanced_accuracy(*judged, best_threshold(*seen)) for seen, judged in (halves, halves[::-1])]
    return float(np.mean(accuracies))


def balanced_accuracy(active_p: Scores, silent_q: Scores, threshold: float) -> float:
    """Return the mean of the shares of active images above the threshold and of silent ones at or below it."""
    return float((np.mean(active_p > threshold) + np.mean(silent_q <= threshold)) / 2)


def best_threshold(active_p: Scores, silent_q: Scores) -> float:
    """Return the threshold of the largest balanced accuracy: the median of the best midpoints between scores."""
    values = np.unique(np.concatenate([active_p, silent_q]).astype(np.float64))
    edges = np.concatenate([[values[0] - 1], (values[:-1] + values[1:]) / 2, [values[-1] + 1]])
    above = 1 - np.searchsorted(np.sort(active_p), edges, side="right") / len(active_p)
    below = np.searchsorted(np.sort(silent_q), edges, side="right") / len(silent_q)
    accuracy = above + below
    best = edges[accuracy >= accuracy.max() - 1e-12]
    return float(best[len(best) // 2])


def none_for_nan(value: float) -> float | None:
    """Return None for NaN, which is how results say "not known"."""
    return None if math.isnan(value) else float(value)
