"""`glasshouse show hierarchy` as it is typed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from conftest import Run, write_pictures


@pytest.fixture
def typed(tmp_path: Path, glasshouse: Run) -> Run:
    """Return the command line in a folder with a small warehouse, a patch space in it, and its hierarchy."""
    write_pictures(tmp_path / "pictures", 24)
    for words in (
        ("init", "w.glasshouse"),
        ("add", "pictures"),
        ("extract", "--encoder", "toy:0", "--space", "p", "--hook", "blocks.0.resid_post", "--tokens", "patches"),
        ("analyze", "hierarchy", "--space", "p", "--implied", "0.5", "--min-patches", "5", "--min-images", "5",
         "--published", "0.5", "--alpha", "0.999"),
    ):  # fmt: skip
        done = glasshouse(*words)
        assert done.returncode == 0, done.stderr
    return glasshouse


def test_trees_data_and_files(typed: Run, tmp_path: Path) -> None:
    done = typed("show", "hierarchy", "--rule", "published")
    assert done.returncode == 0 and done.stdout.startswith("p, rule published: ") and "D̂ 0." in done.stdout
    assert done.stdout == typed("show", "hierarchy", "--space", "p", "--rule", "published").stdout
    data = json.loads(typed("show", "hierarchy", "--rule", "published", "--json").stdout)
    assert data["space"] == "p" and len(data["edges"]) >= 1
    child = data["edges"][0]["child"]
    below = json.loads(typed("show", "hierarchy", "--rule", "published", "--root", f"p:{child}", "--json").stdout)
    assert below["features"][0]["feature_id"] == child

    done = typed("show", "hierarchy", "--rule", "published", "--graphml", "h.graphml", "--html", "h.html", "-k", "1")
    assert done.stdout == "" and done.stderr.startswith("Wrote h.graphml.\nWrote h.html (")
    assert len(ET.parse(tmp_path / "h.graphml").getroot()) > 10
    assert (tmp_path / "h.html").read_text().count("<img ") == len(data["features"])


MISTAKES = [
    (("--space", "q"), "There is no space 'q'"),
    (("--root", "p"), "'p' names no feature"),
    (("--root", "p:24"), "has no feature 24"),
    (("--root", "q:1", "--space", "p"), "--root names the space 'q', and --space 'p'. Leave --space away."),
    (("--rule", "published", "--kind", "part_of"), "tells no kinds"),
    (("--html", "pictures"), "pictures is a folder. Name a file in it, e.g. pictures/hierarchy.html."),
    (("--graphml", "missing/h.graphml"), "There is no folder missing for h.graphml."),
    (("--html", "x.txt"), "--html writes pages, and x.txt ends otherwise. Call it x.html."),
    (("--html", "h.html", "--graphml", "h.html"), "--graphml writes GraphML files, and h.html ends otherwise."),
    (("--html", "empty.html", "--kind", "part_of"), "Nothing is written."),
]


def test_mistakes_end_in_one_line(typed: Run, tmp_path: Path) -> None:
    for words, message in MISTAKES:
        done = typed("show", "hierarchy", *words)
        assert done.returncode in (1, 2), words
        assert message in done.stderr and done.stderr.count("\n") == 1, (words, done.stderr)
    assert not list(tmp_path.glob("*.html"))
    assert typed("forget", "hierarchy", "--yes").returncode == 0
    assert "No space has a hierarchy. Run `glasshouse analyze hierarchy" in typed("show", "hierarchy").stderr
