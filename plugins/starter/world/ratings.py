"""Ratings by several raters: three dimensions follow planted attributes, one follows nothing.

A rater gives whole numbers from 1 to 7. A rating is 4 + 2.2·(signal − its mean) + noise of the image + bias of the
rater + noise of the rating, rounded and clipped. Some ratings are missing, and some images lack a dimension
altogether.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from glasshouse.plugins.starter.world.scene import Scene, Stream

RATERS: Final = ("rater-1", "rater-2", "rater-3")
_RATER_BIAS: Final = (-0.4, 0.0, 0.4)
_SCALE: Final = 2.2
_IMAGE_NOISE: Final = 0.55
_RATING_NOISE: Final = 0.6
_MISSING_RATING: Final = 0.2
_MISSING_IMAGE: Final = 0.05

PLANTS: Final[dict[str, tuple[dict[str, float], float]]] = {
    "commercial": ({"watermark": 1.0}, 0.15),
    "festive": ({"red": 0.6, "star": 0.4}, 0.17),
    "restless": ({"striped": 1.0, "cyan": -1.0}, 0.16),
    "luck": ({}, 0.0),
}
"""Per dimension the weight that each value of a scene has in the planted signal, and the signal's mean over the world.

`commercial` follows the watermark, `festive` 0.6·red + 0.4·star, `restless` striped − cyan; `luck` is noise.
"""


class Rating(NamedTuple):
    """One rater's verdict on one dimension of one image; `value` is 1..7."""

    dimension: str
    rater: str
    value: int


def ratings_of(scene: Scene) -> list[Rating]:
    """The ratings of a scene; they depend on (seed, stream, index) and on the scene's values alone."""
    rng = np.random.default_rng((scene.seed, int(Stream.RATINGS), scene.stream, scene.index))
    values = scene.values()
    ratings = []
    for dimension, (weights, mean) in PLANTS.items():
        unrated = rng.random() < _MISSING_IMAGE
        signal = sum(weight for value, weight in weights.items() if value in values)
        level = 4.0 + _SCALE * (signal - mean) + _IMAGE_NOISE * rng.normal()
        for rater, bias in zip(RATERS, _RATER_BIAS, strict=True):
            rating = round(level + bias + _RATING_NOISE * rng.normal())
            missing = rng.random() < _MISSING_RATING
            if not (unrated or missing):
                ratings.append(Rating(dimension, rater, min(7, max(1, rating))))
    return ratings
