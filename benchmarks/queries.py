"""Questions through the Python door, warm: medians over random features and images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.rows import latency_row
from benchmarks.synthetic import Setting, SpaceShape
from benchmarks.table import Row
from benchmarks.timing import say
from glasshouse.warehouse.warehouse import Warehouse

MOST_FREQUENT = "SELECT feature_id, n_active FROM features WHERE space = $space ORDER BY n_active DESC LIMIT 10"


def run(setting: Setting) -> Iterator[Row]:
    """Yield every question, on the space of one vector per image and on the patch space."""
    warehouse, rng = setting.ready, np.random.default_rng(0)
    for shape in setting.shapes:
        say(f"  asking {shape.name}")
        yield from _questions(warehouse, shape, rng)


def _questions(warehouse: Warehouse, shape: SpaceShape, rng: np.random.Generator) -> Iterator[Row]:
    name = shape.name

    def feature() -> int:
        return int(rng.integers(shape.n_features))

    def image() -> int:
        return int(rng.integers(shape.n_images))

    yield latency_row(
        "queries", f"{name}: top-20 images of a feature", lambda: warehouse.top_images(name, feature(), 20), 10
    )
    yield latency_row(
        "queries", f"{name}: features of an image", lambda: warehouse.features_of_image(name, image()), 10
    )
    what = f"{name}: statistics of all {shape.n_features:,} features"
    yield latency_row("queries", what, lambda: warehouse.feature_statistics(name), 1000, 10)
    if shape.grid is not None:
        yield latency_row("queries", f"{name}: token map", lambda: warehouse.token_map(name, feature(), image()))
    what = f"{name}: every feature of an image"
    yield latency_row("queries", what, lambda: warehouse.features_of_image(name, image(), None), n_calls=5)
    yield latency_row("queries", f"{name}: as a sparse matrix", lambda: warehouse.sparse_matrix(name), n_calls=3)
    yield latency_row(
        "queries", f"{name}: ten most frequent features in SQL", lambda: warehouse.sql(MOST_FREQUENT, {"space": name})
    )
