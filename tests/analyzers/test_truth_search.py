"""Search on the starter world: the first feature for each word shows what was asked for; controls find nothing.

A feature shows a value when at least 18 of its 20 strongest images do. Both spaces have such a feature for every value.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.truth import search

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("truth"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]


@pytest.mark.parametrize("way", ["plain", "centred", "templates"])
def test_words_find_the_feature_of_every_value(world: Any, way: str) -> None:
    assert search.found_values(world, "patches", way) >= 0.97
    assert search.found_values(world, "cls", way) >= (0.91 if way == "plain" else 0.97)


@pytest.mark.parametrize("space", ["cls", "patches"])
@pytest.mark.parametrize("way", ["plain", "centred"])
def test_general_words_find_a_feature_of_their_group(world: Any, space: str, way: str) -> None:
    assert search.found_general(world, space, way) == 1


@pytest.mark.parametrize("space", ["cls", "patches"])
def test_there_is_a_feature_to_be_found_for_every_word(world: Any, space: str) -> None:
    assert search.lacking(world, space) == set()
    assert len(search.lacking(world, f"shuffled_{space}")) > 36


def test_controls_find_nothing(world: Any) -> None:
    """Shuffled activations show nothing; half the values are simple enough for an untrained encoder."""
    for space in ("cls", "patches"):
        for way in ("plain", "centred"):
            assert search.found_values(world, f"shuffled_{space}", way) <= 0.03
        assert search.found_values(world, f"untrained_{space}") <= 0.6


def test_images_by_words(world: Any) -> None:
    """The first images for a word show it."""
    assert search.images_right(world) >= 0.95
