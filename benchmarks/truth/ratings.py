"""Ratings: do the features that follow a rating show the values planted in it, and does noise find nothing?"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from benchmarks.truth.world import SHUFFLED, World
from glasshouse.plugins.analyzers.coefficients import correlate, rated_images
from glasshouse.plugins.analyzers.feature_rows import feature_rows
from glasshouse.plugins.analyzers.significance import benjamini_hochberg, two_sided_p
from glasshouse.plugins.view import AnalysisView

PLANTED = {"commercial": {"watermark": 1}, "festive": {"red": 1, "star": 1}, "restless": {"striped": 1, "cyan": -1}}
"""The attributes behind each dimension, with the sign of their part."""
CONTROLS = ("luck", *(f"{SHUFFLED} {dimension}" for dimension in PLANTED))
METHODS = ("pearson", "spearman")
COVARIATES = ("brightness", "edge_energy", "saturation")


class Place(NamedTuple):
    """Where the first feature that shows a planted attribute stands among a rating's features, 0 being the first."""

    attribute: str
    place: int
    r: float
    q: float


class Planted(NamedTuple):
    """What was found of one rating: its attributes' places, and that of the first pure feature of anything else."""

    places: tuple[Place, ...]
    first_unrelated: int

    @property
    def last(self) -> int:
        """The worst place of an attribute."""
        return max(place.place for place in self.places)


def planted(world: World, space: str, method: str) -> dict[str, Planted]:
    """Where planted attributes stand among the features of each rating, by |r|; behind all where none shows one."""
    rows = world.rows("correlation", space, method=method, dimensions=(*PLANTED, "luck"))
    values = world.values_of(space)
    found = {}
    for dimension, signs in PLANTED.items():
        own = rows.filter((rows["dimension"] == dimension) & rows["r"].is_not_null())
        order = np.argsort(-np.abs(own["r"].to_numpy()), kind="stable")
        ranked = [own.row(int(i), named=True) for i in order]
        places = []
        for attribute in signs:
            place = next((i for i, row in enumerate(ranked) if attribute in values[row["feature_id"]]), len(ranked))
            first = ranked[place] if place < len(ranked) else {"r": np.nan, "q": np.nan}
            places.append(Place(attribute, place, first["r"], first["q"]))
        shown = [values[row["feature_id"]] for row in ranked]
        unrelated = (i for i, has in enumerate(shown) if has and not has & set(signs))
        found[dimension] = Planted(tuple(places), next(unrelated, len(ranked)))
    return found


def is_first(dimension: str, one: Planted) -> bool:
    """Whether a rating's attributes stand before all that is unrelated, with q < .05 and the sign that was planted."""
    signs = PLANTED[dimension]
    significant = all(place.q < 0.05 and np.sign(place.r) == signs[place.attribute] for place in one.places)
    return significant and one.last < one.first_unrelated


def n_found(world: World, space: str, dimensions: tuple[str, ...], method: str = "pearson") -> dict[str, int]:
    """How many features each rating finds at q < .05, q being over all of these ratings."""
    run = world.warehouse.analyze("correlation", space, method=method, dimensions=dimensions)[-1].run
    return {name: counts["n_found"] for name, counts in run.notes["tested"].items()}


def shuffles_that_find(world: World, space: str, method: str, n: int = 30) -> int:
    """Of n runs, each on another shuffle of `festive`, how many find anything at q < .05."""
    (rows,) = feature_rows(AnalysisView(world.warehouse, space))
    frame = world.warehouse.sql(
        "SELECT image_id, avg(value) AS value FROM ratings WHERE dimension = 'festive' GROUP BY ALL"
    )
    ratings_n = np.full(world.n_images, np.nan)
    ratings_n[frame["image_id"].to_numpy()] = frame["value"].to_numpy()
    rng, n_with, ranks = np.random.default_rng(5), 0, method == "spearman"
    for _ in range(n):
        shuffled_n1 = rng.permutation(ratings_n)[:, None]
        images = rated_images(shuffled_n1, np.zeros((world.n_images, 0)), [0], ranks=ranks)
        r_f = correlate(rows, [images], ranks=ranks)[0][:, 0]
        q_f = benjamini_hochberg(two_sided_p(r_f[~np.isnan(r_f)], images.n_rated - 2))
        n_with += bool((q_f < 0.05).any())
    return n_with


def partial_watermark(world: World) -> float:
    """Largest r of a feature with `commercial`, given what brightness, edges and saturation say of the image."""
    return float(world.rows("correlation", "cls", dimensions=("commercial",), covariates=COVARIATES)["r"].max())


def reliability(world: World) -> dict[str, dict[str, Any]]:
    """The raters' agreement, by dimension."""
    run = world.warehouse.analyze("correlation", "cls", dimensions=(*PLANTED, "luck"))[-1].run
    return dict(run.notes["reliability"])
