"""The report: whole, self-contained, and nothing that others wrote is more than text in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit.hostile import HOSTILE
from kit.pages import Page, check_only_text
from scipy import stats

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.results.store import forget
from glasshouse.warehouse.showing.findings import Scored, findings_of
from glasshouse.warehouse.showing.report import ReportOptions, report_html, write_report
from glasshouse.warehouse.showing.report_parts import space_facts
from glasshouse.warehouse.warehouse import Warehouse

TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "h4", "p", "nav", "a", "section",
    "div", "table", "tr", "th", "td", "article", "span", "figure", "img", "figcaption", "details", "summary", "ul",
    "li", "footer", "code",
}  # fmt: skip


def check_self_contained(page: Page) -> None:
    check_only_text(page, TAGS)
    for tag, attributes in page.tags:
        if tag == "a":
            assert str(attributes["href"]).startswith("#")
        assert tag == "img" or "src" not in attributes
    policy = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policy) == 1 and str(policy[0]).startswith("default-src 'none'; img-src data:")
    assert "script" not in str(policy[0])


def test_hostile_texts_stay_texts(analysed: Warehouse) -> None:
    hits = {"cls": {HOSTILE: [Scored(3, 0.5)]}}
    options = ReportOptions(hits=hits, remarks={"joy <b>": HOSTILE}, introduction=HOSTILE)
    text = report_html(analysed, options)
    page = Page(text)
    check_self_contained(page)
    # Introduction, two remarks, the search's word, and each space's label.
    assert page.words.count("<script>alert(1)</script>\"' onload=x [bold]red[/bold]") >= 6
    assert "onerror=alert(1)>[bold].png" in " ".join(str(a.get("title")) for _, a in page.tags)
    assert "http://" not in text and "https://" not in text


def test_everything_that_was_found_is_in_it(analysed: Warehouse) -> None:
    words = Page(report_html(analysed, ReportOptions(n=4, k=2))).words
    for part in (
        "What it holds", "Space cls", "Space patches", "6 images", "Tiers: 1 elite.", "1 feature has a label.",
        "mean cosine of 0.2", "monosemantic from 0.5", "joy <b>", "given brightness, saturation", "more of it, lower",
        "24 of 24 features have q < 0.05", "about one in twenty is expected to be chance",
        "MS 0.96 moderate (top)", "stranger",
    ):  # fmt: skip
        assert part in words, part
    assert "{" not in words.split("}")[-1]


def test_a_warehouse_without_analyses_has_a_report(bare: Warehouse) -> None:
    page = Page(report_html(bare, ReportOptions(n=2, k=2)))
    check_self_contained(page)
    assert "Most active features (none is scored yet)" in page.words
    assert "No analysis was run yet" in page.words


def test_one_space_of_several(analysed: Warehouse) -> None:
    words = Page(report_html(analysed, ReportOptions(spaces=["cls"], n=1, k=1))).words
    assert "Space cls" in words and "Space patches" not in words
    with pytest.raises(UsageError, match="no space 'clz'"):
        report_html(analysed, ReportOptions(spaces=["clz"]))


def test_missing_pictures_do_not_keep_the_report(analysed: Warehouse, tmp_path: Path) -> None:
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    page = Page(report_html(analysed, ReportOptions(n=1, k=1)))
    check_self_contained(page)
    assert "picture not there" in page.words


def test_the_file_appears_whole(bare: Warehouse, tmp_path: Path) -> None:
    size = write_report(bare, tmp_path / "report.html", ReportOptions(n=1, k=1))
    assert (tmp_path / "report.html").stat().st_size == size
    assert (tmp_path / "report.html").read_text(encoding="utf-8").endswith("</html>\n")
    assert not list(tmp_path.glob(".report*"))


def test_an_empty_warehouse_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="glasshouse add"):
        report_html(Warehouse.create(tmp_path / "empty.glasshouse"), ReportOptions())


def test_predictors_are_the_strongest_by_absolute_r(analysed: Warehouse) -> None:
    forget(analysed.layout, [run for run in analysed.runs() if run.analyzer == "correlation"])
    analysed.analyze("correlation", "cls")
    (given,) = analysed.analyze("correlation", "cls", covariates=("brightness", "saturation"))
    found = findings_of(analysed, "cls", 5)
    (rating,) = found.ratings
    matrix = analysed.sparse_matrix("cls").toarray().astype(np.float64)
    ratings = analysed.sql("FROM ratings ORDER BY image_id")
    values = ratings["value"].to_numpy()
    columns = matrix[ratings["image_id"].to_numpy()]
    r = {f: stats.pearsonr(columns[:, f], values)[0] for f in range(matrix.shape[1]) if np.ptp(columns[:, f]) > 0}
    expected = sorted(r, key=lambda f: -abs(r[f]))[:5]
    assert [p.feature_id for p in rating.predictors] == expected
    assert [p.r for p in rating.predictors] == pytest.approx([r[f] for f in expected], abs=1e-9)
    assert rating.n_tested == len(r)
    assert found.covariates == ["brightness, saturation"]
    partial = analysed.result_rows(given.run)
    for p in rating.predictors:
        (expected_r,) = partial.filter(feature_id=p.feature_id)["r"]
        assert p.partial_r["brightness, saturation"] == expected_r != p.r


def test_the_best_are_those_with_the_highest_score(analysed: Warehouse) -> None:
    n = analysed.space("cls").n_features
    found = findings_of(analysed, "cls", 3)
    assert [s.feature_id for s in found.best] == [n - 1, n - 2, n - 3]
    assert found.best_by == "ms" and found.tiers == [(1, "elite", 1)] and found.n_labels == 1


def test_a_report_says_why_there_are_no_classes(analysed: Warehouse) -> None:
    found = replace(findings_of(analysed, "cls", 1), thresholds={"no_classes_because": "all <b> equal"})
    assert "Monosemanticity has no classes here: all &lt;b&gt; equal." in space_facts(found)
