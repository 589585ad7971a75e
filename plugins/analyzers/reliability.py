"""How far raters agree: the intraclass correlation ICC(2,k) of Shrout and Fleiss (1979)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def icc2k(ratings_nk: npt.NDArray[np.float64]) -> float | None:
    """Return ICC(2,k), the reliability of the mean over k raters: two-way random effects, absolute agreement.

    (MS_images − MS_error) / (MS_images + (MS_raters − MS_error) / n), Shrout and Fleiss (1979), Psychological Bulletin
    86, table 2 and equation for ICC(2, k). It can be negative, when raters agree less than by chance.

    Args:
        ratings_nk: [n images, k raters], none missing.

    Returns:
        None with fewer than two images or raters, or when all ratings are equal.
    """
    n, k = ratings_nk.shape
    if n < 2 or k < 2:
        return None
    centred_nk = ratings_nk - ratings_nk.mean()
    by_image_n, by_rater_k = centred_nk.mean(axis=1), centred_nk.mean(axis=0)
    rest_nk = centred_nk - by_image_n[:, None] - by_rater_k[None, :]
    ms_images = k * (by_image_n @ by_image_n) / (n - 1)
    ms_raters = n * (by_rater_k @ by_rater_k) / (k - 1)
    ms_error = float((rest_nk**2).sum()) / ((n - 1) * (k - 1))
    below = float(ms_images + (ms_raters - ms_error) / n)
    tiny = 1e-20 * float((ratings_nk**2).mean())
    return float((ms_images - ms_error) / below) if abs(below) > tiny else None


def complete_table(
    image_n: npt.NDArray[np.integer], rater_n: npt.NDArray[np.integer], value_n: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return ratings [images, raters] of the images that every rater rated, from one row for each image and rater."""
    raters, column_n = np.unique(rater_n, return_inverse=True)
    images, row_n = np.unique(image_n, return_inverse=True)
    table_nk = np.full((len(images), len(raters)), np.nan)
    table_nk[row_n, column_n] = value_n
    complete_nk: npt.NDArray[np.float64] = table_nk[~np.isnan(table_nk).any(axis=1)]
    return complete_nk
