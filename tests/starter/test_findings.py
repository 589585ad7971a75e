"""What the demo says it found, against the world rendered again and against plain counting."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.pages import Page
from scipy import stats

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.starter.demo import build_demo, write_demo_report
from glasshouse.plugins.starter.findings import SEARCHED, Truth, WorldTruth, ending_of, is_pure, remarks, surprise
from glasshouse.plugins.starter.world.ratings import PLANTS
from glasshouse.plugins.starter.world.scene import render_scene
from glasshouse.warehouse.warehouse import Warehouse

N_IMAGES = 300


@pytest.fixture(scope="module")
def demo(tmp_path_factory: Any) -> Warehouse:
    root = tmp_path_factory.mktemp("demo") / "demo.glasshouse"
    report = build_demo(root, N_IMAGES, 0, Plugins(external=False), lambda name: lambda done, total: None)
    assert not report.stopped and report.left_out == []
    return report.warehouse


def test_truth_is_what_the_world_says(demo: Warehouse) -> None:
    stem = {row["image_id"]: int(Path(row["path"]).stem) for row in demo.images().iter_rows(named=True)}
    values = {image: render_scene(0, index).values() for image, index in stem.items()}
    truth = WorldTruth(demo)
    for feature in (58, 17, 39):
        top = demo.top_images("cls", feature, 20)["image_id"].to_list()
        for value in ("watermark", "red", "cyan", "warm"):
            found = truth.about("cls", feature, value)
            assert found.n_true == sum(value in values[image] for image in top)
            assert found.base == pytest.approx(sum(value in v for v in values.values()) / N_IMAGES)
        best = truth.of("cls", feature)
        assert best is not None and surprise(best) >= max(
            surprise(truth.about("cls", feature, value)) for value in ("watermark", "red", "cyan", "warm", "large")
        )


def test_surprise_is_the_divergence_of_two_coins() -> None:
    for n_true, n_top, base in ((20, 20, 0.1), (15, 20, 0.3), (1, 3, 0.02)):
        share = n_true / n_top
        expected = stats.entropy([share, 1 - share], [base, 1 - base])
        assert surprise(Truth("x", n_true, n_top, base)) == pytest.approx(expected)
    assert surprise(Truth("x", 3, 20, 0.5)) == 0
    assert surprise(Truth("x", 20, 20, 1.0)) == 0
    assert math.isclose(surprise(Truth("x", 20, 20, 0.5)), math.log(2))
    assert (
        is_pure(Truth("x", 18, 20, 0.1)) and not is_pure(Truth("x", 17, 20, 0.1)) and not is_pure(Truth("x", 0, 0, 0))
    )


def test_planted_attributes_lead_and_luck_finds_little(demo: Warehouse) -> None:
    ending = ending_of(demo, "cls")
    found = {rating.dimension: (rating, rows) for rating, rows in ending.ratings}
    assert set(found) == set(PLANTS)
    for dimension in ("commercial", "restless"):
        assert found[dimension][1][0].is_planted and (found[dimension][1][0].q or 1) < 0.05
    n_luck, n_real = found["luck"][0].n_significant, sum(found[d][0].n_significant for d in PLANTS if d != "luck")
    assert n_luck <= 0.2 * n_real
    assert not any(row.is_planted for row in found["luck"][1])


def test_searches_are_checked_against_the_word(demo: Warehouse) -> None:
    ending = ending_of(demo, "cls")
    assert list(ending.searches) == list(SEARCHED)
    for word, finding in ending.searches.items():
        assert finding.truth is not None and finding.truth.value == SEARCHED[word]
    right = [is_pure(f.truth) for f in ending.searches.values() if f.truth]
    assert sum(right) >= 4


def test_the_report_quotes_the_truth(demo: Warehouse) -> None:
    path = write_demo_report(demo, [ending_of(demo, space) for space in ("cls", "patches")])
    page = Page(path.read_text(encoding="utf-8"))
    for words in (*remarks().values(), "“striped”", "Space patches", "given brightness, edge_energy, saturation"):
        assert words in page.words
    assert "follows 0.6 red + 0.4 star" in page.words and "follows striped − cyan" in page.words
    assert len([tag for tag, _ in page.tags if tag == "img"]) > 100


def test_a_second_demo_computes_nothing_anew(demo: Warehouse) -> None:
    before = [(run.run_id, run.is_stale) for run in demo.runs()]
    report = build_demo(demo.root, N_IMAGES, 0, Plugins(external=False), lambda name: lambda done, total: None)
    assert [(run.run_id, run.is_stale) for run in report.warehouse.runs()] == before
    newest = [run for run in demo.runs() if run.analyzer == "correlation" and run.space == "cls"][-1]
    assert not newest.facets["covariates"]  # tiers and `features` see the plain one


def test_stopping_between_analyses(tmp_path: Path) -> None:
    calls = iter(range(10**6))
    plugins = Plugins(external=False)
    # Late enough to be past the extraction of 20 images: one batch for each encoder.
    report = build_demo(
        tmp_path / "d.glasshouse", 20, 0, plugins, lambda name: lambda done, total: None, lambda: next(calls) >= 6
    )
    assert report.stopped
    assert 0 < len(report.warehouse.runs()) < 10
    assert np.unique([run.space for run in report.warehouse.runs()]).tolist() == ["cls"]
