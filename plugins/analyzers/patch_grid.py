"""The grid of patches of an image: which patches are near each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def neighbours(grid: tuple[int, int], radius: int) -> npt.NDArray[np.bool_]:
    """Say which patches lie within a Chebyshev distance of each other, bool [tokens, tokens]; each near itself.

    Args:
        grid: rows and columns; tokens are counted row by row.
        radius: in patches.
    """
    row_t, column_t = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    rows_tt = np.abs(row_t[:, None] - row_t[None, :])
    columns_tt = np.abs(column_t[:, None] - column_t[None, :])
    near_tt: npt.NDArray[np.bool_] = np.maximum(rows_tt, columns_tt) <= radius
    return near_tt
