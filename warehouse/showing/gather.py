"""Reading what a card shows, through the views. What was never computed is simply not there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import duckdb

from glasshouse.schema.errors import UsageError
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.extraction.targets import kept_words
from glasshouse.warehouse.quoting import identifier
from glasshouse.warehouse.results.views import ResultView, result_views
from glasshouse.warehouse.showing.cards import FeatureCard, ImageCard, Row, SimilarFeature, StrongFeature, TopImage

if TYPE_CHECKING:
    from glasshouse.warehouse.reads import WarehouseReads
    from glasshouse.warehouse.warehouse import Warehouse

N_ROWS = 200
"""Rows of one analysis about one feature that a card has at most."""

N_SIMILAR = 5


def feature_card(warehouse: WarehouseReads, space: str, feature_id: int, k: int = 12) -> FeatureCard:
    """Read what is known of a feature, with its `k` strongest images.

    Raises:
        UsageError: no such space or feature.
    """
    (card,) = feature_cards(warehouse, space, [feature_id], k)
    return replace(card, similar=similar_features(warehouse, space, feature_id))


def feature_cards(warehouse: WarehouseReads, space: str, features: Sequence[int], k: int) -> list[FeatureCard]:
    """Read the cards of several features of a space with one look into the catalogue; without similar features.

    Raises:
        UsageError: no such space or feature.
    """
    top = [warehouse.top_images(space, feature, k) for feature in features]
    reader = warehouse.space(space)
    n_images = len(reader.image_ids())
    values = {"features": [int(feature) for feature in features]}
    with reader.connection(strongest=0) as connection:
        found = rows_of(connection, "FROM feature_stats WHERE list_contains($features::INTEGER[], feature_id)", values)
    statistics = {row.pop("feature_id"): row for row in found}
    results = _results(warehouse, space, features)
    return [
        FeatureCard(
            warehouse,
            space,
            int(feature),
            n_images,
            statistics[feature],
            results[feature],
            [TopImage(row["image_id"], row["path"], row["value"], row["token"]) for row in images.to_dicts()],
            [],
        )
        for feature, images in zip(features, top, strict=True)
    ]


def rows_of(connection: duckdb.DuckDBPyConnection, query: str, values: dict[str, Any] | None = None) -> list[Row]:
    """Run a query and return its rows as dictionaries."""
    result = connection.sql(query, params=values or {})
    return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]


def _results(warehouse: WarehouseReads, space: str, features: Sequence[int]) -> dict[int, dict[str, list[Row]]]:
    """Return the rows of every analysis about each of some features."""
    found: dict[int, dict[str, list[Row]]] = {feature: {} for feature in features}
    values = {"space": space, "features": [int(feature) for feature in features]}
    with warehouse.reading() as connection:
        facets = {run: json.loads(text) for run, text in connection.sql("SELECT run_id, facets FROM runs").fetchall()}
        for view in result_views(connection):
            if "feature_id" not in view.columns:
                continue
            query = f"FROM {identifier(view.analyzer)} WHERE space = $space AND list_contains($features, feature_id)"
            if view.strongest:
                query += f" ORDER BY abs({identifier(view.strongest)}) DESC NULLS LAST"
            for row in rows_of(connection, query, values):
                del row["space"]
                rows = found[row.pop("feature_id")].setdefault(view.analyzer, [])
                if len(rows) < N_ROWS:
                    rows.append({**facets.get(row["run_id"], {}), **row})
    return found


def labels_of(connection: duckdb.DuckDBPyConnection, space: str, features: Iterable[int]) -> dict[int, str]:
    """Return the newest label of each feature, or where it has none its newest name; those with neither are left out.

    `connection` is a reading one, with the views.
    """
    views = result_views(connection)
    wanted = {"space": space, "features": [int(feature) for feature in features]}
    found: dict[int, str] = {}
    for analyzer, column, query in (
        ("names", "name", read_sql("queries/names_of_features.sql")),
        ("labels", "label", read_sql("queries/labels_of_features.sql")),
    ):
        if has_view(views, analyzer, ("feature_id", column)):
            rows = connection.execute(query, wanted).fetchall()
            found |= {int(feature): str(label) for feature, label in rows}
    return found


def has_view(views: Sequence[ResultView], analyzer: str, columns: Sequence[str] = ()) -> bool:
    """Say whether an analysis was ever run, and fills these columns."""
    return any(view.analyzer == analyzer and set(columns) <= set(view.columns) for view in views)


def similar_features(
    warehouse: WarehouseReads, space: str, feature_id: int, k: int = N_SIMILAR
) -> list[SimilarFeature]:
    """Return the features of a space whose concept vectors are closest by cosine; none without concept vectors."""
    from glasshouse.warehouse.search.questions import Question
    from glasshouse.warehouse.search.search import search_features

    try:
        # Only `Warehouse` has what searching keeps in memory; there is no other kind of reads.
        question = Question(like=(space, feature_id))
        hits = search_features(cast("Warehouse", warehouse), question, [space], k).hits
    except UsageError:  # no concept vectors, or none of enough images
        return []
    features = hits.id_h.tolist()
    with warehouse.reading() as connection:
        labels = labels_of(connection, space, features)
    return [
        SimilarFeature(feature, float(score), labels.get(feature))
        for feature, score in zip(features, hits.score_h, strict=True)
    ]


def image_card(warehouse: WarehouseReads, image_id: int, k: int = 10) -> ImageCard:
    """Read what is known of an image, with its `k` strongest features in each space."""
    values = {"image": int(image_id)}
    ready = dict(warehouse.spaces().filter(state="ready").select("name", "keep").iter_rows())
    strongest = {
        space: warehouse.features_of_image(space, image_id, k).to_dicts()
        for space, keep in ready.items()
        if keep is None
    }
    features = {}
    with warehouse.reading() as connection:
        for space, rows in strongest.items():
            labels = labels_of(connection, space, [row["feature_id"] for row in rows])
            features[space] = [
                StrongFeature(row["feature_id"], row["value"], row["rank"], labels.get(row["feature_id"]))
                for row in rows
            ]
        (record,) = rows_of(connection, "FROM images WHERE image_id = $image", values)
        paths = rows_of(connection, "SELECT path FROM image_paths WHERE image_id = $image ORDER BY path", values)
        captions = rows_of(connection, "SELECT caption FROM captions WHERE image_id = $image ORDER BY ALL", values)
        labels_known = rows_of(
            connection,
            "SELECT DISTINCT attribute, value FROM image_labels WHERE image_id = $image ORDER BY ALL",
            values,
        )
        return ImageCard(
            warehouse,
            int(image_id),
            record,
            [row["path"] for row in paths],
            [row["caption"] for row in captions],
            rows_of(connection, read_sql("queries/ratings_of_image.sql"), values),
            labels_known,
            rows_of(connection, read_sql("queries/objects_of_image.sql"), values),
            features,
            {space: f"it keeps only {kept_words(keep)}" for space, keep in ready.items() if keep is not None},
        )
