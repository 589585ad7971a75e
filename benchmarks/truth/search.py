"""Search by words: does the first feature for a word, or do the first images, show what was asked for?

A feature shows a value when at least 18 of its 20 strongest images do; an image on which it is silent shows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.truth.world import World
from glasshouse.plugins.starter.world.vocabulary import CORE_VALUES, GENERAL_WORDS

TOP = 20
SHOWS = 0.9
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "centred": {"centre": True},
    "templates": {"templates": ("a photo of {}", "a picture of {}", "an image with {}"), "centre": True},
}
"""Options of a search by name; `templates` are centred too."""


def found_values(world: World, space: str, way: str = "plain") -> float:
    """Share of the 36 values whose first feature shows them."""
    shares = shares_of_first(world, space, CORE_VALUES, way)
    return sum(share >= SHOWS for share in shares.values()) / len(CORE_VALUES)


def found_general(world: World, space: str, way: str = "plain") -> float:
    """Share of the general words whose first feature shows one of the values that the word stands for."""
    shares = shares_of_first(world, space, tuple(GENERAL_WORDS), way)
    return sum(share >= SHOWS for share in shares.values()) / len(GENERAL_WORDS)


def shares_of_first(world: World, space: str, words: Sequence[str], way: str = "plain") -> dict[str, float]:
    """Of each word's first feature the share of its 20 strongest images that show the word."""
    world.warehouse.analyze("concepts", space)
    first = world.warehouse.search(list(words), space=space, k=1, **WAYS[way])
    shares = {}
    for word, feature in zip(first["query"], first["feature_id"], strict=True):
        strongest = world.warehouse.top_images(space, feature, TOP)["image_id"].to_numpy()
        shares[word] = float(world.true_n[word][strongest].sum() / TOP)
    return shares


def lacking(world: World, space: str) -> set[str]:
    """Values and general words that no feature of the space shows, so that no search could find them."""
    codes_nf = world.codes(space)
    top_kf = np.argsort(-codes_nf, axis=0, kind="stable")[:TOP]
    active_kf = np.take_along_axis(codes_nf, top_kf, axis=0) > 0
    best = {word: ((true_n[top_kf] & active_kf).sum(axis=0) / TOP).max() for word, true_n in world.true_n.items()}
    return {word for word, share in best.items() if share < SHOWS}


def images_right(world: World, k: int = 10) -> float:
    """Share of the first k images for each value and general word that show it."""
    hits = world.warehouse.search(list(world.true_n), images=True, k=k)
    right = [world.true_n[word][image] for word, image in zip(hits["query"], hits["image_id"], strict=True)]
    return float(np.mean(right))
