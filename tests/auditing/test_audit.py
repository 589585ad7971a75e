"""Audits: alignment against a direct computation, the rule of flags, what is refused, the table and the page."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from glasshouse.plugins.auditing.gather import audit_rows, leaning_images, newest_audit
from glasshouse.plugins.auditing.page import audit_html
from glasshouse.plugins.auditing.scatter import Dot, scatter
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.search.texts import embed_texts


def audited(warehouse: Any, space: str, **parameters: Any) -> tuple[pl.DataFrame, Any]:
    *_, report = warehouse.plugins.analyze(warehouse, "audit", [space], {"class_name": "heart", **parameters})
    return warehouse.result_rows(report.run).sort("feature_id"), report.run


@pytest.fixture
def asked(classes: Any, concept_files: tuple[Path, Path]) -> dict[str, Any]:
    valid, spurious = concept_files
    return {"valid": valid, "spurious": spurious}


@pytest.mark.parametrize("templates", [("{}",), ("a {}", "a picture of a {} shape"), ()])
def test_alignment_is_that_of_a_loop_over_words_and_templates(
    classes: Any, concept_files: tuple[Path, Path], templates: tuple[str, ...]
) -> None:
    valid, spurious = concept_files
    classes.analyze("concepts", "last")
    rows, run = audited(classes, "last", valid=valid, spurious=spurious, template=templates, crop=False)
    concepts = [r for r in classes.runs() if (r.analyzer, r.space) == ("concepts", "last") and not r.facets["crop"]][-1]
    ids, vectors_ke = classes.result_vectors(concepts)
    of_feature = dict(zip(ids.tolist(), vectors_ke.astype(float), strict=True))

    def probe(word: str) -> Any:
        if not templates:
            return embed_texts(classes, "clip", [word])[0].astype(float)
        parts = []
        for template in templates:
            full, empty = embed_texts(classes, "clip", [template.replace("{}", word), template.replace("{}", "")])
            parts.append(full.astype(float) - empty.astype(float))
        return np.mean(parts, axis=0)

    def cosine(a: Any, b: Any) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    probes = {word: probe(word) for file in (valid, spurious) for word in file.read_text(encoding="utf-8").split()}
    for row in rows.gather_every(9).iter_rows(named=True):
        for side, file in (("valid", valid), ("spurious", spurious)):
            words = file.read_text(encoding="utf-8").split()
            cosines = {word: cosine(of_feature[row["feature_id"]], probes[word]) for word in words}
            assert row[side] == pytest.approx(max(cosines.values()), abs=1e-6)
            assert cosines[row[f"{side}_concept"]] == pytest.approx(max(cosines.values()), abs=1e-6)
    assert run.parameters["embedding"] == "clip"


def test_what_counts_and_is_spurious_is_flagged_and_nothing_else(classes: Any, asked: dict[str, Any]) -> None:
    rows, run = audited(classes, "last", **asked, min_share=0.01, margin=0.02)
    relevance = classes.sql("FROM relevance WHERE space = 'last' AND class_name = 'heart'")
    share = dict(zip(relevance["feature_id"], relevance["share"], strict=True))
    for row in rows.iter_rows(named=True):
        assert row["share"] == share.get(row["feature_id"], 0.0)
        assert row["is_flagged"] == (row["spurious"] > row["valid"] + 0.02 and row["share"] >= 0.01)
    flagged = rows.filter("is_flagged")
    assert run.notes["n_flagged"] == flagged.height
    assert run.notes["share_flagged"] == pytest.approx(flagged["share"].sum())
    everything, _ = audited(classes, "last", **asked, min_share=0, margin=0)
    expected = everything.filter((pl.col("spurious") > pl.col("valid")) & (pl.col("share") > 0))
    assert everything.filter("is_flagged")["feature_id"].to_list() == expected["feature_id"].to_list()


def test_other_concept_vectors_are_another_audit(classes: Any, asked: dict[str, Any]) -> None:
    """Once there are newer vectors, the same question is asked of them; asked again, it is answered already."""
    classes.analyze("concepts", "last")
    _, first = audited(classes, "last", **asked)
    _, again = audited(classes, "last", **asked)
    assert first.run_id == again.run_id
    classes.plugins.analyze(classes, "concepts", ["last"], {"crop": True, "n": 4})
    _, other = audited(classes, "last", **asked)
    assert other.run_id != first.run_id
    assert (first.parameters["crop"], other.parameters["crop"]) == (False, True)


def test_examples_by_relevance_for_another_class_do_not_count(classes: Any, asked: dict[str, Any]) -> None:
    classes.plugins.analyze(classes, "concepts", ["last"], {"n": 5})
    _, plain = audited(classes, "last", **asked, crop=False)
    for class_name in ("ring", "heart"):
        given = {"by": "relevance", "class_name": class_name, "n": 5}
        classes.plugins.analyze(classes, "concepts", ["last"], given)
        _, newest = audited(classes, "last", **asked, crop=False)
        assert (newest.run_id == plain.run_id) == (class_name == "ring")
    assert newest.parameters["by"] == "relevance"
    again, _ = audited(classes, "last", **asked, crop=False, by="activation")
    assert again.equals(classes.result_rows(plain).sort("feature_id"))
    with pytest.raises(UsageError, match="--embedding clip --by relevance --crop"):
        audited(classes, "last", **asked, crop=True, by="relevance", embedding="clip")
    classes.forget([run for run in classes.runs() if run.facets.get("by") == "relevance"])


def test_what_is_stale_is_computed_anew_first(concept_files: tuple[Path, Path], tmp_path: Path) -> None:
    """New images make concept vectors and relevance stale: an audit renews both, as they were; pruning waits for it."""
    import shutil

    from glasshouse.plugins.manager import Plugins
    from glasshouse.plugins.starter.world.write import write_world
    from glasshouse.warehouse.warehouse import Warehouse

    write_world(tmp_path / "world", 96, 5, confounded=True, cue="balanced")
    images, labels = tmp_path / "world" / "images", tmp_path / "world" / "labels.csv"
    (tmp_path / "later").mkdir()
    for file in sorted(images.iterdir())[80:]:
        shutil.move(file, tmp_path / "later" / file.name)
    small = Warehouse.create(tmp_path / "s.glasshouse", Plugins(external=False))
    small.add([images], labels=[labels])
    space = [("last", "layer4", "max", "neurons")]
    small.extract("starter:classifier", space)
    small.extract("starter:clip", embedding="clip")
    small.analyze("concepts", "last", n=7)
    small.analyze("relevance", "last", n=3)
    given = {"valid": concept_files[0], "spurious": concept_files[1]}
    _, before = audited(small, "last", **given)
    small.add([tmp_path / "later"])
    small.extract("starter:classifier", space)
    small.extract("starter:clip", embedding="clip")
    with pytest.raises(UsageError, match="is stale"):
        from glasshouse.cli.prune import _flagged

        _flagged(small, "last", "heart")
    _, after = audited(small, "last", **given)
    assert after.run_id != before.run_id and not after.is_stale
    newest = {run.analyzer: run for run in small.runs() if run.is_latest}
    assert newest["concepts"].parameters["n"] == 7 and newest["relevance"].parameters["n"] == 3
    assert not any(run.is_stale for run in newest.values())
    small.close()


def test_images_that_lean_are_those_with_the_largest_sums(classes: Any, asked: dict[str, Any]) -> None:
    rows, run = audited(classes, "last", **asked, min_share=0)
    flagged = set(rows.filter("is_flagged")["feature_id"])
    relevance = classes.sql("FROM relevance WHERE space = 'last' AND class_name = 'heart'")
    sums: dict[int, float] = {}
    for row in relevance.iter_rows(named=True):
        if row["feature_id"] in flagged:
            for image, value in zip(row["image_ids"], row["image_relevance"], strict=True):
                sums[image] = sums.get(image, 0.0) + value
    found = leaning_images(classes, run, 5)
    assert [image.relevance for image in found] == pytest.approx(sorted(sums.values(), reverse=True)[:5], rel=1e-5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"class_name": ""}, "Say which class"),
        ({"class_name": "cat"}, r"class 'cat' is not known.*has circle, crescent"),
        ({"valid": None}, "Give the valid concepts"),
        ({"spurious": Path("nowhere.txt")}, r"no file nowhere.txt.*Lists that ship with glasshouse: melanoma-spurious"),
        ({"method": "crp"}, "analyze relevance --space last --method crp"),
        ({"embedding": "dinov2"}, "cannot be compared with the embedding 'dinov2'"),
    ],
)
def test_what_cannot_be_audited_says_why(
    classes: Any, asked: dict[str, Any], given: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        audited(classes, "last", **{**asked, **given})


def test_a_concept_on_both_sides_is_a_mistake(classes: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    both = tmp_path / "both.txt"
    both.write_text("watermark\nheart\n", encoding="utf-8")
    with pytest.raises(UsageError, match="'heart' is among the valid and among the spurious"):
        audited(classes, "last", **{**asked, "spurious": both})


def test_shipped_lists_are_taken_by_name(classes: Any) -> None:
    rows, run = audited(classes, "last", valid="melanoma-valid", spurious="melanoma-spurious")
    assert run.parameters["valid"] == "melanoma-valid"
    assert "ruler" in rows["spurious_concept"].to_list() or rows["spurious_concept"].n_unique() > 1


class Outline(HTMLParser):
    """Counts elements and collects what could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.links += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_page_holds_everything_and_loads_nothing(classes: Any, asked: dict[str, Any]) -> None:
    rows, run = audited(classes, "last", **asked)
    text = audit_html(classes, run, 3)
    outline = Outline(text)
    assert outline.count["circle"] == rows.height
    assert outline.count["tr"] >= rows.height
    assert all(link.startswith("data:image/") for link in outline.links)
    assert "script" not in outline.count
    flagged = audit_rows(classes, run).filter("is_flagged")
    assert outline.count["article"] == min(3, flagged.height) + min(3, rows.height - flagged.height)


def test_labels_are_text_on_the_page_and_in_the_scatter() -> None:
    svg = scatter([Dot("<script>x</script>", 0.1, 0.4, 0.2, True), Dot("b", 0.3, 0.1, 0.1, False)])
    outline = Outline(svg)
    assert "script" not in outline.count and outline.count["circle"] == 2
    assert scatter([]) == ""


def test_dots_lie_where_their_cosines_are() -> None:
    """Above the dashed line what is more alike something spurious; areas as shares."""
    dots = [Dot("a", 0.0, 0.5, 0.4, True), Dot("b", 0.5, 0.0, 0.1, False), Dot("c", 0.25, 0.25, 0.0, False)]
    circles: dict[str, dict[str, float]] = {}

    class Circles(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag == "circle":
                values = dict(attrs)
                self.last = {key: float(values[key]) for key in ("cx", "cy", "r")}

        def handle_data(self, data: str) -> None:
            if hasattr(self, "last") and ": valid" in data:
                circles[data[0]] = self.last

    Circles().feed(scatter(dots))
    assert circles["a"]["cx"] < circles["c"]["cx"] < circles["b"]["cx"]
    assert circles["a"]["cy"] < circles["c"]["cy"] < circles["b"]["cy"], "upwards on the screen is a smaller y"
    assert (circles["b"]["r"] / circles["a"]["r"]) ** 2 == pytest.approx(0.25, rel=0.02)


def test_an_audit_that_was_never_made_says_how(classes: Any) -> None:
    with pytest.raises(UsageError, match=r"no audit of 'ring'.*--class ring"):
        newest_audit(classes, "last", "ring")
