"""What speaks for a pair of features being child and parent: shares, regions, pictures, and two controls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.hierarchy_controls import NOTHING, Controls, Moved
from glasshouse.plugins.analyzers.hierarchy_maps import Maps, Regions

if TYPE_CHECKING:
    from collections.abc import Sequence

Ints = npt.NDArray[np.int64]


class Evidence(NamedTuple):
    """Of a child and a parent, by their ids.

    Attributes:
        n_patches: on which the child is strong.
        n_images: on which the child is strong.
        n_shared: of these, images on which the parent reaches something.
        n_parent_images: images on which the parent reaches something.
        implied: share of the child's strong patches that the parent reaches.
        both_strong: share of the child's strong patches on which the parent is strong too.
        implies_back: share of the parent's strong patches that the child reaches.
        fills: share of the patches of the parent's regions that the child reaches, in regions where it is strong.
        recurs: share of the parent's images on which the child reaches something.
        lift: `implied` over the share of all patches that the parent reaches.
        anywhere: the control with maps moved to any picture.
        among_shared: the control with maps moved among the pictures that hold both.
    """

    child: int
    parent: int
    n_patches: int
    n_images: int
    n_shared: int
    n_parent_images: int
    implied: float
    both_strong: float
    implies_back: float
    fills: float
    recurs: float
    lift: float
    anywhere: Moved
    among_shared: Moved


@dataclass(frozen=True)
class Limits:
    """What a pair needs to be looked at, and to be tested: patches and images of the child, and `implied`."""

    min_patches: int
    min_images: int
    implied: float


class PairEvidence:
    """Gathers the evidence of pairs, one parent after the other.

    Args:
        maps: of all features of the pairs.
        controls: for those that get so far.
        limits: children below them are left out; pairs below `implied` are not tested.
    """

    def __init__(self, maps: Maps, controls: Controls, limits: Limits) -> None:
        self._maps = maps
        self._controls = controls
        self._limits = limits
        self._regions = Regions(maps)
        self._inside_p = np.zeros(maps.n_patches, dtype=np.bool_)

    def of(self, pairs: Sequence[tuple[int, int]]) -> Iterator[list[Evidence]]:
        """Yield for each parent the evidence of those of its pairs whose child is frequent enough.

        Args:
            pairs: ids of child and parent, sorted by parent. Both have maps.
        """
        for parent, group in groupby(pairs, key=lambda pair: pair[1]):
            yield list(self._of_parent(parent, [child for child, _ in group]))

    def _of_parent(self, parent: int, children: Sequence[int]) -> Iterator[Evidence]:
        place = self._place(parent)
        reached, strong = self._maps.reached(place), self._maps.strong(place)
        self._inside_p[reached] = True
        self._regions.show(place)
        parent_images = self._maps.images(reached)
        for child in children:
            found = self._of_pair(child, parent, reached, strong, parent_images)
            if found is not None:
                yield found
        self._inside_p[reached] = False

    def _of_pair(
        self, child: int, parent: int, parent_reached: Ints, parent_strong: Ints, parent_images: Ints
    ) -> Evidence | None:
        maps = self._maps
        reached, strong = maps.reached(self._place(child)), maps.strong(self._place(child))
        images = maps.images(strong)
        if len(strong) < self._limits.min_patches or len(images) < self._limits.min_images:
            return None
        shared = np.intersect1d(images, parent_images, assume_unique=True)
        implied = float(self._inside_p[strong].mean())
        anywhere, among_shared = NOTHING, NOTHING
        if implied >= self._limits.implied:
            anywhere, among_shared = self._controls.moved((child, parent), strong, self._inside_p, shared)
        return Evidence(
            child,
            parent,
            len(strong),
            len(images),
            len(shared),
            len(parent_images),
            implied,
            float(np.isin(strong, parent_strong, assume_unique=True).mean()),
            float(np.isin(parent_strong, reached, assume_unique=True).mean()),
            self._fills(strong, reached),
            float(np.isin(parent_images, maps.images(reached), assume_unique=True).mean()),
            implied * maps.n_patches / len(parent_reached),
            anywhere,
            among_shared,
        )

    def _fills(self, strong: Ints, reached: Ints) -> float:
        """Return how much of the parent's regions the child fills, of those on which it is strong; 0 where on none."""
        region_p, size_g = self._regions.region_p, self._regions.size_g
        touched = np.unique(region_p[strong])
        touched = touched[touched > 0]
        if not len(touched):
            return 0.0
        filled_g = np.bincount(region_p[reached], minlength=len(size_g))
        return float(filled_g[touched].sum() / size_g[touched].sum())

    def _place(self, feature: int) -> int:
        return int(np.searchsorted(self._maps.feature_ids, feature))
