"""The two sides of a label's test: images on which a feature is strongest, and random ones on which it is silent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

Ids = npt.NDArray[np.int32]

FEATURES_AT_ONCE = 1024
"""Features whose active images are read in one query."""
DRAWN = 4
"""Images drawn for each silent one that is wanted; where that is not enough, all are looked at."""


class Sides(NamedTuple):
    """Of one feature: `active_p` image ids, strongest first; `silent_q` image ids in random order."""

    feature: int
    active_p: Ids
    silent_q: Ids


def sides_of(
    view: AnalysisView, features: Sequence[int], n_active: int, n_silent: int, seed: int, candidates_n: Ids
) -> Iterator[Sides]:
    """Yield the two sides of every feature; fewer images than asked for where there are no more.

    A feature's random images depend on the seed and on the feature alone, not on which others are asked about.

    Args:
        view: of the space.
        features: ascending.
        n_active: of the strongest images.
        n_silent: of random images among `candidates_n` without any activation.
        seed: of the random images.
        candidates_n: images that can be compared, ascending: those of the space that have what the scorer needs.
    """
    is_active_n = np.zeros(len(candidates_n), dtype=bool)
    for start in range(0, len(features), FEATURES_AT_ONCE):
        block = features[start : start + FEATURES_AT_ONCE]
        for feature, image_p in _active_images(view, block).items():
            place_p = np.searchsorted(candidates_n, image_p[np.isin(image_p, candidates_n)])
            is_active_n[place_p] = True
            silent_q = _silent(is_active_n, n_silent, np.random.default_rng((seed, feature)))
            is_active_n[place_p] = False
            yield Sides(feature, candidates_n[place_p[:n_active]], candidates_n[silent_q])


def _active_images(view: AnalysisView, features: Sequence[int]) -> dict[int, Ids]:
    """Return the images on which each feature is active, strongest first."""
    with view.connection() as connection:
        found = connection.sql(
            "SELECT feature_id, image_id FROM activations WHERE feature_id IN (SELECT unnest($features)) AND value > 0 "
            "ORDER BY feature_id, value DESC, image_id",
            params={"features": [int(feature) for feature in features]},
        ).fetchnumpy()
    wanted = np.asarray(features, dtype=np.int64)
    starts = np.searchsorted(found["feature_id"], wanted, side="left")
    ends = np.searchsorted(found["feature_id"], wanted, side="right")
    return {
        int(feature): found["image_id"][start:end] for feature, start, end in zip(wanted, starts, ends, strict=True)
    }


def _silent(is_active_n: npt.NDArray[np.bool_], n_silent: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the places of up to n random silent images."""
    n_images = len(is_active_n)
    if not n_images:
        return np.empty(0, dtype=np.int64)
    drawn = rng.choice(n_images, size=min(n_images, DRAWN * n_silent), replace=False)
    silent = drawn[~is_active_n[drawn]]
    if len(silent) < n_silent and len(drawn) < n_images:
        silent = rng.permutation(np.flatnonzero(~is_active_n))
    return np.asarray(silent[:n_silent], dtype=np.int64)
