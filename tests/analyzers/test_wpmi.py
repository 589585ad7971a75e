"""soft-WPMI against the formula written out, image by image and word by word."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from glasshouse.plugins.analyzers import wpmi
from glasshouse.plugins.analyzers.wpmi import best_words, word_blocks

Array = np.ndarray[Any, Any]


def naive(tops: list[list[int]], images_ne: Array, words_we: Array, k: int) -> Array:
    """Scores [features, words] as in the definition, in plain Python."""
    soft = []
    for image in images_ne.tolist():
        powers = [
            math.exp(10 * math.fsum(a * b for a, b in zip(image, word, strict=True))) for word in words_we.tolist()
        ]
        soft.append([power / math.fsum(powers) for power in powers])
    sums = []
    for images in tops:
        row = []
        for word in range(len(words_we)):
            terms = [
                math.log(1 + (0.998 - i / k * 0.028) * (soft[image][word] - 1) + 1e-7) for i, image in enumerate(images)
            ]
            row.append(math.fsum(terms) * k / len(images))
        sums.append(row)
    common = []
    for word in range(len(words_we)):
        column = [row[word] for row in sums]
        most = max(column)
        common.append(most + math.log(math.fsum(math.exp(s - most) for s in column)) - math.log(len(sums)))
    return np.array([[s - c for s, c in zip(row, common, strict=True)] for row in sums])


def unit(rng: np.random.Generator, n: int, width: int) -> Array:
    vectors = rng.normal(size=(n, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def padded(tops: list[list[int]], k: int) -> Array:
    return np.array([[*images, *[-1] * (k - len(images))] for images in tops])


@pytest.fixture(params=["whole", "in small blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "in small blocks":
        monkeypatch.setattr(wpmi, "_BLOCK_VALUES", 90)
        monkeypatch.setattr(wpmi, "_FEATURES_AT_ONCE", 4)
        monkeypatch.setattr(wpmi, "_FACTORS_AT_ONCE", 3)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("k", [1, 7, 20])
def test_words_and_scores_equal_the_formula(k: int) -> None:
    rng = np.random.default_rng(k)
    images, words = unit(rng, 30, 6), unit(rng, 17, 6)
    # Features with all of k images, with fewer, and with a single one.
    tops = [rng.permutation(30)[: max(1, min(k, size))].tolist() for size in (30, 30, 5, 1, 12, 30, 30, 3, 2)]
    expected = naive(tops, images, words, k)
    word, score, share = best_words(padded(tops, k), images, words, k, 4)
    order = np.argsort(-expected, axis=1)[:, :4]
    np.testing.assert_array_equal(word, order)
    np.testing.assert_allclose(score, np.take_along_axis(expected, order, axis=1), atol=2e-4)
    softmax = np.exp(expected - expected.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    np.testing.assert_allclose(share, np.take_along_axis(softmax, order, axis=1), atol=2e-4)
    assert (np.diff(share, axis=1) <= 0).all()


def test_many_images_do_not_underflow() -> None:
    rng = np.random.default_rng(0)
    images, words = unit(rng, 900, 5), unit(rng, 40, 5)
    tops = [rng.permutation(900).tolist() for _ in range(2)]
    _, score, _ = best_words(padded(tops, 900), images, words, 900, 40)
    expected = -np.sort(-naive(tops, images, words, 900), axis=1)
    np.testing.assert_allclose(score, expected, atol=2e-2)
    assert np.abs(expected).max() > 1


def test_more_words_than_there_are_gives_all() -> None:
    rng = np.random.default_rng(1)
    word, _, share = best_words(padded([[0, 1]], 2), unit(rng, 3, 4), unit(rng, 5, 4), 2, 9)
    assert sorted(word[0]) == [0, 1, 2, 3, 4]
    assert share.sum() == pytest.approx(1)


def test_blocks_cover_all_words_once_and_stay_small() -> None:
    blocks = list(word_blocks(200_000, 49_152, 3_439))
    assert [word for block in blocks for word in range(block.start, block.stop)] == list(range(3_439))
    assert max(block.stop - block.start for block in blocks) * 200_000 * 4 <= 256e6
    assert len(list(word_blocks(10**9, 5, 3))) == 3
