"""Correlation of sparse features with dense ratings: Pearson, partial and Spearman from one pass over the activations.

With Q an orthonormal basis of the constant and the covariates over the rated images, and y the rating without its part
in Q, scaled to length 1, for a feature x:

    r = x·y / √(x·x − ‖Qᵀx‖²)

so that silent images add nothing to any sum. Without covariates Q is the constant alone, and this is Pearson's r. Where
the difference under the root loses digits (a feature that is nearly the same on all images), the feature's few columns
are made dense and freed from Q by hand.

Spearman's coefficient is the same with ranks in the place of values. Ranks are shifted so that silent images, which
share one rank, have 0: with N images of which k are active, the others have (N − k) + rank − (N − k + 1)/2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import scipy.sparse

    from glasshouse.plugins.analyzers.feature_rows import FeatureRows

Floats = npt.NDArray[np.float64]

NO_VARIANCE = 1e-12
"""What is left without the constant and the covariates, relative to all: below this there is nothing to correlate."""
_LOSES_DIGITS = 1e-4
_DENSE_VALUES = 4_000_000


@dataclass(frozen=True)
class RatedImages:
    """The images that the same dimensions are rated on, and what is correlated there.

    Attributes:
        rated_n: bool [n_images]: which.
        basis_nc: [n_images, 1 + c], orthonormal: the constant and the covariates; 0 on other images.
        targets_nt: [n_images, t], ratings without their part in the basis, of length 1; 0 on other images.
        columns_t: int [t]: for the caller, which dimensions these are.
    """

    rated_n: npt.NDArray[np.bool_]
    basis_nc: Floats
    targets_nt: Floats
    columns_t: npt.NDArray[np.int64]

    @property
    def n_rated(self) -> int:
        """Number of images."""
        return int(self.rated_n.sum())

    @property
    def n_covariates(self) -> int:
        """c: covariates that are neither constant here nor follow from the others."""
        return int(self.basis_nc.shape[1]) - 1


def rated_images(ratings_nd: Floats, covariates_nc: Floats, columns: Sequence[int], *, ranks: bool) -> RatedImages:
    """Prepare dimensions that are rated on the same images.

    Args:
        ratings_nd: [n_images, dimensions], NaN where there is none.
        covariates_nc: [n_images, c], finite.
        columns: the dimensions to take; those without variance are left out.
        ranks: take ranks among the rated images, of ratings and of covariates.
    """
    rated_n = ~np.isnan(ratings_nd[:, columns[0]])
    ratings_rd, covariates_rc = ratings_nd[rated_n][:, list(columns)], covariates_nc[rated_n]
    if ranks:
        from scipy.stats import rankdata  # late: scipy.stats takes a third of a second

        ratings_rd = rankdata(ratings_rd, axis=0)
        covariates_rc = rankdata(covariates_rc, axis=0) if covariates_rc.size else covariates_rc
    basis_rc = orthonormal_basis(covariates_rc)
    kept, targets = [], []
    for column, rating_r in zip(columns, ratings_rd.T, strict=True):
        # Squares of huge ratings would overflow; a power of two scales without rounding.
        scaled_r = np.ldexp(rating_r, -int(np.frexp(np.abs(rating_r).max(initial=0.0))[1]))
        target_r = without(scaled_r, basis_rc)
        length = np.linalg.norm(target_r)
        if length > NO_VARIANCE * np.linalg.norm(scaled_r):
            kept.append(column)
            targets.append(target_r / length)
    targets_rt = np.array(targets).T.reshape(int(rated_n.sum()), len(kept))
    return RatedImages(
        rated_n, _spread(basis_rc, rated_n), _spread(targets_rt, rated_n), np.array(kept, dtype=np.int64)
    )


def orthonormal_basis(covariates_rc: Floats) -> Floats:
    """Return an orthonormal basis [r, 1 + c] of the constant and the covariates; dependent ones are left out."""
    n = len(covariates_rc)
    basis_rc = np.full((n, 1), 1 / np.sqrt(max(n, 1)))
    for covariate_r in covariates_rc.T:
        left_r = without(covariate_r, basis_rc)
        length = np.linalg.norm(left_r)
        if length > NO_VARIANCE * np.linalg.norm(covariate_r):
            basis_rc = np.column_stack([basis_rc, left_r / length])
    return basis_rc


def without(values_r: Floats, basis_rc: Floats) -> Floats:
    """Return values, [r] or [k, r], without their part in the basis; done twice, since the first leaves rounding."""
    for _ in range(2):
        values_r = values_r - (values_r @ basis_rc) @ basis_rc.T
    return values_r


def _spread(values_rk: Floats, rated_n: npt.NDArray[np.bool_]) -> Floats:
    """Give each rated image its row again: [n_images, k], 0 elsewhere."""
    values_nk = np.zeros((len(rated_n), values_rk.shape[1]))
    values_nk[rated_n] = values_rk
    return values_nk


def correlate(rows: FeatureRows, groups: Sequence[RatedImages], *, ranks: bool) -> list[Floats]:
    """Return r [features of the rows, t] for the targets of each group; NaN for features without variance.

    Args:
        rows: activations of some features.
        groups: dimensions that are rated on the same images.
        ranks: correlate ranks among the rated images, as the groups were prepared.
    """
    if not ranks:
        return _correlate(_matrix(rows, rows.value_r.astype(np.float64), len(groups[0].rated_n)), groups)
    return [r_ft for group in groups for r_ft in _correlate(shifted_ranks(rows, group.rated_n), [group])]


def _matrix(rows: FeatureRows, value_r: Floats, n_images: int) -> scipy.sparse.csr_array:
    """Return values as float64 CSR [features, n_images]; the columns of a row are in no order."""
    import scipy.sparse

    return scipy.sparse.csr_array((value_r, rows.image_r, rows.bounds_f), shape=(len(rows.counts_f), n_images))


def _correlate(matrix_fn: scipy.sparse.csr_array, groups: Sequence[RatedImages]) -> list[Floats]:
    """Return r of the rows of a matrix [features, n_images]; one product with it serves all groups."""
    parts = [part for group in groups for part in (group.targets_nt, group.basis_nc)]
    products = np.split(matrix_fn @ np.column_stack(parts), np.cumsum([part.shape[1] for part in parts])[:-1], axis=1)
    squares_fg = matrix_fn.power(2) @ np.column_stack([group.rated_n for group in groups]).astype(np.float64)
    found = []
    for group, sums_ft, in_basis_fc, squares_f in zip(groups, products[::2], products[1::2], squares_fg.T, strict=True):
        left_f = squares_f - (in_basis_fc**2).sum(axis=1)
        sound_f = left_f > _LOSES_DIGITS * squares_f
        r_ft = np.full(sums_ft.shape, np.nan)
        r_ft[sound_f] = sums_ft[sound_f] / np.sqrt(left_f[sound_f, None])
        for features_g in _cut(np.flatnonzero(~sound_f & (squares_f > 0)), matrix_fn.shape[1]):
            r_ft[features_g] = _by_hand(matrix_fn[features_g].toarray(), group)
        found.append(np.clip(r_ft, -1.0, 1.0))
    return found


def _by_hand(values_gn: Floats, images: RatedImages) -> Floats:
    """Return r [g, t] of features whose variance is a small part of their squares, from dense rows."""
    values_gr = values_gn[:, images.rated_n]
    left_gr = without(values_gr, images.basis_nc[images.rated_n])
    length_g = np.linalg.norm(left_gr, axis=1)
    has_variance_g = length_g > NO_VARIANCE * np.linalg.norm(values_gr, axis=1)
    r_gt = np.full((len(values_gn), images.targets_nt.shape[1]), np.nan)
    products_gt = left_gr[has_variance_g] @ images.targets_nt[images.rated_n]
    r_gt[has_variance_g] = products_gt / length_g[has_variance_g, None]
    return r_gt


def _cut(features_f: npt.NDArray[np.int64], n_images: int) -> Iterator[npt.NDArray[np.int64]]:
    """Cut features into groups whose dense rows stay small."""
    size = max(1, _DENSE_VALUES // max(n_images, 1))
    for start in range(0, len(features_f), size):
        yield features_f[start : start + size]


def shifted_ranks(rows: FeatureRows, rated_n: npt.NDArray[np.bool_]) -> scipy.sparse.csr_array:
    """Return the ranks of values among the rated images [features, n_images], shifted so that silent images have 0.

    Equal values share their mean rank. Of each feature the rows have the strongest first.
    """
    kept_r = rated_n[rows.image_r]
    value_k, feature_k = rows.value_r[kept_r], rows.feature_r[kept_r]
    active_f = np.bincount(feature_k, minlength=len(rows.counts_f))
    bounds_f = np.concatenate([[0], np.cumsum(active_f)])
    is_new_k = np.ones(len(value_k), dtype=bool)
    is_new_k[1:] = (feature_k[1:] != feature_k[:-1]) | (value_k[1:] != value_k[:-1])
    first_t = np.flatnonzero(is_new_k)
    size_t = np.diff(np.append(first_t, len(value_k)))
    feature_t = feature_k[first_t]
    # Mean position from the top, 1-based, of every run of equal values.
    from_top_t = first_t - bounds_f[feature_t] + (size_t + 1) / 2
    n_rated = int(rated_n.sum())
    silent_t = n_rated - active_f[feature_t]
    rank_t = n_rated + 1 - from_top_t - (silent_t + 1) / 2
    ranked = rows._replace(bounds_f=bounds_f, image_r=rows.image_r[kept_r])
    return _matrix(ranked, np.repeat(rank_t, size_t), len(rated_n))
