"""ICC(2,k) against the published example and against statsmodels' analysis of variance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.anova import anova_lm

from glasshouse.plugins.analyzers.reliability import complete_table, icc2k

SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=float
)
"""The example of Shrout and Fleiss (1979), table 2: ICC(2,1) = .29, ICC(2,4) = .62."""


def test_the_published_example() -> None:
    assert icc2k(SHROUT_FLEISS) == pytest.approx(0.62, abs=0.005)


@pytest.mark.parametrize(("n", "k"), [(5, 2), (12, 3), (30, 6)])
def test_it_equals_the_mean_squares_of_statsmodels(n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    table = 4 + rng.normal(size=(n, 1)) + rng.normal(size=(1, k)) + rng.normal(size=(n, k))
    frame = pd.DataFrame(
        {"image": np.repeat(np.arange(n), k), "rater": np.tile(np.arange(k), n), "value": table.ravel()}
    )
    mean_squares = anova_lm(smf.ols("value ~ C(image) + C(rater)", frame).fit())["mean_sq"]
    images, raters, error = mean_squares["C(image)"], mean_squares["C(rater)"], mean_squares["Residual"]
    assert icc2k(table) == pytest.approx((images - error) / (images + (raters - error) / n), rel=1e-9)


def test_where_there_is_nothing_to_compare_it_is_none() -> None:
    assert icc2k(SHROUT_FLEISS[:1]) is None and icc2k(SHROUT_FLEISS[:, :1]) is None
    assert icc2k(np.full((5, 3), 4.1)) is None
    assert icc2k(np.repeat(np.arange(5.0)[:, None], 3, axis=1)) == pytest.approx(1.0)


def test_only_images_that_all_raters_rated_are_taken() -> None:
    image, rater = np.array([4, 4, 7, 9, 9, 9, 2, 2]), np.array([0, 2, 0, 2, 0, 1, 1, 0])
    np.testing.assert_array_equal(complete_table(image, rater, np.arange(8.0)), [[4.0, 5.0, 3.0]])
