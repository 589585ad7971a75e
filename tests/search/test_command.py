"""`glasshouse search`: the same hits as in Python, printed and written together with the question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl


def run(glasshouse: Any, searchable: Any, *words: str | Path) -> Any:
    return glasshouse("search", *words, "-w", searchable.root)


def test_table_json_and_files_hold_the_same_hits(searchable: Any, glasshouse: Any, tmp_path: Path) -> None:
    words = ("striped", "red", "--template", "a {}", "--template", "{} on white", "--centre", "-k", "3")
    expected = searchable.search(["striped", "red"], templates=["a {}", "{} on white"], centre=True, k=3)
    printed = json.loads(run(glasshouse, searchable, *words, "--json").stdout)
    assert [hit["feature_id"] for hit in printed["hits"]] == expected["feature_id"].to_list()
    asked = printed["question"]
    assert asked["queries"] == ["striped", "red"] and asked["templates"] == ["a {}", "{} on white"] and asked["centre"]
    assert {run["space"]: run["embedding"] for run in asked["concepts"]} == {"cls": "clip", "patches": "clip"}
    for name in ("hits.json", "hits.csv", "hits.parquet", "hits.arrow"):
        done = run(glasshouse, searchable, *words, "-o", name)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert json.loads((tmp_path / "hits.json").read_text()) == printed
    for frame in (pl.read_csv(tmp_path / "hits.csv"), pl.read_parquet(tmp_path / "hits.parquet")):
        assert frame["feature_id"].to_list() == expected["feature_id"].to_list()
        assert set(frame["templates"]) == {"a {}; {} on white"} and set(frame["embedding"]) == {"clip"}
        assert set(frame["run_id"]) <= {run["run_id"] for run in asked["concepts"]}
    table = run(glasshouse, searchable, *words)
    assert len(table.stdout.splitlines()) == 7 and "run" in table.stderr


def test_pictures_features_and_images(searchable: Any, glasshouse: Any) -> None:
    images = json.loads(run(glasshouse, searchable, "--image", "3", "--images", "-k", "4", "--json").stdout)
    expected = searchable.search(image=3, images=True, k=4)
    assert [hit["image_id"] for hit in images["hits"]] == expected["image_id"].to_list()
    assert images["question"]["embedding"] == "clip"
    feature = searchable.search("red", space="cls", k=1)["feature_id"][0]
    alike = json.loads(run(glasshouse, searchable, "--like", f"cls:{feature}", "--space", "cls", "--json").stdout)
    assert [hit["feature_id"] for hit in alike["hits"]] == searchable.similar_features("cls", feature)[
        "feature_id"
    ].to_list()


def test_wrong_requests_end_in_one_line(searchable: Any, glasshouse: Any) -> None:
    for words, said in (
        ((), "one of the three"),
        (("",), "empty"),
        (("red", "--space", "nope"), "no space 'nope'"),
        (("--like", "cls"), "SPACE:ID"),
        (("red", "--image", "3"), "one of the three"),
        (("red", "--images", "--space", "cls"), "--space"),
        (("red", "-o", "hits.docx"), "Endings that work: .csv, .json, .parquet, .arrow, .txt."),
        (("red", "-o", "nope/hits.json"), "There is no folder nope for hits.json."),
    ):
        done = run(glasshouse, searchable, *words)
        assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
