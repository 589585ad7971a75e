"""Activations in which the parts, kinds and duplicates are known."""

from __future__ import annotations

from typing import Any

import numpy as np

N_IMAGES = 300
GRID = (6, 6)
CHILDREN: dict[tuple[int, int], str] = {
    (1, 0): "part_of",
    (2, 0): "part_of",
    (4, 3): "kind_of",
    (5, 3): "kind_of",
    (6, 5): "kind_of",
    (6, 3): "kind_of",
    (8, 7): "same",
}
"""Of (child, parent) what it is. 0 is a whole of 3 × 3 patches on a third of the images, 1 its upper left corner and 2
its middle, each missing now and then; 3 is an object on most images, 4 and 5 are its kinds, 6 a kind of 5; 7 and 8 are
the same twice. 9 is active everywhere, 10 at random, 11 on one patch, 12 is the top row, whatever is on it."""


def planted(seed: int, *, shuffled: bool = False) -> np.ndarray[Any, Any]:
    """Return activations [300, 36, 13]; `shuffled`: each feature's maps are those of other images."""
    rng = np.random.default_rng(seed)
    values = np.zeros((N_IMAGES, *GRID, 13), dtype=np.float32)

    def strength(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        return rng.uniform(0.7, 1, shape)

    for picture in values:
        row, column = rng.integers(0, 4, 2)
        block = (slice(row, row + 3), slice(column, column + 3))
        if rng.random() < 1 / 3:
            picture[(*block, 0)] = strength((3, 3))
            picture[row, column, 1] = strength(()) * (rng.random() < 0.7)
            picture[row + 1, column + 1, 2] = strength(()) * (rng.random() < 0.6)
        elif rng.random() < 0.9:
            picture[(*block, 3)] = strength((3, 3))
            kind = rng.choice([4, 5, 0])
            if kind:
                picture[(*block, kind)] = strength((3, 3))
            if kind == 5 and rng.random() < 0.5:
                picture[(*block, 6)] = strength((3, 3))
        if rng.random() < 0.4:
            place = tuple(rng.integers(0, 6, 2))
            picture[(*place, 7)], picture[(*place, 8)] = strength(()), strength(())
        picture[:, :, 9] = strength(GRID)
        picture[:, :, 10] = strength(GRID) * (rng.random(GRID) < 0.1)
        picture[0, :, 12] = strength((6,)) * (rng.random() < 0.5)
    values[7, 3, 3, 11] = 1
    if shuffled:
        for feature in range(values.shape[3]):
            values[:, :, :, feature] = values[rng.permutation(N_IMAGES), :, :, feature]
    return values.reshape(N_IMAGES, GRID[0] * GRID[1], -1)
