"""Analyzer `uniqueness`: how much of a feature's top images it shares with another feature (after sae-for-vlm).

uniqueness = 1 − the largest Jaccard index |A ∩ B| / |A ∪ B| of a feature's top 16 images with those of another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers.feature_rows import feature_rows

if TYPE_CHECKING:
    import scipy.sparse

    from glasshouse.plugins.view import AnalysisView

MAX_MEETINGS = 1 << 23
"""Meetings of two features on an image that are counted at once; each takes up to 12 bytes."""

SCHEMA = pa.schema(
    [
        ("feature_id", pa.int32()),
        ("uniqueness", pa.float64()),
        ("nearest_feature_id", pa.int32()),
        ("jaccard", pa.float64()),
    ]
)


class UniquenessParameters(Parameters):
    """Parameters of `uniqueness`."""

    k: int = Field(16, ge=1, description="How many top images of each feature are compared.")


class Uniqueness(Analyzer[UniquenessParameters]):
    """One minus the largest Jaccard index of a feature's top images with another feature's."""

    summary: ClassVar[str] = "Whether another feature has the same top images: uniqueness and the nearest feature."
    parameters: ClassVar[type[Parameters]] = UniquenessParameters
    schema: ClassVar[pa.Schema] = SCHEMA
    in_features: ClassVar[tuple[str, ...]] = ("uniqueness",)

    def run(self, view: AnalysisView, parameters: UniquenessParameters) -> Rows:
        """Compare the features that are active on any image."""
        feature_ids, top_fn = top_image_sets(view, parameters.k)
        nearest_f, jaccard_f = np.full(len(feature_ids), -1), np.zeros(len(feature_ids))
        for first, end in _blocks(top_fn):
            nearest_f[first:end], jaccard_f[first:end] = nearest_sets(top_fn, first, end)
            view.progress(end, len(feature_ids))
        nearest = pa.array(feature_ids[nearest_f], pa.int32(), mask=nearest_f < 0)
        return pa.Table.from_arrays(
            [pa.array(feature_ids, pa.int32()), 1 - jaccard_f, nearest, jaccard_f], schema=SCHEMA
        )


def top_image_sets(view: AnalysisView, k: int) -> tuple[npt.NDArray[np.int32], scipy.sparse.csr_array]:
    """Return the features that are ever active, and their top k images as ones, int32 CSR [features, images]."""
    import scipy.sparse  # late: half a second that `glasshouse analyze --help` need not wait

    counts, images = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for block in feature_rows(view, strongest=k):
        top = block.strongest(k)
        counts.append(top.counts_f)
        images.append(top.image_r)
    count_f, image_r = np.concatenate(counts), np.concatenate(images)
    active = np.flatnonzero(count_f)
    bounds = np.concatenate([[0], np.cumsum(count_f[active])]).astype(np.int32)
    ones = np.ones(len(image_r), dtype=np.int32)
    matrix = scipy.sparse.csr_array((ones, image_r, bounds), shape=(len(active), view.n_images))
    return active.astype(np.int32), matrix


def _blocks(top_fn: scipy.sparse.csr_array) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of features that meet others at most `MAX_MEETINGS` times, or one feature."""
    features_n = np.bincount(top_fn.indices, minlength=top_fn.shape[1])
    before_r = np.concatenate([[0], np.cumsum(features_n[top_fn.indices], dtype=np.int64)])
    before_f = before_r[top_fn.indptr]
    first = 0
    while first < top_fn.shape[0]:
        end = int(np.searchsorted(before_f, before_f[first] + MAX_MEETINGS, side="right")) - 1
        end = max(end, first + 1)
        yield first, end
        first = end


def nearest_sets(
    top_fn: scipy.sparse.csr_array, first: int, end: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return for each of the rows first to end the other row of largest Jaccard index, and that index.

    Of equal ones the first counts. A row that shares nothing with any other has -1 and 0.
    """
    shared = (top_fn[first:end] @ top_fn.T).tocsr()
    size_f = np.diff(top_fn.indptr)
    own_m = np.repeat(np.arange(first, end), np.diff(shared.indptr))
    others = own_m != shared.indices
    own_m, other_m, shared_m = own_m[others], shared.indices[others], shared.data[others]
    jaccard_m = shared_m / (size_f[own_m] + size_f[other_m] - shared_m)
    nearest_f, jaccard_f = np.full(end - first, -1, dtype=np.int64), np.zeros(end - first)
    if len(own_m):
        starts = np.flatnonzero(np.diff(own_m, prepend=-1))
        rows = own_m[starts] - first
        jaccard_f[rows] = np.maximum.reduceat(jaccard_m, starts)
        is_largest = jaccard_m == jaccard_f[own_m - first]
        nearest_f[rows] = np.minimum.reduceat(np.where(is_largest, other_m, top_fn.shape[0]), starts)
    return nearest_f, jaccard_f
