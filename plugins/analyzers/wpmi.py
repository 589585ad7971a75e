"""Soft weighted pointwise mutual information of features and words (CLIP-Dissect, arXiv 2204.10965).

With P the softmax over the words of 10·cos(image, word), and the images of a feature from the strongest, i = 0 … k − 1:

    S(word)     = Σ_i log(1 + p_i·(P_i,word − 1) + 1e-7),    p_i = 0.998 − (i / k)·0.028
    score(word) = S(word) − [logsumexp over features of S(word) − log(number of features)]

A feature that is active on m < k images has the sum over those, times k / m: else the features with the fewest images
would have by far the largest S, and alone decide what is taken off every word.

Memory stays bounded, since words are worked on in blocks: the softmax's sum over all words comes first, for each image;
then a block's P [images, words] and S [features, words].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

SHARPNESS = np.float32(10.0)
P_FIRST, P_SPAN, P_LEAST = 0.998, 0.028, 1e-7
_BLOCK_VALUES = 32_000_000
_FEATURES_AT_ONCE = 512
_FACTORS_AT_ONCE = 32


def word_blocks(n_images: int, n_features: int, n_words: int) -> Iterator[slice]:
    """Cut the words so that neither [images, words] nor [features, words] is larger than about 256 MB."""
    size = max(1, _BLOCK_VALUES // max(n_images, n_features, 1))
    for start in range(0, n_words, size):
        yield slice(start, min(start + size, n_words))


def log_sums(images_ne: Singles, words_we: Singles) -> Floats:
    """Return log Σ_words exp(10·cos) of every image, [n]. Both are unit vectors."""
    sums_n = np.zeros(len(images_ne))
    for block in word_blocks(len(images_ne), 0, len(words_we)):
        # 10·cos lies within ±10, so nothing overflows.
        sums_n += np.exp(SHARPNESS * (images_ne @ words_we[block].T)).sum(axis=1, dtype=np.float64)
    logs_n: Floats = np.log(sums_n)
    return logs_n


def evidence(top_fk: npt.NDArray[np.int64], probability_nw: Singles, k: int) -> Floats:
    """Return S [features, words].

    Args:
        top_fk: rows of `probability_nw` of each feature's images, strongest first; -1 after the last one. Every
            feature has at least one.
        probability_nw: P of some words, [images, words].
        k: number of images that p_i is spread over.
    """
    sums_fw = np.empty((len(top_fk), probability_nw.shape[1]))
    counts_f = (top_fk >= 0).sum(axis=1)
    for start in range(0, len(top_fk), _FEATURES_AT_ONCE):
        part = slice(start, start + _FEATURES_AT_ONCE)
        sums_fw[part] = _log_products(top_fk[part], probability_nw, k) * (k / counts_f[part, None])
    return sums_fw


def _log_products(top_fk: npt.NDArray[np.int64], probability_nw: Singles, k: int) -> Floats:
    """Return Σ_i log(1 + p_i(P − 1) + 1e-7); a few factors, each above .002, are multiplied before the logarithm."""
    logs_fw = np.zeros((len(top_fk), probability_nw.shape[1]))
    products_fw = np.ones_like(logs_fw)
    for i in range(top_fk.shape[1]):
        has_f = np.flatnonzero(top_fk[:, i] >= 0)
        p = P_FIRST - i / k * P_SPAN
        factors_fw = probability_nw[top_fk[has_f, i]] * p
        factors_fw += 1 - p + P_LEAST
        if len(has_f) == len(top_fk):
            products_fw *= factors_fw
        else:
            products_fw[has_f] *= factors_fw
        if (i + 1) % _FACTORS_AT_ONCE == 0 or i + 1 == top_fk.shape[1]:
            logs_fw += np.log(products_fw)
            products_fw[:] = 1
    return logs_fw


def best_words(
    top_fk: npt.NDArray[np.int64],
    images_ne: Singles,
    words_we: Singles,
    k: int,
    n_best: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Return the best words of every feature.

    Args:
        top_fk: rows of `images_ne`, as in `evidence`.
        images_ne: unit vectors.
        words_we: unit vectors.
        k: as in `evidence`.
        n_best: how many words per feature.
        progress: told (words done, words).

    Returns:
        word [features, n_best] (rows of `words_we`, best first, of equal ones the earlier), score [features, n_best],
        and share [features, n_best]: exp(score) over its sum over all words.
    """
    n_features, n_words = len(top_fk), len(words_we)
    n_best = min(n_best, n_words)
    log_sums_n = log_sums(images_ne, words_we)
    word_fb = np.full((n_features, 0), -1, dtype=np.int64)
    score_fb, total_f = np.empty((n_features, 0)), np.full(n_features, -np.inf)
    for block in word_blocks(len(images_ne), n_features, n_words):
        cosine_nw = SHARPNESS * (images_ne @ words_we[block].T)
        probability_nw = np.exp(cosine_nw - log_sums_n[:, None].astype(np.float32))
        score_fw = evidence(top_fk, probability_nw, k)
        score_fw -= _log_mean(score_fw)
        total_f = np.logaddexp(total_f, np.logaddexp.reduce(score_fw, axis=1))
        ids_w = np.broadcast_to(np.arange(block.start, block.stop), score_fw.shape)
        score_fb, word_fb = _best(
            np.concatenate([score_fb, score_fw], axis=1), np.concatenate([word_fb, ids_w], axis=1), n_best
        )
        progress(block.stop, n_words)
    return word_fb, score_fb, np.exp(score_fb - total_f[:, None])


def _log_mean(score_fw: Floats) -> Floats:
    """Return log of the mean over features of exp(S), [words]."""
    from scipy.special import logsumexp  # late: scipy.special takes a moment

    return np.asarray(logsumexp(score_fw, axis=0) - np.log(max(len(score_fw), 1)))


def _best(score_fw: Floats, word_fw: npt.NDArray[np.int64], n_best: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Keep the n highest scores of each feature, highest first, and their words."""
    order_fb = np.argsort(-score_fw, axis=1, kind="stable")[:, :n_best]
    score_fb: Floats = np.take_along_axis(score_fw, order_fb, axis=1)
    return score_fb, np.take_along_axis(word_fw, order_fb, axis=1)
