"""Cards of features and images: what they say, and that what others wrote stays text."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from kit.hostile import HOSTILE_FILE
from kit.pages import Page, check_only_text

from glasshouse.schema.errors import UsageError
from glasshouse.schema.plain import plain
from glasshouse.warehouse.results.records import Request, ResultTable
from glasshouse.warehouse.results.store import Outcome, commit_run
from glasshouse.warehouse.showing.plain import escape, figure, shortened
from glasshouse.warehouse.warehouse import Warehouse

ALLOWED = {
    "div", "style", "h3", "span", "p", "ul", "li", "figure", "figcaption", "img", "table", "tr", "th", "td",
}  # fmt: skip


def test_a_warehouse_without_analyses_has_cards(bare: Warehouse) -> None:
    card = bare.feature("cls", 3)
    assert (card.results, card.similar, card.label, card.is_stale) == ({}, [], None, False)
    assert card.top_images[0].image_id == bare.top_images("cls", 3, 1)["image_id"][0]
    assert "active on" in str(card) and "correlation" not in str(card)
    check_only_text(Page(card._repr_html_()), ALLOWED)
    assert bare.image("1.png").captions == ["plain words"]


def test_a_feature_shows_what_every_analysis_says(analysed: Warehouse) -> None:
    n = analysed.space("patches").n_features
    card = analysed.feature("patches", n - 1, k=4)
    text = str(card)
    assert len(card.top_images) == 4
    for words in (
        "tier 1 (elite)", f"monosemanticity {(n - 1) / n:.3f}", "(top, dinov2)", "confidence 0.5", "joy <b>  r -",
        "given brightness, saturation", "stranger: verdict <u> ", "weight 0.25", f"patches:{n - 2}  1.00",
    ):  # fmt: skip
        assert words in text, words
    strengths = [abs(row["r"]) for row in card.correlations]
    assert strengths == sorted(strengths, reverse=True) and len(strengths) == 2
    assert card.similar[0].feature_id == n - 2
    page = Page(card._repr_html_())
    assert sum(tag == "img" for tag, _ in page.tags) == 4
    assert "elite" in page.words and "given brightness, saturation" in page.words


def test_similar_features_are_those_of_the_largest_cosine(analysed: Warehouse) -> None:
    (run,) = [r for r in analysed.runs() if r.analyzer == "concepts" and r.space == "cls"]
    ids, vectors_ke = analysed.result_vectors(run)
    own = vectors_ke[5].astype(np.float64)
    cosines = {
        int(i): float(v @ own / np.sqrt((v @ v) * (own @ own)))
        for i, v in zip(ids, vectors_ke.astype(np.float64), strict=True)
        if i != 5
    }
    expected = sorted(cosines, key=lambda i: -cosines[i])[:5]
    similar = analysed.feature("cls", 5).similar
    assert [s.feature_id for s in similar] == expected
    assert [s.similarity for s in similar] == pytest.approx([cosines[i] for i in expected], abs=1e-6)


def test_hostile_texts_stay_texts_on_a_page(analysed: Warehouse) -> None:
    n = analysed.space("cls").n_features
    for card in (analysed.feature("cls", n - 1), analysed.feature("patches", n - 1), analysed.image(HOSTILE_FILE)):
        page = Page(card._repr_html_())
        check_only_text(page, ALLOWED)
        assert "<script>alert(1)</script>\"' onload=x [bold]red[/bold]" in page.words
    assert "<i>x</i>" in page.words and "onerror=alert(1)>[bold].png" in page.words


def test_a_terminal_gets_no_control_characters(analysed: Warehouse) -> None:
    n = analysed.space("cls").n_features
    for card in (analysed.feature("cls", n - 1), analysed.image(HOSTILE_FILE)):
        for text in (str(card), repr(card)):
            assert "[bold]" in text
            assert all(c == "\n" or (c.isprintable() and c != "\u202e") for c in text)


def test_json_holds_everything(analysed: Warehouse) -> None:
    n = analysed.space("cls").n_features
    shown = json.loads(json.dumps(analysed.feature("cls", n - 1, k=2).as_dict(), default=str))
    assert shown["results"]["labels"][0]["label"].startswith("<script>")
    assert [t["image_id"] for t in shown["top_images"]] == analysed.top_images("cls", n - 1, 2)["image_id"].to_list()
    assert shown["similar"][0]["feature_id"] == n - 2
    image = json.loads(json.dumps(analysed.image(HOSTILE_FILE).as_dict(), default=str))
    assert set(image["features"]) == {"cls", "patches"}
    assert image["ratings"] == [{"dimension": "joy <b>", "mean": 1.0, "n": 1, "low": 1.0, "high": 1.0}]


def test_a_stale_result_is_marked(analysed: Warehouse, tmp_path: Path) -> None:
    assert not analysed.feature("cls", 0).is_stale
    with analysed.catalogue.writing() as connection:
        run = connection.execute("SELECT max(run_id) FROM runs WHERE analyzer = 'tiers'").fetchall()[0][0]
        connection.execute("INSERT INTO run_inputs VALUES (?, 'table', 'images', 'another state')", [run])
    n = analysed.space("patches").n_features
    card = analysed.feature("patches", n - 1)
    assert card.is_stale and "what they read has changed since: tiers" in str(card)
    assert '<span class="chip">stale</span>' in card._repr_html_()


def test_missing_pictures_leave_a_gap(analysed: Warehouse, tmp_path: Path) -> None:
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    page = Page(analysed.feature("patches", 1)._repr_html_())
    assert "picture not there" in page.words
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_unknown_names(bare: Warehouse) -> None:
    with pytest.raises(UsageError, match="no space 'clz'"):
        bare.feature("clz", 0)
    with pytest.raises(UsageError, match="has no feature 24"):
        bare.feature("cls", 24)
    assert bare.feature("cls", np.int32(3)).feature_id == 3  # type: ignore[arg-type]
    for words in (("cls", "a"), ("cls:2",), ("cls", 2.5)):
        with pytest.raises(UsageError, match=r"by its space and its number, e\.g\. warehouse\.feature\('patches', 2\)"):
            bare.feature(*words)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="There is no image 6"):
        bare.image(6)


def test_a_missing_score_says_how_many_images_have_a_vector(bare: Warehouse) -> None:
    """The feature is active on all images, of which two have a vector."""
    row = {"ms": None, "n_images": 2, "variant": "top", "embedding": "few"}
    card = replace(bare.feature("cls", 0), results={"monosemanticity": [row]})
    assert "not scored; images with a vector that count: 2 (top, few)" in str(card)
    assert "active on too few" not in str(card)


def test_a_feature_that_is_never_active(bare: Warehouse) -> None:
    bare.import_features("empty", np.eye(6, 8, dtype=np.float32), images=list(range(6)))
    card = bare.feature("empty", 7)
    assert "never active on 6 images" in str(card)
    check_only_text(Page(card._repr_html_()), ALLOWED)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"), (float("nan"), "–"), (True, "yes"), (12345, "12,345"), (0.12345, "0.123"), (12345.6, "12,346"),
        (["a", "b\x1b"], "a, b"), ({"a": 1}, '{"a": 1}'), (1e-30, "1e-30"),
    ],
)  # fmt: skip
def test_figures(value: object, expected: str) -> None:
    assert figure(value) == expected


def test_plain_and_escape() -> None:
    assert plain("a\nb\tc\x00\x1b[0m\x9b\u2028d\u202e\ud800é👍") == "a b c[0m déé👍".replace("éé", "é")
    assert escape('<a href="x">\'&') == "&lt;a href=&quot;x&quot;&gt;&#x27;&amp;"
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghijk", 7) == "ab…hijk"


WIDE = pa.schema([("feature_id", pa.int32()), ("category", pa.string()), ("iou", pa.float64()), ("note", pa.string())])


def test_of_an_analysis_with_many_rows_the_strongest_are_shown(bare: Warehouse) -> None:
    rows = [{"feature_id": 0, "category": f"c{i}", "iou": i / 10, "note": None} for i in range(6)]
    table = pa.Table.from_pylist(rows, schema=WIDE)
    request = Request("wide", "1", "cls", {}, {})
    outcome = Outcome(table, [], datetime(2026, 1, 1), 0.1, None, {})
    commit_run(bare.layout, request, ResultTable("wide", WIDE, (), "iou"), outcome)
    lines = [line for line in str(bare.feature("cls", 0)).splitlines() if "wide:" in line]
    assert [line.strip() for line in lines] == [
        "wide: category c5, iou 0.5", "wide: category c4, iou 0.4", "wide: category c3, iou 0.3",
        "wide: 3 more rows, in SQL: FROM wide",
    ]  # fmt: skip
