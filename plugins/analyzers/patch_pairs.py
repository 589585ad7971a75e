"""Which features are active on the same patches: counts and sums of all pairs, by sparse products of blocks.

Images are read in blocks, features are counted in blocks; what is held is 12 bytes for each activation of the chosen
features (more with a radius), and one block of pairs. No matrix of all features × all features is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glasshouse.plugins.analyzers.patch_grid import neighbours
from glasshouse.schema.texts import read_sql

if TYPE_CHECKING:
    import scipy.sparse

    from glasshouse.plugins.view import AnalysisView

MAX_ROWS = 1 << 22
"""Token activations read at once, unless one image alone has more."""

MAX_PAIRS = 1 << 22
"""Pairs of a block, 24 to 48 bytes each, unless one feature alone has more."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PatchBlock:
    """The activations of some images; patches are counted from 0 within the block.

    Attributes:
        near_pf: 1 where a feature is active on a patch or within the radius of it, sparse [patches, F].
        value_pf: the activations, those at or below the threshold too, sparse by feature [patches, F].
        reach_pf: `near_pf` sparse by feature; None without a radius.
        active_pf: 1 where a feature is active on the patch; None without a radius, where `near_pf` is the same.
    """

    near_pf: scipy.sparse.csr_array
    value_pf: scipy.sparse.csc_array
    reach_pf: scipy.sparse.csc_array | None = None
    active_pf: scipy.sparse.csr_array | None = None


@dataclass(frozen=True)
class PairCounts:
    """Counts and sums of the features first to end − 1 with every feature.

    Attributes:
        both_kf: patches of the former on which (or near which) the latter is active, int64 [k, F].
        reverse_kf: patches of the latter on which (or near which) the former is active, int64 [k, F].
        sum_kf: activation of the former, summed over patches on which (or near which) the latter is active, [k, F].
    """

    first: int
    end: int
    both_kf: Ints
    reverse_kf: Ints
    sum_kf: Floats


class PatchActivations:
    """The chosen features of a patch space, in memory, for counting pairs.

    Args:
        view: of a patch space.
        feature_ids: the chosen features; from here on a feature is its place among them.
        threshold: a feature is active on a patch where its activation is above it.
        radius: in patches; 0 for the same patch.
        max_rows: see `MAX_ROWS`.
    """

    def __init__(
        self,
        view: AnalysisView,
        feature_ids: npt.NDArray[np.int32],
        threshold: float,
        radius: int,
        max_rows: int | None = None,
    ) -> None:
        grid = view.grid or (1, 1)
        self.n_features = len(feature_ids)
        growth = min((2 * radius + 1) ** 2, grid[0] * grid[1])
        self.blocks = list(_read_blocks(view, feature_ids, threshold, radius, (max_rows or MAX_ROWS) // growth))
        shape_f = np.zeros(self.n_features, dtype=np.int64)
        active_f, near_f, sum_f = shape_f.copy(), shape_f.copy(), shape_f.astype(np.float64)
        for block in self.blocks:
            values = block.value_pf
            is_active_r = values.data > np.float32(threshold)
            feature_r = np.repeat(np.arange(self.n_features), np.diff(values.indptr))[is_active_r]
            active_f += np.bincount(feature_r, minlength=self.n_features)
            sum_f += np.bincount(feature_r, weights=values.data[is_active_r], minlength=self.n_features)
            near_f += np.bincount(block.near_pf.indices, minlength=self.n_features)
        self.active_f = active_f
        """Patches on which each feature is active, [F]."""
        self.near_f = near_f
        """Patches on which or near which each feature is active, [F]."""
        self.sum_f = sum_f
        """Activation summed over the patches on which the feature is active, [F]: D_ii."""
        self._threshold = np.float32(threshold)
        largest = max((_largest(block) for block in self.blocks), default=0)
        self._ones = np.ones(largest, dtype=np.complex128)

    def pair_counts(self, max_pairs: int | None = None) -> Iterator[PairCounts]:
        """Yield all pairs, as blocks of features × all features of at most `max_pairs` pairs, or of one feature."""
        step = max(1, (max_pairs or MAX_PAIRS) // max(self.n_features, 1))
        for first in range(0, self.n_features, step):
            yield self._counted(first, min(first + step, self.n_features))

    def _counted(self, first: int, end: int) -> PairCounts:
        """Count some features with all.

        Of a complex product the real part counts patches and the imaginary part sums activations, so that both take
        one pass.
        """
        pairs_kf = np.zeros((end - first, self.n_features), dtype=np.complex128)
        reverse_kf = np.zeros(pairs_kf.shape, dtype=np.int64) if self.blocks and self._has_radius else None
        for block in self.blocks:
            values, rows, bounds = _columns(block.value_pf, first, end)
            weights = (values > self._threshold) + 1j * values
            _add_product(pairs_kf, (weights, rows, bounds), self._with_ones(block.near_pf))
            if reverse_kf is not None and block.reach_pf is not None and block.active_pf is not None:
                _, rows, bounds = _columns(block.reach_pf, first, end)
                ones = np.ones(len(rows), dtype=np.int32)
                _add_product(reverse_kf, (ones, rows, bounds), block.active_pf)
        both_kf = np.rint(pairs_kf.real).astype(np.int64)
        sum_kf = np.ascontiguousarray(pairs_kf.imag)
        return PairCounts(first, end, both_kf, both_kf if reverse_kf is None else reverse_kf, sum_kf)

    @property
    def _has_radius(self) -> bool:
        return self.blocks[0].reach_pf is not None

    def _with_ones(self, matrix: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
        """The matrix with complex ones that all blocks share."""
        import scipy.sparse  # late: half a second that `glasshouse analyze --help` need not wait

        ones = self._ones[: len(matrix.indices)]
        return scipy.sparse.csr_array((ones, matrix.indices, matrix.indptr), shape=matrix.shape)


def _largest(block: PatchBlock) -> int:
    return len(block.near_pf.indices)


def _columns(
    matrix: scipy.sparse.csc_array, first: int, end: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return values, rows and bounds of neighbouring columns, as views: transposed, they are CSR."""
    bounds = matrix.indptr[first : end + 1]
    inside = slice(bounds[0], bounds[-1])
    return matrix.data[inside], matrix.indices[inside], bounds - bounds[0]


def _add_product(
    into_kf: npt.NDArray[np.complex128] | Ints,
    rows_kp: tuple[npt.NDArray[np.generic], npt.NDArray[np.int32], npt.NDArray[np.int32]],
    matrix_pf: scipy.sparse.csr_array,
) -> None:
    """Add the product of rows [k, patches], given as CSR arrays, with a sparse matrix [patches, F]."""
    import scipy.sparse  # late: as above

    left_kp = scipy.sparse.csr_array(rows_kp, shape=(len(rows_kp[2]) - 1, matrix_pf.shape[0]))
    product = left_kp @ matrix_pf
    row_m = np.repeat(np.arange(product.shape[0]), np.diff(product.indptr))
    into_kf[row_m, product.indices] += product.data


def _read_blocks(
    view: AnalysisView, feature_ids: npt.NDArray[np.int32], threshold: float, radius: int, max_rows: int
) -> Iterator[PatchBlock]:
    chosen = pa.table({"feature_id": feature_ids, "place": np.arange(len(feature_ids), dtype=np.int32)})
    with view.connection() as connection:
        connection.register("chosen", chosen)
        counts = connection.sql(read_sql("queries/patches_per_image.sql")).fetchnumpy()
        rows_i = np.bincount(counts["image_id"], counts["n_rows"], minlength=view.n_images).astype(np.int64)
        for first, end in _image_blocks(rows_i, max_rows):
            wanted = {"first": first, "last": end - 1}
            found = connection.sql(read_sql("queries/patches_of_images.sql"), params=wanted).fetchnumpy()
            yield _block(found, (first, end), len(feature_ids), view.grid or (1, 1), threshold, radius)


def _image_blocks(rows_i: Ints, max_rows: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of images that have at most `max_rows` rows together, or one image; none without rows."""
    before_i = np.concatenate([[0], np.cumsum(rows_i)])
    first = 0
    while first < len(rows_i):
        end = int(np.searchsorted(before_i, before_i[first] + max_rows, side="right")) - 1
        end = max(end, first + 1)
        if before_i[end] > before_i[first]:
            yield first, end
        first = end


def _block(
    found: dict[str, npt.NDArray[np.generic]],
    images: tuple[int, int],
    n_features: int,
    grid: tuple[int, int],
    threshold: float,
    radius: int,
) -> PatchBlock:
    import scipy.sparse  # late: as above

    n_tokens, n_images = grid[0] * grid[1], images[1] - images[0]
    patch_r = (found["image_id"].astype(np.int64) - images[0]) * n_tokens + found["token"].astype(np.int64)
    place = (patch_r.astype(np.int32), np.asarray(found["feature"], dtype=np.int32))
    shape = (n_images * n_tokens, n_features)
    value_pf = scipy.sparse.coo_array((np.asarray(found["value"]), place), shape=shape).tocsc()
    is_active_r = found["value"] > np.float32(threshold)
    active = (place[0][is_active_r], place[1][is_active_r])
    ones = np.ones(len(active[0]), dtype=np.int8)
    active_pf = scipy.sparse.coo_array((ones, active), shape=shape).tocsr()
    if not radius:
        return PatchBlock(active_pf, value_pf)
    near_tt = scipy.sparse.csr_array(neighbours(grid, radius).astype(np.int32))
    near_pp = scipy.sparse.kron(scipy.sparse.eye_array(n_images, dtype=np.int32), near_tt, format="csr")
    near_pf = scipy.sparse.csr_array(near_pp @ active_pf.astype(np.int32))
    near_pf.data = np.ones(near_pf.nnz, dtype=np.int8)
    active_pf.data = active_pf.data.astype(np.int32)
    return PatchBlock(near_pf, value_pf, near_pf.tocsc(), active_pf)
