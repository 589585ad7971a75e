"""`analyze`, `forget` and `status` as they are typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import KIT
from kit.patch_space import make_patch_space

COUNTING_PLUGIN = KIT / "counting_plugin.py"


@pytest.fixture
def run(warehouse: Any, glasshouse: Any) -> Iterator[Any]:
    """Return the command line with the counting analyzers, beside a warehouse with the space `x`."""
    warehouse.extract("toy:0", [("x", "blocks.0.resid_post", "cls", "neurons")])
    warehouse.close()

    def words(*given: str | Path) -> Any:
        return glasshouse("--plugin", COUNTING_PLUGIN, *given)

    yield words


def test_parameters_become_options(run: Any) -> None:
    listing = run("analyze", "--help").stdout
    assert "count " in listing and "counts images" in listing
    page = run("analyze", "count", "--help").stdout
    for words in ("--least N", "[default: 0]", "[plain|double]", "Can be repeated.", "--quick / --no-quick",
                  "[default: on]", "--share X", "Count the images of each feature."):  # fmt: skip
        assert words in page, words
    done = run("analyze", "count", "--least", "12", "--kind", "double", "--names", "a", "--names", "b", "--share", ".5",
               "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (report,) = json.loads(done.stdout)
    assert report["run"]["parameters"] == {
        "least": 12, "kind": "double", "names": ["a", "b"], "share": 0.5, "quick": True, "seed": 0,
    }  # fmt: skip


def test_what_is_done_and_what_is_left_out_is_said(run: Any) -> None:
    assert run("analyze", "directions").stdout.startswith("x: count: 24 rows in ")
    again = run("analyze", "directions")
    assert again.stdout == "x: directions: nothing to do, run 2 is up to date (--force computes it anew)\n"
    done = run("analyze", "--all")
    # An analyzer that fails is named and does not keep the others; what is impossible here says why.
    assert done.returncode == 1 and done.stderr == ""
    assert "x: bad: failed: The analyzer 'bad' of the plugin" in done.stdout
    assert "x: signed: 48 rows in " in done.stdout and "x: pieces: 1 row in " in done.stdout
    left_out = run("analyze", "bad", "--how", "impossible")
    assert left_out.returncode == 2
    assert left_out.stderr == "glasshouse: It needs something that is not there. Run `glasshouse add`.\n"


def test_a_space_that_does_not_fit_is_named_on_stderr(run: Any, warehouse: Any) -> None:
    make_patch_space(warehouse, "w", np.ones((30, 4, 2), dtype=np.float32), (2, 2))
    warehouse.close()
    done = run("analyze", "cooccurrence")
    assert done.returncode == 0 and done.stdout.startswith("w: cooccurrence: ") and done.stdout.count("\n") == 1
    assert done.stderr.startswith("x: cooccurrence: left out: 'cooccurrence' needs patches")
    dry = run("analyze", "cooccurrence", "--dry-run")
    assert dry.returncode == 0 and "'w'" in dry.stdout and "x: cooccurrence: left out" in dry.stderr
    assert run("analyze", "cooccurrence", "--space", "x", "--dry-run").returncode == 2


def test_wrong_words_say_what_to_type(run: Any) -> None:
    for words, message in (
        (["analyze"], "Name an analysis, or give --all."),
        (["analyze", "cuont"], "Did you mean 'count'?"),
        (["analyze", "count", "--least", "-1"], "--least: Input should be greater than or equal to 0"),
        (["analyze", "count", "--least", "x"], "'x' is not a valid integer"),
        (["analyze", "count", "--space", "y"], "There is no space 'y'."),
        (["analyze", "--force", "count"], "Options of `analyze count` come after its name."),
        (["forget", "count"], "There are none yet."),
    ):  # fmt: skip
        done = run(*words)
        assert done.returncode == 2 and message in done.stderr, (words, done.stderr)


def test_a_dry_run_does_nothing(run: Any) -> None:
    assert run("analyze", "count", "--least", "3", "--dry-run").stdout.startswith("Would run on the space 'x'")
    assert json.loads(run("status", "--json").stdout)["runs"] == []


def test_status_says_what_is_stale_and_forget_removes_it(run: Any, pictures: Path) -> None:
    from conftest import write_pictures

    run("analyze", "directions")
    write_pictures(pictures, 4, first=700)
    run("add", pictures)
    run("extract", "--encoder", "toy:0", "--space", "x", "--hook", "blocks.0.resid_post")
    shown = run("status").stdout
    assert "Stale, since what they read has changed: count, directions." in shown
    assert [line.split()[-1] == "stale" for line in shown.splitlines() if " count " in line] == [True]
    run("analyze", "directions")
    states = {run["run_id"]: run["state"] for run in json.loads(run("status", "--json").stdout)["runs"]}
    assert states == {1: "replaced", 2: "replaced", 3: "current", 4: "current"}
    assert "replaced" not in run("status").stdout and "replaced" in run("status", "--runs").stdout
    assert run("forget", "all", "--old", "--yes").stdout == "Forgot 2 runs.\n"
    assert run("forget", "count", "--run", "9", "--yes").returncode == 2
    assert run("forget", "all", "--yes").stdout == "Forgot 2 runs.\n"
    assert run("check").returncode == 0


def test_not_forgetting_says_so(run: Any, warehouse: Any, glasshouse: Any) -> None:
    run("analyze", "count")
    done = glasshouse("--plugin", COUNTING_PLUGIN, "forget", "all", input="n\n")
    assert done.returncode == 1 and "Nothing was forgotten." in done.stdout
    assert run("forget", "all", "--space", "nope", "--yes").returncode == 2
    assert len(warehouse.runs()) == 1
