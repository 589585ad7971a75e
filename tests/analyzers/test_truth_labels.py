"""Labels on the starter world: the vocabulary names pure features right, and label_score knows right from wrong."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.truth import labels

SPACES = ("cls", "patches")

pytestmark = [
    pytest.mark.xdist_group("truth"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


@pytest.mark.parametrize("space", SPACES)
def test_the_vocabulary_names_pure_features_right(world: Any, space: str) -> None:
    """The world's words are its 36 values, its general words, the parts of its houses and faces."""
    named = labels.named(world, space)
    assert named.n_pure >= 40
    assert named.right >= 0.8, named
    assert named.shuffled <= 0.15, named
    assert named.default >= 0.35, "of 3,439 words, of which the small CLIP has learned some fifty"


@pytest.mark.parametrize("space", SPACES)
def test_label_score_ranks_the_right_label_above_a_random_one(world: Any, space: str) -> None:
    """The random one is that of another feature, and wrong; the control compares two random ones."""
    ranked = labels.ranked(world, space)
    assert ranked.n == len(world.pure(space))
    assert ranked.right_above_wrong >= 0.95
    assert 0.25 <= ranked.other_above_wrong <= 0.75
    right, wrong = ranked.means["right"], ranked.means["wrong"]
    assert right["auc"] >= 0.85 and right["balanced_accuracy"] >= 0.75
    assert 0.4 <= wrong["auc"] <= 0.6 and 0.4 <= wrong["balanced_accuracy"] <= 0.6
    assert right["beats_random"] >= 0.9 and wrong["beats_random"] <= 0.6


def test_labels_of_features_that_mean_nothing_score_low(world: Any) -> None:
    """Controls: a dictionary of an untrained CLIP, and the trained features' numbers on other images.

    The untrained CLIP still tells bright from dark and one colour from another, so its labels say something; those of
    the shuffled features say nothing but for the images by which they were chosen.
    """
    figures = {}
    for space in ("cls", "untrained_cls", "shuffled_cls"):
        n, figures[space] = labels.scores_of_labels(world, space)
        assert n >= 40
    assert figures["cls"]["auc"] >= 0.88
    assert figures["untrained_cls"]["auc"] <= figures["cls"]["auc"] - 0.1
    shuffled = figures["shuffled_cls"]
    assert 0.4 <= shuffled["auc"] <= 0.6 and 0.4 <= shuffled["balanced_accuracy"] <= 0.6
