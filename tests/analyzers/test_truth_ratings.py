"""What predicts the planted ratings of the starter world, what its features are called, and controls beside both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.truth import labels, ratings
from benchmarks.truth.ratings import CONTROLS, PLANTED
from glasshouse.plugins.starter.world.vocabulary import CORE_VALUES
from glasshouse.schema.errors import UsageError

pytestmark = [
    pytest.mark.xdist_group("truth"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


def test_every_value_is_on_some_images_and_not_on_all(world: Any) -> None:
    assert set(CORE_VALUES) < set(world.true_n)
    assert all(true_n.any() and not true_n.all() for true_n in world.true_n.values())


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("space", ["cls", "patches"])
def test_planted_attributes_come_first(world: Any, space: str, method: str) -> None:
    found = ratings.planted(world, space, method)
    assert set(found) == set(PLANTED)
    for dimension, one in found.items():
        assert [place.attribute for place in one.places] == list(PLANTED[dimension])
        assert one.last < 5, (dimension, one)
        for place, sign in zip(one.places, PLANTED[dimension].values(), strict=True):
            assert place.q < 0.05 and np.sign(place.r) == sign
        assert one.last < one.first_unrelated, (dimension, one)
        assert ratings.is_first(dimension, one)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("space", ["cls", "patches"])
def test_noise_and_shuffled_ratings_find_next_to_nothing(world: Any, space: str, method: str) -> None:
    """At q < .05 one run in twenty finds something where there is nothing; planted ratings find dozens."""
    found = ratings.n_found(world, space, CONTROLS, method)
    assert set(found) == set(CONTROLS) and len(CONTROLS) == 4
    assert sum(found.values()) <= 1


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("space", ["cls", "patches"])
def test_few_of_many_shuffles_find_anything(world: Any, space: str, method: str) -> None:
    """Of 30 runs on shuffled ratings at most 5 find something: with one in twenty, more has a chance of .003."""
    assert ratings.shuffles_that_find(world, space, method, n=30) <= 5


@pytest.mark.parametrize("space", ["cls", "patches"])
def test_beside_planted_ratings_noise_has_a_small_share_of_what_is_found(world: Any, space: str) -> None:
    """q is over all dimensions of a run: 5 % of all that is found may be false, most of it where nothing is true."""
    found = ratings.n_found(world, space, (*PLANTED, "luck"))
    assert found["luck"] <= 0.1 * sum(found.values())
    assert sum(found.values()) - found["luck"] >= 15 and min(found[dimension] for dimension in PLANTED) >= 2


def test_the_watermark_is_more_than_brightness(world: Any) -> None:
    assert ratings.partial_watermark(world) > 0.6


def test_raters_agree_on_what_was_planted_more_than_on_noise(world: Any) -> None:
    reliability = ratings.reliability(world)
    agreement = {name: figures["icc2k"] for name, figures in reliability.items()}
    assert all(agreement[dimension] > agreement["luck"] for dimension in PLANTED)
    assert all(figures["n_raters"] == 3 for figures in reliability.values())


def test_words_are_right_and_those_of_shuffled_images_are_not(world: Any) -> None:
    for space in ("cls", "patches"):
        assert len(world.pure(space)) > 30
        assert labels.first_words(world, space, space) >= 0.8
        assert labels.first_words(world, labels.shuffled(space), space) <= 0.2


def test_features_shows_the_first_word_and_ranks_go_with_scores(world: Any) -> None:
    run = world.warehouse.analyze("soft_wpmi", "cls", vocabulary=labels.prompts(world), n_words=2)[-1].run
    rows = world.warehouse.sql("FROM soft_wpmi WHERE space = 'cls' ORDER BY feature_id, rank")
    n_active = int((world.warehouse.feature_statistics("cls")["n_active"] > 0).sum())
    assert rows.height == 2 * n_active == 2 * run.notes["n_features"]
    assert rows["rank"].to_list() == [0, 1] * n_active
    scores = rows["score"].to_numpy().reshape(-1, 2)
    assert (scores[:, 0] >= scores[:, 1]).all()
    shown = world.warehouse.sql(
        "SELECT feature_id, f.word FROM features AS f WHERE space = 'cls' AND f.word IS NOT NULL"
    )
    first = dict(rows.filter(rank=0).select("feature_id", "word").iter_rows())
    assert dict(shown.iter_rows()) == first
    assert run.parameters["embedding"] == "clip"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"embedding": "dinov2"}, "no embedding with a text tower 'dinov2'.*clip"),
        ({"vocabulary": "nowhere.txt"}, "There is no file nowhere.txt"),
        ({"template": ("a photo",)}, "has no {}"),
    ],
)
def test_what_soft_wpmi_cannot_do_is_said(world: Any, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        world.warehouse.analyze("soft_wpmi", "cls", **parameters)


def test_an_embedding_without_text_is_not_enough(warehouse: Any) -> None:
    rng = np.random.default_rng(0)
    warehouse.import_features("x", rng.random((30, 5)).astype(np.float32), images=list(range(30)))
    warehouse.import_embeddings("other", rng.normal(size=(30, 5)).astype(np.float32), images=list(range(30)))
    with pytest.raises(UsageError, match="no image embedding of an encoder with a text tower"):
        warehouse.analyze("soft_wpmi", "x")
