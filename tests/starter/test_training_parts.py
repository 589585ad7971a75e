"""The pieces of the training against slow, plain versions of the same. Nothing is trained here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from glasshouse.plugins.starter.dictionary import Dictionary, reconstruction
from glasshouse.plugins.starter.measures import (
    auc_table,
    choice_accuracy,
    feature_figures,
    neighbour_accuracies,
    purity_table,
    value_table,
)
from glasshouse.plugins.starter.training.data import make_pictures
from glasshouse.plugins.starter.training.losses import caption_loss, grid_positions, patch_masks
from glasshouse.plugins.starter.training.muon import orthogonalise
from glasshouse.plugins.starter.training.schedule import Batches, kept_patches, learning_rate
from glasshouse.plugins.starter.world.scene import Stream


def test_orthogonalised_matrix_keeps_directions_and_evens_lengths() -> None:
    torch.manual_seed(0)
    for shape in ((16, 40), (40, 16), (24, 24)):
        matrix = torch.randn(shape)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert values.max() < 1.3
        assert values.median() > 0.6
        aligned = left.T @ orthogonalise(matrix) @ right.T
        assert torch.allclose(aligned, torch.diag(torch.diag(aligned)), atol=1e-4)


def test_caption_loss_is_the_plain_double_loop() -> None:
    torch.manual_seed(1)
    n, scale = 7, 5.0
    image, text = (torch.nn.functional.normalize(torch.randn(n, 4), dim=1) for _ in range(2))
    truth = torch.randint(-1, 2, (n, n)).to(torch.int8)
    truth.fill_diagonal_(1)
    logits = (scale * text @ image.T).tolist()
    text_to_image = image_to_text = 0.0
    for c in range(n):
        known = [i for i in range(n) if truth[c, i] != -1]
        total = np.log(sum(np.exp(logits[c][i]) for i in known))
        own = [i for i in known if truth[c, i] == 1]
        text_to_image -= sum(logits[c][i] - total for i in own) / len(own) / n
    for i in range(n):
        rivals = [c for c in range(n) if truth[c, i] == 0 or c == i]
        image_to_text -= (logits[i][i] - np.log(sum(np.exp(logits[c][i]) for c in rivals))) / n
    found = caption_loss(image, text, truth, torch.tensor(scale))
    assert float(found) == pytest.approx((text_to_image + image_to_text) / 2, abs=1e-5)


def test_pictures_are_reproducible_and_of_the_three_sorts() -> None:
    first, again = (make_pictures(0, int(Stream.CLIP_TRAINING), 150, 2) for _ in range(2))
    assert np.array_equal(first.images_nhwc, again.images_nhwc)
    assert first.captions == again.captions
    assert 0.02 < first.easy_n.mean() < 0.2
    unknown = (first.facts_n32[:, :2, 0] != first.facts_n32[:, :2, 1]).any(axis=1)
    assert 0.05 < unknown.mean() < 0.28
    pixels_of_patches = patch_masks(first.masks_np)
    assert pixels_of_patches.shape == (150, 64, 64)
    top_left = np.unpackbits(first.masks_np, axis=1).reshape(150, 64, 64)[:, 8:16, 16:24]
    assert np.array_equal(pixels_of_patches[:, 8 + 2].reshape(150, 8, 8), top_left)


def test_kept_patches_are_those_with_something_on_them() -> None:
    rng = np.random.default_rng(0)
    facts = np.zeros((3, 64), dtype=np.uint64)
    facts[:, 10:20] = 5
    kept = kept_patches(facts, 28, rng)
    assert kept.shape == (3, 28)
    assert all(set(range(10, 20)) <= set(row.tolist()) for row in kept)
    assert bool((kept.diff(dim=1) > 0).all())


def test_easy_pictures_fade_out() -> None:
    pictures = make_pictures(0, int(Stream.CLIP_TRAINING), 200, 1)
    batches = Batches(pictures, 40, np.random.default_rng(0))
    shares = [pictures.easy_n[batches.draw(progress)].mean() for progress in (0.0, 0.15, 0.5)]
    assert shares[0] > shares[1] > shares[2] == 0
    assert learning_rate(0.03) == pytest.approx(1, abs=0.01)
    assert learning_rate(0.999) < 0.03


def test_positions_are_distinct() -> None:
    grid = grid_positions(128)
    assert grid.shape == (65, 128)
    assert torch.cdist(grid[1:], grid[1:]).fill_diagonal_(9).min() > 0.3


def test_auc_and_purity_against_plain_counts() -> None:
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 6, (60, 3)).astype(float)
    true = rng.random((60, 2)) < 0.4
    auc = auc_table(scores, true)
    for f in range(3):
        for v in range(2):
            pairs = [(a > b) + 0.5 * (a == b) for a in scores[true[:, v], f] for b in scores[~true[:, v], f]]
            assert auc[f, v] == pytest.approx(np.mean(pairs))
    purity = purity_table(scores, true)
    top = sorted(range(60), key=lambda i: (-scores[i, 1], i))[:20]
    base = true[:, 0].mean()
    assert purity[1, 0] == pytest.approx((true[top, 0].mean() - base) / (1 - base))


def test_a_perfect_feature_counts_and_noise_does_not() -> None:
    rng = np.random.default_rng(0)
    true = np.zeros((400, 36), dtype=bool)
    true[np.arange(400), rng.integers(36, size=400)] = True
    true[:, :2] = rng.random((400, 2)) < 0.3
    assert feature_figures(true.astype(float)[:, :2], true[:, :2]) == {
        "values with a pure feature": 2.0, "values with AUC > .95": 2.0,
    }  # fmt: skip
    noise = feature_figures(rng.random((400, 50)), true)
    assert noise == {"values with a pure feature": 0.0, "values with AUC > .95": 0.0}


def test_choice_and_neighbours_count_either_of_two_values() -> None:
    true = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=bool)
    scores = np.array([[0.1, 0.9, 0.5], [0.9, 0.0, 0.1], [1.0, 0.0, 0.0]])
    assert choice_accuracy(scores, true) == 0.5
    rng = np.random.default_rng(0)
    labels = value_table(rng.integers(0, 2**36, 60).astype(np.uint64))
    twins = np.repeat(labels, 12, axis=0)
    points = np.repeat(rng.normal(size=(60, 8)), 12, axis=0)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    assert min(neighbour_accuracies(points, twins).values()) == 1.0


def test_dictionary_file_keeps_what_it_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    made = Dictionary(
        directions.T.contiguous(), torch.zeros(6), directions, torch.ones(4), torch.tensor([0.5]), {"format": 1}
    )
    made.save(tmp_path)
    read = Dictionary.load(tmp_path)
    assert read.description == {"format": 1}
    acts = torch.randn(50, 4) + 1
    codes = read.encode(acts)
    for row, code in zip(acts, codes, strict=True):
        for feature in range(6):
            value = float(((row - 1) * directions[feature]).sum())
            assert float(code[feature]) == pytest.approx(value if value > 0.5 else 0.0, abs=0.01)
    assert reconstruction(read, acts)["l0"] == pytest.approx(float((codes > 0).float().sum(1).mean()))
