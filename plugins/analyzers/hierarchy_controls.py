"""Controls of a pair of features: could the child lie on the parent by chance?

Two for each pair. *Moved anywhere*: each of the child's maps is laid on any picture of the space. *Moved among shared*:
on one of the pictures that hold both, so that what is left is the place within the picture. A third needs no drawing:
what comes of dealing the child's pictures anew is the hypergeometric distribution.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MAX_IMAGES = 200
"""Pictures of a child whose maps are moved, drawn at random where there are more."""


MAX_MOVED = 1 << 20
"""Patches that are moved at once, 16 bytes each, unless one map alone has more."""


class Moved(NamedTuple):
    """The mean share of the child's patches that lie on the parent when moved, and the p of the share as it is."""

    expected: float
    p: float


NOTHING = Moved(float("nan"), 1.0)
"""Of pairs with too few pictures to move anything."""


class Controls:
    """Moves maps of children.

    Args:
        n_images: of the space.
        n_tokens: patches of an image.
        permutations: how often maps are moved; the smallest p is 1 / (permutations + 1).
        seed: of a pair's draws, together with its ids: a pair's p does not hang on which others are tested.
    """

    def __init__(self, n_images: int, n_tokens: int, permutations: int, seed: int) -> None:
        self._n_images = n_images
        self._n_tokens = n_tokens
        self._permutations = permutations
        self._seed = seed

    def moved(self, pair: tuple[int, int], strong: Ints, inside_p: Bools, shared: Ints) -> tuple[Moved, Moved]:
        """Return what remains when maps are moved anywhere, and among shared pictures.

        Args:
            pair: ids of child and parent.
            strong: patches on which the child is strong.
            inside_p: whether the parent reaches a patch, [patches].
            shared: images on which the child is strong and the parent reaches something.
        """
        rng = np.random.default_rng((self._seed, *pair))
        own = np.unique(strong // self._n_tokens)
        anywhere = self._drawn(rng, strong, own, inside_p)
        held = strong[np.isin(strong // self._n_tokens, shared)]
        return anywhere, self._permuted(rng, held, shared, inside_p)

    def _drawn(self, rng: np.random.Generator, strong: Ints, own: Ints, inside_p: Bools) -> Moved:
        """Lay each map on a picture drawn from all."""
        if len(own) < 2:
            return NOTHING
        strong, own = self._some(rng, strong, own)
        row_r = np.searchsorted(own, strong // self._n_tokens)
        targets_bi = rng.integers(0, self._n_images, (self._permutations, len(own)))
        return self._judged(strong, row_r, targets_bi, inside_p)

    def _permuted(self, rng: np.random.Generator, strong: Ints, shared: Ints, inside_p: Bools) -> Moved:
        """Lay each map on one of the shared pictures, no two on the same."""
        if len(shared) < 3:
            return NOTHING
        strong, shared = self._some(rng, strong, shared)
        row_r = np.searchsorted(shared, strong // self._n_tokens)
        order_bi = rng.permuted(np.tile(np.arange(len(shared)), (self._permutations, 1)), axis=1)
        return self._judged(strong, row_r, shared[order_bi], inside_p)

    def _some(self, rng: np.random.Generator, strong: Ints, images: Ints) -> tuple[Ints, Ints]:
        if len(images) <= MAX_IMAGES:
            return strong, images
        images = np.sort(rng.choice(images, MAX_IMAGES, replace=False))
        return strong[np.isin(strong // self._n_tokens, images)], images

    def _judged(self, strong: Ints, row_r: Ints, targets_bi: Ints, inside_p: Bools) -> Moved:
        """Compare the share as it is with the shares after each move, [permutations, images] of target pictures."""
        token_r = strong % self._n_tokens
        as_it_is = float(inside_p[strong].mean())
        step = max(1, MAX_MOVED // len(strong))
        shares_b = np.concatenate(
            [
                inside_p[targets_bi[first : first + step, row_r] * self._n_tokens + token_r].mean(axis=1)
                for first in range(0, len(targets_bi), step)
            ]
        )
        return Moved(float(shares_b.mean()), float((1 + np.count_nonzero(shares_b >= as_it_is)) / (len(shares_b) + 1)))


def dealt_anew(n_images: Ints | int, n_parent: Ints, n_child: Ints, n_shared: Ints) -> Floats:
    """Return the p of so many shared pictures or more when the child's pictures are dealt anew (hypergeometric).

    Args:
        n_images: of the space.
        n_parent: images of the parent.
        n_child: images of the child.
        n_shared: images of both.
    """
    from scipy.stats import hypergeom  # late: scipy.stats takes a third of a second

    return np.asarray(hypergeom.sf(n_shared - 1, n_images, n_parent, n_child), dtype=np.float64)
