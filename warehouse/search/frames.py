"""Hits as frames: features beside what the view `features` says of them, images beside their paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from glasshouse.warehouse.frames import frame_of
from glasshouse.warehouse.quoting import identifier

if TYPE_CHECKING:
    import polars as pl

    from glasshouse.warehouse.search.door import WarehouseSearch
    from glasshouse.warehouse.search.questions import Question
    from glasshouse.warehouse.search.search import FeatureHits, Hits, ImageHits

SHOWN = ("label", "name", "ms", "tier", "dimension", "r", "n_active")
"""Columns of `features` that are shown beside a hit, where analyses have made them."""


def feature_frame(warehouse: WarehouseSearch, question: Question, found: FeatureHits) -> pl.DataFrame:
    """Return query, space, feature_id, score and what is known of each feature, in the order of the hits."""
    import polars as pl

    frame = _frame(question, found.hits, "feature_id").with_columns(pl.Series("space", found.hits.space_h, pl.String))
    frame = frame.select("query", "space", "feature_id", "score")
    with warehouse.reading() as connection:
        there = connection.sql("FROM features").columns
        shown = [identifier(name) for name in SHOWN if name in there]
        keys = pa.table(
            {"space": found.hits.space_h, "feature_id": found.hits.id_h, "hit": list(range(len(found.hits.id_h)))},
            schema=pa.schema([("space", pa.string()), ("feature_id", pa.int32()), ("hit", pa.int32())]),
        )
        connection.register("hits", keys)
        listing = ", ".join(["hit", *shown])
        known = frame_of(
            connection.table("hits")
            .join(connection.table("features"), "space, feature_id", "left")
            .project(listing)
            .order("hit")
        )
    return pl.concat([frame, known.drop("hit")], how="horizontal")


def image_frame(warehouse: WarehouseSearch, question: Question, found: ImageHits) -> pl.DataFrame:
    """Return query, image_id, score, path in the order of the hits."""
    import polars as pl

    frame = _frame(question, found.hits, "image_id")
    paths = warehouse.images()["path"].gather(frame["image_id"])
    return frame.with_columns(pl.Series("path", paths))


def _frame(question: Question, hits: Hits, key: str) -> pl.DataFrame:
    import polars as pl

    names = [question.names[query] for query in hits.query_h]
    return pl.DataFrame({"query": pl.Series(names, dtype=pl.String), key: hits.id_h, "score": hits.score_h})
