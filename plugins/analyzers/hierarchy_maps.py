"""Where features of a patch space are strong and how far they reach, and the regions that a feature makes in pictures.

A feature's full strength is a high quantile of its activations, so that one outlier does not set it. It is *strong* on
a patch from half of that on, and *reaches* a patch from a fifth on: features are weakly active in many places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glasshouse.schema.texts import read_sql

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

FULL, STRONG, REACH = 0.98, 0.5, 0.2
"""The quantile that is a feature's full strength; the shares of it from which on a feature is strong, and reaches."""

MAX_ROWS = 1 << 22
"""Token activations read at once, unless one feature alone has more."""

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Maps:
    """Patches of some features; patches are counted through all images of the space, image by image.

    Attributes:
        feature_ids: the features [k], ascending; from here on a feature is its place among them.
        n_images: of the space.
        grid: rows and columns.
        bounds: of each feature's patches in `patch_r`, [k + 1].
        patch_r: patches that are reached, ascending within a feature.
        strong_r: whether the feature is strong there.
    """

    feature_ids: npt.NDArray[np.int32]
    n_images: int
    grid: tuple[int, int]
    bounds: Ints
    patch_r: Ints
    strong_r: Bools

    @property
    def n_tokens(self) -> int:
        """Patches of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def n_patches(self) -> int:
        """Patches of the space."""
        return self.n_images * self.n_tokens

    def reached(self, place: int) -> Ints:
        """Return the patches that a feature reaches."""
        return self.patch_r[self.bounds[place] : self.bounds[place + 1]]

    def strong(self, place: int) -> Ints:
        """Return the patches on which a feature is strong."""
        inside = slice(self.bounds[place], self.bounds[place + 1])
        return self.patch_r[inside][self.strong_r[inside]]

    def images(self, patches: Ints) -> Ints:
        """Return the images of some patches, which ascend, each once."""
        image_r = patches // self.n_tokens
        return image_r[np.diff(image_r, prepend=-1) > 0]


def read_maps(view: AnalysisView, feature_ids: npt.NDArray[np.int32], max_rows: int | None = None) -> Maps:
    """Read the maps of some features: 9 bytes for each patch that is reached.

    Args:
        view: of a patch space.
        feature_ids: ascending.
        max_rows: see `MAX_ROWS`.
    """
    grid = view.grid or (1, 1)
    position_i = np.full(view.n_images, -1, dtype=np.int64)
    position_i[view.image_ids] = np.arange(len(view.image_ids))
    counts_k = np.zeros(len(feature_ids), dtype=np.int64)
    patches, strong = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.bool_)]
    for first, end in _blocks(view, feature_ids, max_rows or MAX_ROWS):
        places = np.arange(first, end, dtype=np.int32)
        with view.connection() as connection:
            connection.register("chosen", pa.table({"feature_id": feature_ids[first:end], "place": places}))
            shares = {"full": FULL, "strong": STRONG, "reach": REACH}
            found = connection.sql(read_sql("queries/patches_at_strength.sql"), params=shares).fetchnumpy()
        counts_k += np.bincount(found["place"], minlength=len(feature_ids))
        patches.append(position_i[found["image_id"]] * (grid[0] * grid[1]) + found["token"])
        strong.append(np.asarray(found["is_strong"], dtype=np.bool_))
    bounds = np.concatenate([[0], np.cumsum(counts_k)])
    return Maps(feature_ids, len(view.image_ids), grid, bounds, np.concatenate(patches), np.concatenate(strong))


def _blocks(view: AnalysisView, feature_ids: npt.NDArray[np.int32], max_rows: int) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of features that have at most `max_rows` token activations together, or of one."""
    statistics = view.statistics()
    rows_f = np.zeros(view.n_features, dtype=np.int64)
    rows_f[statistics["feature_id"].to_numpy()] = statistics["n_tokens"].fill_null(0).to_numpy()
    before_k = np.concatenate([[0], np.cumsum(rows_f[feature_ids])])
    first = 0
    while first < len(feature_ids):
        end = int(np.searchsorted(before_k, before_k[first] + max_rows, side="right")) - 1
        end = max(end, first + 1)
        yield first, end
        first = end


class Regions:
    """The regions of one feature at a time: patches of an image that touch, also by a corner.

    Args:
        maps: of the space. One array over all its patches is kept, 4 bytes each.
    """

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self.region_p = np.zeros(maps.n_patches, dtype=np.int32)
        """The region of each patch, from 1 on; 0 where the feature does not reach, [patches]."""
        self.size_g = np.zeros(1, dtype=np.int64)
        """Patches of each region, [regions + 1]; none of 0."""
        self._reached = np.zeros(0, dtype=np.int64)

    def show(self, place: int) -> None:
        """Make the regions of a feature; those shown before are gone."""
        from scipy import ndimage  # late: analyses that need no regions do not wait for it

        maps = self._maps
        self.region_p[self._reached] = 0
        self._reached = maps.reached(place)
        images = maps.images(self._reached)
        stack = np.zeros((len(images), *maps.grid), dtype=np.bool_)
        row_r = np.searchsorted(images, self._reached // maps.n_tokens)
        within_r = row_r * maps.n_tokens + self._reached % maps.n_tokens
        stack.reshape(-1)[within_r] = True
        touching = np.zeros((3, 3, 3), dtype=np.bool_)
        touching[1] = True
        labelled, n_regions = ndimage.label(stack, touching)
        region_r = labelled.reshape(-1)[within_r]
        self.region_p[self._reached] = region_r
        self.size_g = np.bincount(region_r, minlength=n_regions + 1)
