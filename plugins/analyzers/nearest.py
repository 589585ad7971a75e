"""Nearest vectors by cosine, in bounded memory: products in float32, the winners' cosines anew in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

AT_ONCE: Final = 1 << 25
"""Cosines that are in memory at a time: 128 MB of float32."""
FEWEST_ROWS: Final = 16
MORE: Final = 3
"""Candidates of the float32 product beyond those that are wanted: near ties are settled among them in float64."""

ROUNDING: Final = 1e-6
"""What is left of a vector is rounding when it is shorter than this share of the centre that was taken from it."""

Floats = npt.NDArray[np.float64]


class Nearest(NamedTuple):
    """The k nearest of each vector, the nearest first; fewer where there are not so many: then -1 and NaN.

    Attributes:
        row_nk: int64 [n, k], rows of the vectors that were compared with.
        cosine_nk: float64 [n, k], exact for the pair that is named. A pair that is left out can have a cosine larger by
            1e-6 at most.
    """

    row_nk: npt.NDArray[np.int64]
    cosine_nk: Floats


def directions(vectors_ke: npt.ArrayLike, centre_e: npt.ArrayLike = 0.0) -> Floats:
    """Return unit vectors of v − centre, float64 [k, E]; NaN throughout for those that have no direction."""
    moved_ke = np.asarray(vectors_ke, np.float64) - np.asarray(centre_e, np.float64)
    lengths_k = np.sqrt(np.einsum("ke,ke->k", moved_ke, moved_ke))
    has_one_k = np.isfinite(lengths_k) & (lengths_k > ROUNDING * np.linalg.norm(centre_e))
    unit_ke: Floats = moved_ke / np.where(has_one_k, lengths_k, np.nan)[:, None]
    return unit_ke


def nearest(
    unit_ne: Floats,
    others_le: Floats | None,
    k: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Nearest:
    """Return the k nearest of each vector among others; of equal ones the first.

    Args:
        unit_ne: [n, E] of `directions`; one without a direction has none that is near, and is near to none.
        others_le: [l, E]; None for `unit_ne` itself, in which a vector is not its own neighbour.
        k: at least 1.
        progress: told (vectors done, vectors in all).
    """
    keys_le = unit_ne if others_le is None else others_le
    usable_l = np.flatnonzero(np.isfinite(keys_le[:, 0]))
    narrow_le = keys_le[usable_l].astype(np.float32)
    found = Nearest(np.full((len(unit_ne), k), -1, np.int64), np.full((len(unit_ne), k), np.nan))
    rows_n = np.flatnonzero(np.isfinite(unit_ne[:, 0]))
    n_wanted = min(k + MORE, len(usable_l) - (others_le is None))
    if n_wanted < 1:
        return found
    place_n = np.searchsorted(usable_l, rows_n)
    step = max(FEWEST_ROWS, AT_ONCE // len(usable_l))
    for start in range(0, len(rows_n), step):
        rows = rows_n[start : start + step]
        cosine_bl = unit_ne[rows].astype(np.float32) @ narrow_le.T
        if others_le is None:
            cosine_bl[np.arange(len(rows)), place_n[start : start + step]] = -np.inf
        candidate_bc = usable_l[_largest(cosine_bl, n_wanted)]
        exact_bc = np.einsum("be,bce->bc", unit_ne[rows], keys_le[candidate_bc]).clip(-1, 1)
        order_bk = np.lexsort((candidate_bc, -exact_bc), axis=1)[:, :k]
        n_found = order_bk.shape[1]
        found.row_nk[rows, :n_found] = np.take_along_axis(candidate_bc, order_bk, axis=1)
        found.cosine_nk[rows, :n_found] = np.take_along_axis(exact_bc, order_bk, axis=1)
        progress(start + len(rows), len(rows_n))
    return found


def _largest(cosine_bl: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.int64]:
    """Return the columns of the n largest of each row [b, n]; overwrites them. Fast for few."""
    one_b = np.arange(len(cosine_bl))
    column_bn = np.empty((len(cosine_bl), n), np.int64)
    for place in range(n):
        column_bn[:, place] = cosine_bl.argmax(axis=1)
        cosine_bl[one_b, column_bn[:, place]] = -np.inf
    return column_bn
