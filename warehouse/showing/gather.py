"""Reading what a card shows, through the views. What was never computed is simply not there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np

from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.quoting import identifier
from glasshouse.warehouse.results.store import all_runs, latest_run
from glasshouse.warehouse.results.views import ResultView, result_views
from glasshouse.warehouse.showing.cards import FeatureCard, ImageCard, Row, SimilarFeature, StrongFeature, TopImage

if TYPE_CHECKING:
    from glasshouse.warehouse.reads import WarehouseReads

N_ROWS = 200
"""Rows of one analysis that a card shows at most."""

N_SIMILAR = 5


def feature_card(warehouse: WarehouseReads, space: str, feature_id: int, k: int = 12) -> FeatureCard:
    """Read what is known of a feature, with its `k` strongest images.

    Raises:
        UsageError: no such space or feature.
    """
    top = warehouse.top_images(space, feature_id, k)
    with warehouse.space(space).connection() as connection:
        (statistics,) = rows_of(
            connection, "FROM feature_stats WHERE feature_id = $feature", {"feature": int(feature_id)}
        )
        n_images = len(warehouse.space(space).image_ids())
    del statistics["feature_id"]
    return FeatureCard(
        warehouse,
        space,
        int(feature_id),
        n_images,
        statistics,
        _results(warehouse, space, feature_id),
        [TopImage(row["image_id"], row["path"], row["value"], row["token"]) for row in top.iter_rows(named=True)],
        similar_features(warehouse, space, feature_id),
    )


def rows_of(connection: duckdb.DuckDBPyConnection, query: str, values: dict[str, Any] | None = None) -> list[Row]:
    """Run a query and return its rows as dictionaries."""
    result = connection.sql(query, params=values or {})
    return [dict(zip(result.columns, row, strict=True)) for row in result.fetchall()]


def _results(warehouse: WarehouseReads, space: str, feature_id: int) -> dict[str, list[Row]]:
    facets = {run.run_id: run.facets for run in all_runs(warehouse.catalogue)}
    found = {}
    values = {"space": space, "feature": int(feature_id), "n": N_ROWS}
    with warehouse.reading() as connection:
        for view in result_views(connection):
            if "feature_id" not in view.columns:
                continue
            query = f"FROM {identifier(view.analyzer)} WHERE space = $space AND feature_id = $feature LIMIT $n"
            rows = rows_of(connection, query, values)
            for row in rows:
                del row["space"], row["feature_id"]
            if rows:
                found[view.analyzer] = [{**facets.get(row["run_id"], {}), **row} for row in rows]
    return found


def labels_of(connection: duckdb.DuckDBPyConnection, space: str, features: Iterable[int]) -> dict[int, str]:
    """Return the newest label of each feature that has one. `connection` is a reading one, with the views."""
    if not has_view(result_views(connection), "labels", ("feature_id", "label")):
        return {}
    wanted = {"space": space, "features": [int(feature) for feature in features]}
    rows = connection.execute(read_sql("queries/labels_of_features.sql"), wanted).fetchall()
    return {int(feature): str(label) for feature, label in rows}


def has_view(views: Sequence[ResultView], analyzer: str, columns: Sequence[str] = ()) -> bool:
    """Say whether an analysis was ever run, and fills these columns."""
    return any(view.analyzer == analyzer and set(columns) <= set(view.columns) for view in views)


def similar_features(
    warehouse: WarehouseReads, space: str, feature_id: int, k: int = N_SIMILAR
) -> list[SimilarFeature]:
    """Return the features of a space whose concept vectors are closest by cosine; none without concept vectors."""
    run = latest_run(warehouse.catalogue, "concepts", space)
    if run is None or run.vectors is None:
        return []
    ids_k, vectors_ke = warehouse.result_vectors(run)
    (own,) = np.nonzero(ids_k == feature_id)
    if len(own) == 0:
        return []
    lengths_k = np.linalg.norm(vectors_ke, axis=1)
    dots_k = vectors_ke @ vectors_ke[own[0]]
    cosines_k = dots_k / np.maximum(lengths_k * lengths_k[own[0]], np.finfo(np.float32).tiny)
    cosines_k[own[0]] = -np.inf
    nearest = [int(i) for i in np.argsort(-cosines_k, kind="stable")[:k] if np.isfinite(cosines_k[i])]
    with warehouse.reading() as connection:
        labels = labels_of(connection, space, ids_k[nearest].tolist())
    return [SimilarFeature(int(ids_k[i]), float(cosines_k[i]), labels.get(int(ids_k[i]))) for i in nearest]


def image_card(warehouse: WarehouseReads, image_id: int, k: int = 10) -> ImageCard:
    """Read what is known of an image, with its `k` strongest features in each space."""
    values = {"image": int(image_id)}
    strongest = {
        str(space): warehouse.features_of_image(str(space), image_id, k).to_dicts()
        for space in warehouse.spaces().filter(state="ready")["name"]
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
        )
