"""Clarity and polysemanticity of sets of vectors (SemanticLens, arXiv 2501.05398), many sets at once, in float64.

    clarity(V) = n / (n − 1) · (‖mean v̂‖² − 1 / n)                      v̂ = v / ‖v‖

which is the mean cosine of different vectors. With c₀ and c₁ the centres of two k-means clusters of the raw vectors,

    polysemanticity(V) = 1 − clarity({c₀, c₁}) = 1 − cos(c₀, c₁)

or 1 − the mean of cos(mean V, v_i) over the first min(10, n) vectors where a cluster has fewer than two members. A
zero vector has no direction: v̂ = 0 in the formula, as in the published code, and its cosine with anything is 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from glasshouse.plugins.analyzers.two_means import draws, two_means

N_CLUSTERS: Final = 2
N_FALLBACK: Final = 10
"""Examples that are compared with the mean where a cluster has fewer than two members."""
AT_ONCE: Final = 1 << 23
"""Coordinates, or inner products, of the sets that are worked on together: 64 MB of float64."""
TOO_SHORT: Final = 1e-6
"""Squared lengths of centres below this share of the longest vector's are computed from the vectors themselves."""

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]


class _Sets(NamedTuple):
    """Sets of n vectors each: their places among all sets [b], and float64 [b, n, E]."""

    place_b: npt.NDArray[np.int64]
    vectors_bne: Floats


def clarities(n_f: npt.NDArray[np.int64], vectors_pe: Vectors) -> Floats:
    """Return the clarity of each set of vectors, NaN of those with fewer than two: float64 [f], from −1 / (n − 1) to 1.

    Args:
        n_f: how many vectors each set has; Σ n_f = p.
        vectors_pe: finite; set after set.
    """
    score_f = np.full(len(n_f), np.nan)
    for place_b, vectors_bne in _sets(n_f, vectors_pe, least=2):
        score_f[place_b] = _clarity(vectors_bne)
    return score_f


def polysemanticities(n_f: npt.NDArray[np.int64], vectors_pe: Vectors, seed: int) -> tuple[Floats, int]:
    """Return the polysemanticity of each set; NaN of those with fewer than two vectors.

    Args:
        n_f: how many vectors each set has; Σ n_f = p.
        vectors_pe: finite; set after set, the strongest example first.
        seed: of k-means.

    Returns:
        float64 [f], from 0 to 2; and the number of sets whose clusters `two_means` left to scikit-learn.
    """
    score_f = np.full(len(n_f), np.nan)
    n_asked = 0
    for sets in _sets(n_f, vectors_pe, least=2):
        # Products of 30 × 30 are many and small: threads that share one of them cost ten times what they save.
        with threadpool_limits(limits=1, user_api="blas"):
            score_f[sets.place_b], is_certain_b = _scored(sets.vectors_bne, seed)
        for row in np.flatnonzero(~is_certain_b):
            score_f[sets.place_b[row]] = polysemanticity_by_scikit_learn(sets.vectors_bne[row], seed)
        n_asked += int((~is_certain_b).sum())
    return score_f, n_asked


def polysemanticity_by_scikit_learn(vectors_ne: Floats, seed: int) -> float:
    """Return the polysemanticity of one set as the definition says: a fit of scikit-learn's KMeans, and its centres."""
    from sklearn.cluster import KMeans  # late: a second that most runs never need
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Fewer different vectors than clusters: the cluster that stays empty has fewer than two members.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(n_clusters=N_CLUSTERS, n_init=10, random_state=seed).fit(vectors_ne)
    if np.bincount(fitted.labels_, minlength=N_CLUSTERS).min() >= 2:
        return 1 - float(_clarity(fitted.cluster_centers_[None])[0])
    mean_e = vectors_ne.mean(axis=0)
    return 1 - float(np.mean([_cosine(mean_e, vector_e) for vector_e in vectors_ne[:N_FALLBACK]]))


def _clarity(vectors_bne: Floats) -> Floats:
    n = vectors_bne.shape[1]
    mean_be = np.einsum("bn,bne->be", _inverse(np.sqrt(_squares(vectors_bne))), vectors_bne) / n
    score_b: Floats = n / (n - 1) * (_squares(mean_be) - 1 / n)
    return score_b


def _cosine(one_e: Floats, other_e: Floats) -> float:
    lengths = float(np.linalg.norm(one_e) * np.linalg.norm(other_e))
    return float(one_e @ other_e) / lengths if lengths else 0.0


def _scored(vectors_bne: Floats, seed: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return polysemanticity [b], and where it is certain; the clusters from inner products alone."""
    n = vectors_bne.shape[1]
    squares_bn = _squares(vectors_bne)
    enough_b = TOO_SHORT * squares_bn.max(axis=1)
    mean_be = vectors_bne.mean(axis=1)
    mean_b = _squares(mean_be)
    product_bn = np.einsum("bne,be->bn", vectors_bne, mean_be)
    cosine_bn = product_bn * _inverse(np.sqrt(squares_bn)) * _inverse(np.sqrt(mean_b))[:, None]
    by_mean_b = 1 - cosine_bn[:, :N_FALLBACK].mean(axis=1)
    if n < 2 * N_CLUSTERS:  # one of the clusters has fewer than two members, whichever they are
        return by_mean_b, mean_b > enough_b
    centred_bne = vectors_bne - mean_be[:, None]
    gram_bnn = centred_bne @ centred_bne.transpose(0, 2, 1)
    found = two_means(gram_bnn, vectors_bne.shape[2], draws(n, seed))
    along_bk = np.einsum("bkn,bn->bk", found.weights_bkn, product_bn - mean_b[:, None])
    centres_bkk = found.weights_bkn @ gram_bnn @ found.weights_bkn.transpose(0, 2, 1)
    centres_bkk += along_bk[:, :, None] + along_bk[:, None, :] + mean_b[:, None, None]
    is_split_b = found.smaller_b >= 2
    shortest_b = np.where(is_split_b, np.einsum("bkk->bk", centres_bkk).min(axis=1), mean_b)
    lengths_b = np.sqrt(np.maximum(centres_bkk[:, 0, 0] * centres_bkk[:, 1, 1], 0))
    by_centres_b = 1 - centres_bkk[:, 0, 1] * _inverse(lengths_b)
    return np.where(is_split_b, by_centres_b, by_mean_b), found.certain_b & (shortest_b > enough_b)


def _squares(vectors_xe: Floats) -> Floats:
    squares_x: Floats = np.einsum("...e,...e->...", vectors_xe, vectors_xe)
    return squares_x


def _inverse(lengths_x: Floats) -> Floats:
    """1 / length, and 0 of 0."""
    return np.divide(1, lengths_x, out=np.zeros_like(lengths_x), where=lengths_x > 0)


def _sets(n_f: npt.NDArray[np.int64], vectors_pe: Vectors, least: int) -> Iterator[_Sets]:
    """Yield the sets of equal size together, as many as memory allows; those of fewer than `least` vectors never."""
    first_f = np.concatenate([[0], np.cumsum(n_f)])[:-1]
    width = vectors_pe.shape[1]
    for n in np.unique(n_f[n_f >= least]):
        places = np.flatnonzero(n_f == n)
        step = max(1, AT_ONCE // (int(n) * max(int(n), width)))
        for start in range(0, len(places), step):
            some = places[start : start + step]
            rows_bn = first_f[some][:, None] + np.arange(n)
            yield _Sets(some, vectors_pe[rows_bn].astype(np.float64))
