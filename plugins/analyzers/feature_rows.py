"""All activations of a space, some features at a time, so that memory is bounded however large the space is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.schema.texts import read_sql

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

MAX_ROWS = 1 << 24
"""Rows read at once, unless one feature alone has more: an image each, so never more than there are images."""


class FeatureRows(NamedTuple):
    """Activations of neighbouring features: those of feature `first + f` are the rows bounds_f[f] to bounds_f[f + 1].

    Of each feature the strongest come first; equal ones in the order of their images.
    """

    first: int
    bounds_f: npt.NDArray[np.int64]
    """[features + 1]"""
    image_r: npt.NDArray[np.int32]
    """Image ids [rows], or rows of an embedding after `of_images`."""
    value_r: npt.NDArray[np.float32]

    @property
    def counts_f(self) -> npt.NDArray[np.int64]:
        """Rows of each feature."""
        return np.diff(self.bounds_f)

    @property
    def feature_r(self) -> npt.NDArray[np.int64]:
        """Feature of each row, counted from 0 at `first`."""
        return np.repeat(np.arange(len(self.bounds_f) - 1), self.counts_f)

    def of_images(self, row_of_image: npt.NDArray[np.int32]) -> FeatureRows:
        """Leave out images whose entry in `row_of_image` is -1, and name the others by their entry."""
        rows = row_of_image[self.image_r]
        return self._where(rows >= 0)._replace(image_r=rows[rows >= 0])

    def strongest(self, k: int) -> FeatureRows:
        """Leave out all but the first k rows of each feature."""
        return self._where(np.arange(len(self.image_r)) - np.repeat(self.bounds_f[:-1], self.counts_f) < k)

    def _where(self, kept_r: npt.NDArray[np.bool_]) -> FeatureRows:
        if kept_r.all():
            return self
        kept_before = np.concatenate([[0], np.cumsum(kept_r, dtype=np.int64)])
        return FeatureRows(self.first, kept_before[self.bounds_f], self.image_r[kept_r], self.value_r[kept_r])


def feature_rows(view: AnalysisView, max_rows: int = MAX_ROWS, strongest: int | None = None) -> Iterator[FeatureRows]:
    """Read a whole space in blocks of neighbouring features, the silent ones included.

    Args:
        view: of the space.
        max_rows: that a block has at most, unless it is of a single feature.
        strongest: how many of its strongest images are needed of each feature; there may be more. None needs all.

    Raises:
        UsageError: the space keeps fewer images of each feature.
    """
    statistics = view.statistics()
    counts_f = np.zeros(view.n_features, dtype=np.int64)
    counts_f[statistics["feature_id"].to_numpy()] = statistics["n_active"].to_numpy()
    if view.keep is not None:
        counts_f = np.minimum(counts_f, view.keep)
    for first, end in _blocks(counts_f, max_rows):
        yield _read(view, first, end, strongest)


def _blocks(counts_f: npt.NDArray[np.int64], max_rows: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of features that have at most `max_rows` rows together."""
    before_f = np.concatenate([[0], np.cumsum(counts_f)])
    first = 0
    while first < len(counts_f):
        end = int(np.searchsorted(before_f, before_f[first] + max_rows, side="right")) - 1
        end = max(end, first + 1)
        yield first, end
        first = end


def _read(view: AnalysisView, first: int, end: int, strongest: int | None) -> FeatureRows:
    with view.connection(strongest) as connection:
        wanted = {"first": first, "last": end - 1}
        found = connection.sql(read_sql("queries/activations_of_features.sql"), params=wanted).fetchnumpy()
    counts_f = np.bincount(found["feature_id"] - first, minlength=end - first)
    bounds_f = np.concatenate([[0], np.cumsum(counts_f)]).astype(np.int64)
    return FeatureRows(first, bounds_f, np.asarray(found["image_id"]), np.asarray(found["value"]))
