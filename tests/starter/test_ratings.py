"""Ratings follow what was planted, and the dimension of pure noise follows nothing."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from glasshouse.plugins.starter.world import Scene, ratings_of, render_scene

N = 1200


@pytest.fixture(scope="module")
def world() -> list[Scene]:
    return [render_scene(8, index) for index in range(N)]


@pytest.fixture(scope="module")
def means(world: list[Scene]) -> dict[str, np.ndarray]:
    """Mean rating by dimension and image, NaN where nobody rated."""
    values = defaultdict(lambda: np.full(N, np.nan))
    for index, scene in enumerate(world):
        by_dimension = defaultdict(list)
        for rating in ratings_of(scene):
            by_dimension[rating.dimension].append(rating.value)
        for dimension, given in by_dimension.items():
            values[dimension][index] = np.mean(given)
    return values


def holds(world: list[Scene], value: str) -> np.ndarray:
    return np.array([value in scene.values() for scene in world], dtype=float)


def r(ratings: np.ndarray, signal: np.ndarray) -> float:
    rated = ~np.isnan(ratings)
    return float(np.corrcoef(ratings[rated], signal[rated])[0, 1])


def test_dimensions_follow_their_plants(world: list[Scene], means: dict[str, np.ndarray]) -> None:
    red, star = holds(world, "red"), holds(world, "star")
    assert 0.6 < r(means["commercial"], holds(world, "watermark")) < 0.9
    assert r(means["restless"], holds(world, "striped") - holds(world, "cyan")) > 0.6
    assert r(means["festive"], 0.6 * red + 0.4 * star) > 0.5
    rated = ~np.isnan(means["festive"])
    design = np.stack([red, star, np.ones(N)], axis=1)[rated]
    weights = np.linalg.lstsq(design, means["festive"][rated], rcond=None)[0]
    assert weights[0] / weights[1] == pytest.approx(1.5, abs=0.4)


def test_noise_and_shuffled_ratings_follow_nothing(world: list[Scene], means: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    for value in ("watermark", "red", "star", "striped", "cyan"):
        assert abs(r(means["luck"], holds(world, value))) < 0.1
        assert abs(r(rng.permutation(means["commercial"]), holds(world, value))) < 0.1
    assert abs(r(means["commercial"], holds(world, "red"))) < 0.1


def test_ratings_are_whole_and_some_are_missing(world: list[Scene]) -> None:
    ratings = [rating for scene in world for rating in ratings_of(scene)]
    assert {rating.value for rating in ratings} == set(range(1, 8))
    assert {rating.rater for rating in ratings} == {"rater-1", "rater-2", "rater-3"}
    assert len(ratings) / (N * 4 * 3) == pytest.approx(0.95 * 0.8, abs=0.02)
    by_rater = {name: np.mean([x.value for x in ratings if x.rater == name]) for name in ("rater-1", "rater-3")}
    assert by_rater["rater-3"] - by_rater["rater-1"] == pytest.approx(0.8, abs=0.15)


def test_a_scene_is_rated_the_same_every_time(world: list[Scene]) -> None:
    assert ratings_of(world[5]) == ratings_of(render_scene(8, 5))
