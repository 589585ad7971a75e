"""What the demo found, with the truth of the rendered world beside it.

The truth about a feature: the value of the world that its 20 strongest images have most surprisingly often. With s the
value's share among them and b its share of all images, surprise = s·log(s/b) + (1−s)·log((1−s)/(1−b)) for s > b: all 20
having a rare value says more than all 20 having one that half of all images have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from glasshouse.plugins.starter.measures import PURE, TOP
from glasshouse.plugins.starter.world.ratings import PLANTS
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from glasshouse.warehouse.showing.findings import RatingFindings, Scored, SpaceFindings
    from glasshouse.warehouse.warehouse import Warehouse

SEARCHED = {"red": "red", "striped": "striped", "star": "star", "a watermark": "watermark", "warm": "warm",
            "polygon": "polygon"}  # fmt: skip
"""Words that the demo searches for, and the value that is meant; the last two stand for several values each."""

N_BEST, N_PREDICTORS = 6, 3


class Truth(NamedTuple):
    """What is true of a feature's strongest images: `n_true` of `n_top` have the value, of all images `base` do."""

    value: str
    n_true: int
    n_top: int
    base: float

    def __str__(self) -> str:
        return f"{self.value}: {self.n_true} of {self.n_top} (of all images {self.base:.0%})"


class Finding(NamedTuple):
    """A feature, the figure by which it was found, its label, and what is true of it.

    `is_planted` says of a rating's predictor whether nearly all of its strongest images have a value that the rating
    truly follows.
    """

    feature: str
    figure: float
    label: str | None
    truth: Truth | None
    q: float | None = None
    is_planted: bool | None = None


@dataclass(frozen=True)
class SpaceEnding:
    """Findings of one space; `ratings` by dimension, with its sentence; `searches` by the words."""

    space: str
    found: SpaceFindings
    best: list[Finding]
    ratings: list[tuple[RatingFindings, list[Finding]]]
    searches: dict[str, Finding]
    hits: dict[str, list[Scored]]


class WorldTruth:
    """Which images have which value, from the labels that the world wrote.

    Args:
        warehouse: of the demo.
    """

    def __init__(self, warehouse: Warehouse) -> None:
        rows = warehouse.sql(
            "SELECT image_id, CASE attribute WHEN 'watermark' THEN 'watermark' ELSE value END AS value "
            "FROM image_labels WHERE attribute <> 'split' AND value <> 'absent'"
        )
        self._warehouse = warehouse
        self._true: dict[str, npt.NDArray[np.bool_]] = {}
        self._top: dict[tuple[str, int], npt.NDArray[np.int32]] = {}
        n_images = warehouse.images().height
        self._none = np.zeros(n_images, dtype=bool)
        for (value,), part in rows.group_by("value", maintain_order=True):
            true_n = self._true[str(value)] = np.zeros(n_images, dtype=bool)
            true_n[part["image_id"].to_numpy()] = True

    def of(self, space: str, feature: int) -> Truth | None:
        """Return what is most over-represented among a feature's strongest images; None where it is never active."""
        truths = [self.about(space, feature, value) for value in sorted(self._true)]
        known = [truth for truth in truths if truth.n_top]
        return max(known, key=surprise) if known else None

    def about(self, space: str, feature: int, value: str) -> Truth:
        """Return how many of a feature's strongest images have a value."""
        if (space, feature) not in self._top:
            top = self._warehouse.top_images(space, feature, TOP)["image_id"].to_numpy()
            self._top[space, feature] = top
        top_k, true_n = self._top[space, feature], self._true.get(value, self._none)
        return Truth(value, int(true_n[top_k].sum()), len(top_k), float(true_n.mean()))


def surprise(truth: Truth) -> float:
    """Return how much more often than in all images a value is there, in nats; 0 where it is not."""
    share, base = truth.n_true / truth.n_top, truth.base
    if share <= base:
        return 0.0
    rest = 0.0 if share == 1 else (1 - share) * math.log((1 - share) / (1 - base))
    return share * math.log(share / base) + rest


def is_pure(truth: Truth) -> bool:
    """Say whether nearly all of a feature's strongest images have the value."""
    return truth.n_top > 0 and truth.n_true >= PURE * truth.n_top


def remark(dimension: str) -> str:
    """Say what a rating truly follows."""
    weights = PLANTS[dimension][0]
    if not weights:
        return "Truth: it follows nothing. Of all that is found at q < .05, about one in twenty is chance."
    terms = ""
    for value, weight in weights.items():
        sign = " − " if weight < 0 else " + " if terms else ""
        terms += f"{sign}{'' if abs(weight) == 1 else f'{abs(weight):g} '}{value}"
    return f"Truth: it follows {terms}, with noise."


def remarks() -> dict[str, str]:
    """Return the truth about every rating, by dimension."""
    return {dimension: remark(dimension) for dimension in PLANTS}


def ending_of(warehouse: Warehouse, space: str) -> SpaceEnding:
    """Gather the findings of a space; what was not analysed is empty."""
    from glasshouse.warehouse.showing.findings import findings_of
    from glasshouse.warehouse.showing.gather import feature_cards

    found = findings_of(warehouse, space, 2 * N_BEST)
    hits = _hits(warehouse, space)
    wanted = [s.feature_id for s in found.best] + [p.feature_id for r in found.ratings for p in r.predictors]
    wanted += [s.feature_id for scored in hits.values() for s in scored]
    cards = {card.feature_id: card for card in feature_cards(warehouse, space, sorted(set(wanted)), 1)}
    truth = WorldTruth(warehouse)

    def finding(feature: int, figure: float) -> Finding:
        return Finding(cards[feature].name, figure, cards[feature].label, truth.of(space, feature))

    ratings = []
    for rating in found.ratings:
        planted = PLANTS.get(rating.dimension, ({}, 0.0))[0]
        rows = []
        for predictor in rating.predictors[:N_PREDICTORS]:
            row = finding(predictor.feature_id, predictor.r)
            about = [truth.about(space, predictor.feature_id, value) for value in planted]
            rows.append(row._replace(q=predictor.q, is_planted=any(map(is_pure, about))))
        ratings.append((rating, rows))
    return SpaceEnding(
        space,
        found,
        [finding(scored.feature_id, scored.value) for scored in found.best[:N_BEST]],
        ratings,
        {
            word: finding(*scored[0])._replace(truth=truth.about(space, scored[0].feature_id, SEARCHED[word]))
            for word, scored in hits.items()
            if scored
        },
        hits,
    )


def _hits(warehouse: Warehouse, space: str) -> dict[str, list[Scored]]:
    from glasshouse.warehouse.showing.searched import hits_for

    try:
        return hits_for(warehouse, space, list(SEARCHED))
    except UsageError:  # no concept vectors, as in a world of a handful of images
        return {}
