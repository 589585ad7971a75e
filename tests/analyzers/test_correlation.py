"""`correlation` through the runner: real spaces and ratings, against scipy and statsmodels on dense vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.warehouse import Warehouse

N, F, UNCOVERED = 30, 50, 4
RATERS = ("ann", "bob", "cy")


@pytest.fixture
def dense() -> Any:
    """Activations [30, 50]; the space leaves the last four images out."""
    rng = np.random.default_rng(5)
    values = rng.random((N, F)).astype(np.float32)
    values[rng.random((N, F)) > rng.random(F)] = 0
    values[:, 10], values[:, 11], values[:, 12] = 0.5, 0, np.eye(N)[3]
    return values


@pytest.fixture
def ratings(dense: Any) -> pl.DataFrame:
    """Three raters on `mood`, one on `size`, two values in `yes`, a constant; some are missing."""
    rng = np.random.default_rng(6)
    rows = [(i, "mood", rater, 4 + dense[i, 0] * 3 + rng.normal()) for i in range(N) for rater in RATERS]
    rows = [row for row in rows if rng.random() > 0.15 and row[0] != 5]
    rows += [(i, "size", "", rng.normal()) for i in range(0, N, 2)]
    rows += [(i, "yes", "ann", float(dense[i, 1] > 0)) for i in range(N)]
    rows += [(i, "same", "ann", 3.0) for i in range(N)] + [(i, "rare", "ann", float(i)) for i in (0, 1)]
    return pl.DataFrame(rows, schema=["image", "dimension", "rater", "value"], orient="row")


@pytest.fixture
def rated(warehouse: Warehouse, dense: Any, ratings: pl.DataFrame, tmp_path: Path) -> Warehouse:
    names = [Path(path).name for path in warehouse.images()["path"]]
    warehouse.import_features("x", dense[:-UNCOVERED], images=names[:-UNCOVERED])
    named = ratings.with_columns(pl.Series("image", names).gather(ratings["image"]))
    named.write_csv(tmp_path / "ratings.csv", float_precision=17)
    warehouse.add(ratings=[tmp_path / "ratings.csv"])
    return warehouse


def means(ratings: pl.DataFrame, dimension: str) -> dict[int, float]:
    """Mean over raters by image, of the images that the space covers."""
    mine = ratings.filter(pl.col("dimension") == dimension, pl.col("image") < N - UNCOVERED)
    return {image: float(mine.filter(image=image)["value"].to_numpy().mean()) for image in mine["image"].unique()}


def test_rows_equal_scipy_and_statsmodels(rated: Warehouse, dense: Any, ratings: pl.DataFrame) -> None:
    run = rated.analyze("correlation", "x", confidence=0.9)[-1].run
    found = rated.sql("FROM correlation ORDER BY feature_id, dimension")
    expected = []
    for feature in range(F):
        for dimension in ("mood", "size", "yes"):
            mean = means(ratings, dimension)
            x, y = dense[list(mean), feature].astype(np.float64), np.array(list(mean.values()))
            if len(set(x)) > 1:
                result = scipy.stats.pearsonr(x, y)
                interval = result.confidence_interval(0.9)
                expected.append((feature, dimension, len(x), result.statistic, result.pvalue, *interval))
    keys = ["feature_id", "dimension", "n"]
    assert found.select(keys).rows() == [row[:3] for row in expected]
    figures = np.array([row[3:] for row in expected])
    np.testing.assert_allclose(found["r"], figures[:, 0], atol=1e-9)
    np.testing.assert_allclose(found["p"], figures[:, 1], rtol=1e-9)
    np.testing.assert_allclose(found.select("r_low", "r_high").to_numpy(), figures[:, 2:], atol=1e-9)
    np.testing.assert_allclose(found["q"], multipletests(found["p"].to_numpy(), method="fdr_bh")[1], rtol=1e-12)
    assert set(found["method"]) == {"pearson"} and set(found["covariates"]) == {""}
    assert {10, 11} & set(found["feature_id"]) == set()

    assert run.notes["n_tests"] == len(expected)
    assert run.notes["not_tested"] == {
        "rare": "2 rated images in this space, 3 are needed",
        "same": "all ratings are equal",
    }
    tested = run.notes["tested"]["mood"]
    assert tested["n_images"] == len(means(ratings, "mood"))
    assert tested["n_features"] + tested["n_without_variance"] == F
    assert tested["n_found"] == found.filter(pl.col("dimension") == "mood", pl.col("q") < 0.05).height
    assert list(run.notes["reliability"]) == ["mood"]
    complete = ratings.filter(pl.col("image") < N - UNCOVERED, dimension="mood").group_by("image").len()
    reliability = run.notes["reliability"]["mood"]
    assert reliability["n_images"] == complete.filter(len=3).height and reliability["n_raters"] == 3
    assert -1 < reliability["icc2k"] < 1


def test_features_shows_the_strongest_dimension_with_its_sign(rated: Warehouse) -> None:
    rated.analyze("correlation", "x")
    rows = rated.sql("SELECT feature_id, f.r, f.dimension, f.q FROM features AS f WHERE r IS NOT NULL")
    every = rated.sql("FROM correlation")
    assert rows.height == every["feature_id"].n_unique()
    for feature, r, dimension, q in rows.iter_rows():
        strongest = every.filter(feature_id=feature).sort(pl.col("r").abs()).row(-1, named=True)
        assert (r, dimension, q) == (strongest["r"], strongest["dimension"], strongest["q"])
    assert (rows["r"] < 0).any()


def test_one_rater_only(rated: Warehouse, dense: Any, ratings: pl.DataFrame) -> None:
    run = rated.analyze("correlation", "x", raters=("bob",), dimensions=("mood",))[-1].run
    mean = means(ratings.filter(rater="bob"), "mood")
    found = rated.sql("FROM correlation WHERE feature_id = 0").row(0, named=True)
    expected = scipy.stats.pearsonr(dense[list(mean), 0].astype(np.float64), list(mean.values()))
    assert (found["r"], found["n"]) == (pytest.approx(expected.statistic, abs=1e-9), len(mean))
    assert run.notes["reliability"] == {}


def test_methods_and_covariates_stand_side_by_side(rated: Warehouse, dense: Any, ratings: pl.DataFrame) -> None:
    for parameters in (
        {},
        {"method": "spearman"},
        {"method": "pointbiserial", "dimensions": ("yes",)},
        {"covariates": ("saturation", "brightness", "saturation")},
        {"covariates": ("brightness",), "method": "spearman"},
    ):
        rated.analyze("correlation", "x", **parameters)
    found = rated.sql("FROM correlation WHERE feature_id = 1 AND dimension = 'yes'")
    rows = {(row["method"], row["covariates"]): row for row in found.iter_rows(named=True)}
    assert set(rows) == {
        ("pearson", ""),
        ("spearman", ""),
        ("pointbiserial", ""),
        ("pearson", "brightness,saturation"),
        ("spearman", "brightness"),
    }
    mean = means(ratings, "yes")
    x, y = dense[list(mean), 1].astype(np.float64), np.array(list(mean.values()))
    assert rows["spearman", ""]["p"] == pytest.approx(scipy.stats.spearmanr(x, y).pvalue, rel=1e-9)
    assert rows["pointbiserial", ""]["r"] == pytest.approx(rows["pearson", ""]["r"], abs=1e-12)
    columns = rated.images().sort("image_id").select("brightness", "saturation").to_numpy().astype(np.float64)
    design = np.column_stack([np.ones(len(x)), columns[list(mean)]])
    left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    r = np.corrcoef(left)[0, 1]
    partial = rows["pearson", "brightness,saturation"]
    assert partial["r"] == pytest.approx(r, abs=1e-9)
    t = abs(r) * np.sqrt((len(x) - 4) / (1 - r * r))
    assert partial["p"] == pytest.approx(2 * scipy.stats.t.sf(t, len(x) - 4), rel=1e-9)
    half = scipy.stats.norm.ppf(0.975) / np.sqrt(len(x) - 5)
    assert partial["r_low"] == pytest.approx(np.tanh(np.arctanh(r) - half), abs=1e-9)


def test_the_same_request_in_another_order_is_the_same_run(rated: Warehouse) -> None:
    first = rated.analyze("correlation", "x", dimensions=("yes", "mood"), raters=("cy", "ann"))[-1]
    again = rated.analyze("correlation", "x", dimensions=("mood", "yes", "mood"), raters=("ann", "cy"))[-1]
    assert first.is_new and not again.is_new and first.run.run_id == again.run.run_id


def test_new_ratings_make_it_stale(rated: Warehouse, tmp_path: Path) -> None:
    rated.analyze("correlation", "x")
    assert not rated.runs()[-1].is_stale
    name = Path(rated.images()["path"][0]).name
    (tmp_path / "more.csv").write_text(f"image,dimension,rater,value\n{name},mood,dan,3\n")
    rated.add(ratings=[tmp_path / "more.csv"])
    assert rated.runs()[-1].is_stale


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dimensions": ("moood",)}, "no rating dimension 'moood'. Did you mean 'mood'"),
        ({"raters": ("zoe",)}, "no rater 'zoe'"),
        ({"covariates": ("brightnes",)}, "no covariate 'brightnes'. Did you mean 'brightness'"),
        ({"method": "pointbiserial"}, "pointbiserial needs ratings with two values, but 'mood' has"),
        ({"dimensions": ("same", "rare")}, "No dimension can be tested: rare: 2 rated images.*same: all ratings"),
        ({"dimensions": ("mood",), "min_images": 100}, "25 rated images in this space, 100 are needed"),
        ({"min_images": 2}, "min-images"),
    ],
)
def test_what_cannot_be_done_is_said(rated: Warehouse, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rated.analyze("correlation", "x", **parameters)
    assert rated.runs() == []


def test_without_ratings_it_says_how_to_add_them(warehouse: Warehouse, dense: Any) -> None:
    warehouse.import_features("x", dense, images=list(range(N)))
    with pytest.raises(UsageError, match=r"There are no ratings\. Add them with `glasshouse add --ratings FILE`"):
        warehouse.analyze("correlation", "x")
