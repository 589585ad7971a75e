"""Directions of image embeddings: unit vectors in float64, made from the stored float32 where they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from glasshouse.warehouse.vectors import Embeddings

ROWS_AT_ONCE = 4096

NO_DIRECTION = 1e-12
"""A vector shorter than this share of the mean that was taken from it is rounding error."""


@dataclass(frozen=True)
class Directions:
    """Unit vectors (e − centre) / ‖e − centre‖ of images.

    The float64 form of all of them would be the largest thing in memory, so only parts of it are ever made.

    Attributes:
        image_ids: int32 [n], ascending.
        vectors_ne: float32 [n, E], as stored.
        centre_e: float64 [E], zeros unless centred.
        scale_n: float64 [n], 1 / ‖e − centre‖.
    """

    image_ids: npt.NDArray[np.int32]
    vectors_ne: npt.NDArray[np.float32]
    centre_e: npt.NDArray[np.float64]
    scale_n: npt.NDArray[np.float64]

    @property
    def width(self) -> int:
        """E."""
        return int(self.vectors_ne.shape[1])

    def rows(self, index: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
        """Unit vectors of some images, float64 [*index.shape, E]."""
        unit: npt.NDArray[np.float64] = self.vectors_ne[index] - self.centre_e
        unit *= self.scale_n[index][..., None]
        return unit

    def columns(self, first: int, end: int, out_nc: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Write some coordinates of every unit vector into `out_nc`, float64 [n, end - first], and return it."""
        np.subtract(self.vectors_ne[:, first:end], self.centre_e[first:end], out=out_nc)
        out_nc *= self.scale_n[:, None]
        return out_nc

    def cosines(self, one_p: npt.NDArray[np.integer], other_p: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
        """Cosine [p] of each pair of rows."""
        cosine_p = np.empty(len(one_p))
        for part in _parts(len(one_p)):
            cosine_p[part] = np.einsum("pe,pe->p", self.rows(one_p[part]), self.rows(other_p[part]))
        return cosine_p

    def row_of_image(self, n_images: int) -> npt.NDArray[np.int32]:
        """Row of each image_id, -1 for images without a direction: int32 [at least n_images]."""
        rows = np.full(max(n_images, int(self.image_ids.max(initial=-1)) + 1), -1, dtype=np.int32)
        rows[self.image_ids] = np.arange(len(self.image_ids), dtype=np.int32)
        return rows


def directions_of(embeddings: Embeddings, image_ids: npt.NDArray[np.int32], *, centre: bool = False) -> Directions:
    """Return the directions of those images that have one.

    Vectors with NaN or infinite entries and zero vectors have none, nor have, when centred, vectors equal to the mean.

    Args:
        embeddings: of images, these and others.
        image_ids: the images that are wanted.
        centre: subtract the mean of the wanted images' vectors first.
    """
    ids, vectors_ne = embeddings
    nowhere_e = np.zeros(vectors_ne.shape[1])
    length_n = _lengths(vectors_ne, nowhere_e)
    kept_n = np.isin(ids, image_ids) & np.isfinite(length_n) & (length_n > 0)
    ids, vectors_ne, length_n = _kept(kept_n, ids, vectors_ne, length_n)
    if not centre or not len(ids):
        return Directions(ids, vectors_ne, nowhere_e, 1 / length_n)
    centre_e = vectors_ne.mean(axis=0, dtype=np.float64)
    length_n = _lengths(vectors_ne, centre_e)
    kept_n = length_n > NO_DIRECTION * np.linalg.norm(centre_e)
    ids, vectors_ne, length_n = _kept(kept_n, ids, vectors_ne, length_n)
    return Directions(ids, vectors_ne, centre_e, 1 / length_n)


def _kept(
    kept_n: npt.NDArray[np.bool_],
    ids: npt.NDArray[np.int32],
    vectors_ne: npt.NDArray[np.float32],
    length_n: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    if kept_n.all():  # the usual case, in which the vectors are not copied
        return ids, vectors_ne, length_n
    return ids[kept_n], vectors_ne[kept_n], length_n[kept_n]


def _lengths(vectors_ne: npt.NDArray[np.float32], centre_e: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """‖e − centre‖ [n]; NaN or infinite where an entry is."""
    length_n = np.empty(len(vectors_ne))
    for part in _parts(len(vectors_ne)):
        moved_ne = vectors_ne[part] - centre_e
        length_n[part] = np.sqrt(np.einsum("ne,ne->n", moved_ne, moved_ne))
    return length_n


def _parts(n: int) -> Iterator[slice]:
    for start in range(0, n, ROWS_AT_ONCE):
        yield slice(start, min(start + ROWS_AT_ONCE, n))


def random_pair_cosines(directions: Directions, n_pairs: int, seed: int) -> npt.NDArray[np.float64]:
    """Cosine [n_pairs] of pairs of different images, each drawn anew; at least two images are needed."""
    n = len(directions.image_ids)
    rng = np.random.default_rng(seed)
    one_p = rng.integers(n, size=n_pairs)
    other_p = rng.integers(n - 1, size=n_pairs)
    # The numbers from `one` on move up by one, so that every other image is as likely and none meets itself.
    return directions.cosines(one_p, other_p + (other_p >= one_p))
