"""`extract --keep` on the command line: what is taken, what is refused, and what other commands say of such a space."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HOOK = ("--encoder", "toy:0", "--hook", "blocks.0.resid_post")


def test_a_space_with_keep_from_extraction_to_its_cards(glasshouse: Any, pictures: Path) -> None:
    glasshouse("init", "w.glasshouse")
    glasshouse("add", "pictures")
    assert "keep" not in glasshouse("status").stdout
    spaces = ("--space", "few", "--space", "all", "--keep", "12", "--keep", "all")
    done = glasshouse("extract", *HOOK, *spaces)
    assert done.stdout == "few: 30 new images\nall: 30 new images\n", done.stderr
    found = json.loads(glasshouse("sql", "SELECT name, keep FROM spaces ORDER BY name", "--format", "json").stdout)
    assert found == [{"name": "all", "keep": None}, {"name": "few", "keep": 12}]
    lines = glasshouse("status").stdout.splitlines()
    head = next(line for line in lines if line.startswith("space"))
    place = slice(head.index("keep"), head.index("keep") + 4)
    assert [line[place].strip() for line in lines if line.startswith(("all ", "few "))] == ["all", "12"]
    assert [space["keep"] for space in json.loads(glasshouse("status", "--json").stdout)["spaces"]] == [None, 12]
    shown = glasshouse("show", "image", "3").stdout
    assert "strongest features of few\n  not known: it keeps only the 12 strongest images of each feature" in shown
    assert glasshouse("show", "feature", "few:2").returncode == 0

    refused = {
        ("show", "feature", "few:2", "-k", "13"): "13 were asked for. Ask for at most 12",
        ("extract", *HOOK, "--space", "few"): "Give --keep 12",
        ("extract", *HOOK, "--space", "few", "--keep", "13"): "Give --keep 12",
        ("extract", *HOOK, "--space", "all", "--keep", "13"): "Leave --keep away",
        ("extract", *HOOK, "--space", "new", "--keep", "0"): "a number of images from 1 up, or all; not '0'",
        ("extract", *HOOK, "--space", "new", "--keep", "many"): "or all; not 'many'",
        ("extract", *HOOK, "--space", "a", "--space", "b", "--space", "c", "--keep", "1", "--keep", "2"):
            "--keep is given 2 times for 3 spaces",
    }  # fmt: skip
    for words, reason in refused.items():
        done = glasshouse(*words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, (words, done.stderr)
        assert reason in done.stderr, (words, done.stderr)
