"""What relevance adds up to over the images of one class, and the images on which each feature counts most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from glasshouse.plugins.analyzers.relevance import RelevanceParameters
    from glasshouse.plugins.analyzers.relevance_methods import ImageRelevance

Floats = npt.NDArray[np.floating]


class ClassSums:
    """Sums over images of one class, float64 [F] each, and the `n` most relevant images of each feature.

    Images that a feature does not speak for (relevance of 0 or less) are not among its most relevant ones; of equal
    ones the lower image_id comes first.
    """

    def __init__(self, n_features: int, n: int) -> None:
        self.n_images = 0
        self._n = n
        self._total_f = np.zeros(n_features)
        self._positive_f = np.zeros(n_features)
        self._x_f = np.zeros(n_features)
        self._y_f = np.zeros(n_features)
        self._activation_f = np.zeros(n_features)
        self._best_value = np.zeros((0, n_features), dtype=np.float32)
        self._best_image = np.zeros((0, n_features), dtype=np.int32)

    def add(self, ids: list[int], found: ImageRelevance) -> None:
        """Add a batch of images; ids ascend from batch to batch."""
        self.n_images += len(ids)
        self._total_f += found.total_bf.sum(axis=0)
        self._positive_f += found.positive_bf.sum(axis=0)
        self._x_f += found.column_bf.sum(axis=0)
        self._y_f += found.row_bf.sum(axis=0)
        self._activation_f += found.activation_bf.sum(axis=0)
        values = np.concatenate([self._best_value, found.total_bf.astype(np.float32)])
        images = np.concatenate(
            [self._best_image, np.repeat(np.array(ids, np.int32)[:, None], values.shape[1], axis=1)]
        )
        order = np.argsort(-values, axis=0, kind="stable")[: self._n]
        self._best_value = np.take_along_axis(values, order, axis=0)
        self._best_image = np.take_along_axis(images, order, axis=0)

    def table(self, class_name: str, parameters: RelevanceParameters, schema: pa.Schema) -> pa.Table:
        """Return a row for each feature that counts at all, by rank; at most `most` of those that count most."""
        relevance_f = self._total_f / self.n_images
        positive_f = np.maximum(relevance_f, 0)
        order = np.lexsort((np.arange(len(relevance_f)), -relevance_f))
        rank_f = np.empty(len(order), dtype=np.int32)
        rank_f[order] = np.arange(len(order))
        kept = np.lexsort((np.arange(len(relevance_f)), -np.abs(relevance_f)))[: parameters.most or None]
        kept = kept[relevance_f[kept] != 0]
        kept = kept[np.argsort(rank_f[kept])]
        n = len(kept)
        columns = {
            "feature_id": kept.astype(np.int32),
            "class_name": pa.array([class_name] * n, pa.string()),
            "method": pa.array([parameters.method] * n, pa.string()),
            "relevance": relevance_f[kept],
            "share": positive_f[kept] / max(positive_f.sum(), np.finfo(float).tiny),
            "rank": rank_f[kept],
            "activation": self._activation_f[kept] / self.n_images,
            "x": self._centre(self._x_f, kept),
            "y": self._centre(self._y_f, kept),
            "n_images": np.full(n, self.n_images, dtype=np.int32),
            **self._lists(kept),
        }
        return pa.table(columns).cast(schema)

    def _centre(self, weighted_f: Floats, kept: npt.NDArray[np.integer]) -> pa.Array:
        """Where features' positive relevance lies on average; null where there is none, or no token has a place."""
        is_placed = (self._positive_f[kept] > 0) & (weighted_f[kept] > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = weighted_f[kept] / self._positive_f[kept]
        return pa.array(np.where(is_placed, centre, 0), mask=~is_placed)

    def _lists(self, kept: npt.NDArray[np.integer]) -> dict[str, pa.ListArray]:
        values_kn, images_kn = self._best_value[:, kept].T, self._best_image[:, kept].T
        counts = (values_kn > 0).sum(axis=1)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        return {
            "image_ids": pa.ListArray.from_arrays(offsets, pa.array(images_kn[values_kn > 0])),
            "image_relevance": pa.ListArray.from_arrays(offsets, pa.array(values_kn[values_kn > 0])),
        }
