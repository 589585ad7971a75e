"""How a token map becomes words and pixels: nine regions, all over the picture, or in several places, and a box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.warehouse.showing.framing import Box

Map = npt.NDArray[np.float32]

LEVEL = 0.5
"""A concept is where its map reaches this share of its maximum on the image."""
EVERYWHERE = 0.5
"""From this share of what the encoder sees on, a concept is all over the picture."""
SMALL = 0.25
"""A connected part of a concept with less than this share of the largest part's mass is not told."""
MOST_REGIONS = 2
"""A concept with more is in several places."""


PLACES = frozenset(
    f"{down} {across}".strip() for down in ("top", "bottom", "") for across in ("left", "right", "") if down or across
) | {"centre", "center"}
"""What the nine regions are called, without `in the`."""


def is_place(name: str) -> bool:
    """Say whether a name is only what a region is called, e.g. `bottom left` or `in the centre`."""
    words = name.casefold().replace("-", " ").split()
    while words and words[0] in ("in", "at", "on", "the"):
        words = words[1:]
    return " ".join(words) in PLACES


def is_on(map_rc: Map) -> npt.NDArray[np.bool_]:
    """Say where a map is above half its maximum, [rows, columns]."""
    on_rc: npt.NDArray[np.bool_] = (map_rc >= LEVEL * map_rc.max()) & (map_rc > 0)
    return on_rc


class Place(NamedTuple):
    """Brings token maps into words and pixels.

    Attributes:
        grid: rows and columns of the maps.
        covered: what the grid covers, in pixels of the picture; reaches outside where the encoder pads.
        size: width and height of the picture.
    """

    grid: tuple[int, int]
    covered: Box
    size: tuple[int, int]

    def of(self, maps: Sequence[Map]) -> tuple[str, float, tuple[int, int, int, int]]:
        """Return region, share of the patches, and box in pixels of where some maps are above half their maximum.

        Their values are compared: they are shares of each feature's largest activation anywhere.
        """
        from scipy.ndimage import label  # late: no other command that shows an image needs scipy

        on_rc = np.any([is_on(map_rc) for map_rc in maps], axis=0)
        share, box = float(on_rc.mean()), self._box(*np.nonzero(on_rc))
        if share >= EVERYWHERE:
            return "all over the picture", share, box
        weight_rc = np.max(maps, axis=0)
        part_rc, n_parts = label(on_rc, np.ones((3, 3)))
        masses = [float(weight_rc[part_rc == part].sum()) for part in range(1, n_parts + 1)]
        regions: dict[str, None] = {}
        for place in np.argsort([-mass for mass in masses], kind="stable"):
            if masses[place] >= SMALL * max(masses):
                regions[self._region(weight_rc, part_rc == place + 1)] = None
        return (" and ".join(regions) if len(regions) <= MOST_REGIONS else "in several places"), share, box

    def _region(self, weight_rc: npt.NDArray[np.floating[Any]], part_rc: npt.NDArray[np.bool_]) -> str:
        """Return the region of the centre of mass of a part."""
        row_n, column_n = np.nonzero(part_rc)
        weight_n = weight_rc[part_rc].astype(np.float64)
        down = float(np.average(row_n + 0.5, weights=weight_n)) / self.grid[0]
        across = float(np.average(column_n + 0.5, weights=weight_n)) / self.grid[1]
        top, left, bottom, right = self.covered.top, self.covered.left, self.covered.bottom, self.covered.right
        y = (top + down * (bottom - top)) / self.size[1]
        x = (left + across * (right - left)) / self.size[0]
        return region_of(x, y)

    def _box(self, row_n: npt.NDArray[np.intp], column_n: npt.NDArray[np.intp]) -> tuple[int, int, int, int]:
        """Return the box around patches, within the picture, in whole pixels that hold all of it."""
        high = (self.covered.bottom - self.covered.top) / self.grid[0]
        wide = (self.covered.right - self.covered.left) / self.grid[1]
        left = max(0.0, self.covered.left + wide * int(column_n.min()))
        top = max(0.0, self.covered.top + high * int(row_n.min()))
        right = min(float(self.size[0]), self.covered.left + wide * (int(column_n.max()) + 1))
        bottom = min(float(self.size[1]), self.covered.top + high * (int(row_n.max()) + 1))
        return int(left), int(top), int(np.ceil(right - 1e-9)), int(np.ceil(bottom - 1e-9))


def region_of(x: float, y: float) -> str:
    """Return one of nine regions of a picture, e.g. `in the top left`; x and y from 0 to 1."""
    across = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    down = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    if not across and not down:
        return "in the centre"
    if across and down:
        return f"in the {down} {across}"
    return f"at the {down}" if down else f"on the {across}"
