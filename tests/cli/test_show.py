"""`glasshouse show` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Run, write_pictures
from PIL import Image


@pytest.fixture
def shown(tmp_path: Path, glasshouse: Run) -> Run:
    """Return the command line in a folder with a small warehouse, a patch space in it."""
    write_pictures(tmp_path / "pictures", 6)
    (tmp_path / "captions.csv").write_text("image,caption\n00002.png,[bold]x[/bold] <b> \x1b[31mred\n")
    for words in (
        ("init", "w.glasshouse"),
        ("add", "pictures", "--captions", "captions.csv"),
        ("extract", "--encoder", "toy:0", "--space", "p", "--hook", "blocks.0.resid_post", "--tokens", "patches"),
    ):
        assert glasshouse(*words).returncode == 0
    return glasshouse


def test_features_and_images(shown: Run, tmp_path: Path) -> None:
    done = shown("show", "feature", "p:3", "-k", "4", "--png", "sheet.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("p:3\n  active on ") and done.stdout.count("\n  ") == 5
    assert "Wrote sheet.png." in done.stderr
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > 700

    data: Any = json.loads(shown("show", "feature", "p:3", "-k", "2", "--json").stdout)
    assert data["feature_id"] == 3 and len(data["top_images"]) == 2

    done = shown("show", "image", "00002.png", "-k", "2", "--png", "image.png")
    assert "[bold]x[/bold] <b> [31mred" in done.stdout and "\x1b" not in done.stdout
    assert done.stdout.count("p:") == 2
    with Image.open(tmp_path / "image.png") as sheet:
        assert sheet.height > 300
    by_id = shown("show", "image", "2", "-k", "2")
    assert by_id.stdout == done.stdout


def test_pictures_that_are_gone_are_counted(shown: Run, tmp_path: Path) -> None:
    assert "missing" not in shown("show", "feature", "p:3", "-k", "6", "--png", "sheet.png").stderr
    for name in ("00001.png", "00002.png"):
        (tmp_path / "pictures" / name).unlink()
    done = shown("show", "feature", "p:3", "-k", "6", "--png", "sheet.png")
    assert done.stderr == "Wrote sheet.png.\n2 of 6 pictures could not be opened and are missing.\n"
    done = shown("show", "image", "2", "--png", "sheet.png")
    assert done.returncode == 0 and "could not be opened and" in done.stderr


MISTAKES = [
    (("feature", "p"), "'p' names no feature. Write it as SPACE:ID"),
    (("feature", "p:-1"), "names no feature"),
    (("feature", "p:24"), "has no feature 24"),
    (("feature", "q:1"), "There is no space 'q'"),
    (("image", "nowhere.png"), "No image fits 'nowhere.png'"),
    (("image", "99"), "There is no image 99"),
    (("feature", "p:1", "--png", "sheet.jpg"), "Call it sheet.png."),
    (("feature", "p:1", "--png", "missing/sheet.png"), "There is no folder missing for sheet.png."),
    (("image", "1", "--png", "pictures"), "pictures is a folder. Name a file in it, e.g. pictures/sheet.png."),
]


def test_mistakes_end_in_one_line(shown: Run) -> None:
    for words, message in MISTAKES:
        done = shown("show", *words)
        assert done.returncode in (1, 2), words
        assert message in done.stderr and done.stderr.count("\n") == 1, words


def test_no_table_sends_commands_to_the_terminal(shown: Run) -> None:
    done = shown(
        "sql", "SELECT caption, [caption || chr(155)] AS listed, chr(8238) || 'x' AS \"\u202ename\" FROM captions"
    )
    assert "[bold]x[/bold] <b> [31mred" in done.stdout
    assert not set(done.stdout) & {"\x1b", "\x9b", "\u202e"}
