"""The figures by which the starter's models are judged, computed from arrays and the truth.

An image with two objects has two values of an attribute; a prediction is right when it is one of them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from glasshouse.plugins.starter.world.vocabulary import BIT, CORE_ATTRIBUTES, CORE_VALUES

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]

TOP: Final = 20
"""Number of strongest images over which the purity of a feature is taken."""
PURE: Final = 0.9
SEPARATES: Final = 0.95


def value_table(facts_n: npt.NDArray[np.uint64], values: tuple[str, ...] = CORE_VALUES) -> BoolArray:
    """Truth [n, values] of each value, from one bit set per image."""
    positions = np.array([BIT[value] for value in values], dtype=np.uint64)
    return (facts_n[:, None] >> positions & np.uint64(1)).astype(bool)


def choice_accuracy(scores_nv: FloatArray, true_nv: BoolArray) -> float:
    """Share of images whose highest-scored value is true, among images for which any of the values is."""
    asked_n = true_nv.any(axis=1)
    picked_n = scores_nv.argmax(axis=1)
    return float(true_nv[np.arange(len(true_nv)), picked_n][asked_n].mean())


def auc_table(scores_nf: FloatArray, true_nv: BoolArray) -> FloatArray:
    """Area under the ROC curve [features, values] of every score for every value; ties count by half."""
    ranks_nf = rankdata(scores_nf, axis=0)
    n_true_v = true_nv.sum(axis=0).astype(float)
    n_false_v = len(true_nv) - n_true_v
    rank_sum_fv = ranks_nf.T @ true_nv.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        auc: FloatArray = (rank_sum_fv - n_true_v * (n_true_v + 1) / 2) / (n_true_v * n_false_v)
    return auc


def purity_table(codes_nf: FloatArray, true_nv: BoolArray) -> FloatArray:
    """Purity over chance [features, values]: (share of the value among the feature's top 20 - base) / (1 - base).

    Base is the value's share of all images. Features active on fewer than 20 images get -inf.
    """
    base_v = true_nv.mean(axis=0)
    top_kf = np.argsort(-codes_nf, axis=0, kind="stable")[:TOP]
    share_fv = true_nv[top_kf].mean(axis=0)
    purity_fv = (share_fv - base_v) / (1 - base_v)
    purity_fv[(codes_nf > 0).sum(axis=0) < TOP] = -np.inf
    return np.asarray(purity_fv)


def feature_figures(codes_nf: FloatArray, true_nv: BoolArray) -> dict[str, float]:
    """How many of the 36 values have a pure feature, and how many a feature of AUC above .95."""
    return {
        "values with a pure feature": float((purity_table(codes_nf, true_nv).max(axis=0) >= PURE).sum()),
        "values with AUC > .95": float((auc_table(codes_nf, true_nv).max(axis=0) > SEPARATES).sum()),
    }


def neighbour_accuracies(embedding_nd: FloatArray, true_nv: BoolArray, k: int = 10) -> dict[str, float]:
    """Accuracy by attribute of a vote of the k nearest other images, by cosine of unit embeddings.

    Every neighbour votes for all of its values; for the watermark, which is there or not, the majority decides.
    """
    similarity_nn = embedding_nd @ embedding_nd.T
    np.fill_diagonal(similarity_nn, -np.inf)
    nearest_nk = np.argpartition(-similarity_nn, k, axis=1)[:, :k]
    accuracies, start = {}, 0
    for attribute, values in CORE_ATTRIBUTES.items():
        labels_nv = true_nv[:, start : start + len(values)]
        votes_nv = labels_nv[nearest_nk].sum(axis=1).astype(float)
        if len(values) == 1:
            accuracies[attribute] = float(((votes_nv[:, 0] > k / 2) == labels_nv[:, 0]).mean())
        else:
            accuracies[attribute] = choice_accuracy(votes_nv, labels_nv)
        start += len(values)
    return accuracies
