"""`compare` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

N = 30


@pytest.fixture
def run(warehouse: Any, glasshouse: Any) -> Iterator[Any]:
    """Return the command line beside a warehouse with two spaces, of which `b` has the first features of `a`."""
    rng = np.random.default_rng(2)
    acts_nf = rng.exponential(size=(N, 8)).astype(np.float32) * (rng.random((N, 8)) < 0.6)
    others_nf = np.hstack([acts_nf[:, :3], rng.permutation(acts_nf[:, 3:])])
    warehouse.import_features("a", acts_nf, list(range(N)))
    warehouse.import_features("b", others_nf, list(range(N)))
    warehouse.import_embeddings("e", rng.normal(0.3, 1, (N, 6)).astype(np.float32), list(range(N)))
    warehouse.close()
    yield glasshouse


def test_it_says_what_both_know_and_what_only_one(run: Any) -> None:
    before = run("compare", "a", "b")
    assert before.returncode == 2
    assert before.stderr.startswith("glasshouse: There is no embedding in which 'a' and 'b' all have concept vectors")
    assert "Run `glasshouse analyze concepts --space a --space b --embedding e`." in before.stderr
    assert run("analyze", "concepts", "--embedding", "e").returncode == 0

    done = run("compare", "a", "b", "--threshold", "0.9999", "-k", "3")
    assert done.returncode == 0, done.stderr
    pairs, best, ours, theirs = done.stdout.split("\n\n")
    assert pairs.split()[:8] == [
        "space", "other", "n_features", "n_known", "share_known", "share_by_chance", "threshold", "mean_cosine",
    ]  # fmt: skip
    counts = {tuple(line.split()[:2]): line.split()[2:4] for line in pairs.splitlines()[1:]}
    assert counts == {("a", "b"): ["8", "3"], ("b", "a"): ["8", "3"]}
    assert best.startswith("Best matches of a in b:\n") and "label" not in best
    twins = {tuple(line.split()[1:]) for line in best.splitlines()[2:]}
    assert twins == {("a:0", "b:0"), ("a:1", "b:1"), ("a:2", "b:2")}
    assert ours.startswith("Known in a only: 5 of 8, the farthest from everything in b first:\n")
    assert theirs.startswith("Known in b only: 5 of 8, the farthest from everything in a first:\n")
    assert len(ours.splitlines()) == 2 + 3
    assert done.stderr == "compared in the embedding 'e'\n"

    given = json.loads(run("compare", "a", "b", "--threshold", "0.9999", "-k", "3", "--json").stdout)
    assert [(pair["space"], pair["n_known"]) for pair in given["pairs"]] == [("a", 3), ("b", 3)]
    assert {row["feature_id"] for row in given["sides"][0]["best"]} == {0, 1, 2}
    joined = run("sql", "SELECT count(*) FROM comparison WHERE is_known AND space = 'a'", "--format", "csv")
    assert joined.stdout.split() == ["count_star()", "3"]


def test_a_request_that_means_nothing_is_refused(run: Any) -> None:
    for words, said in {
        ("a", "a"): "The space 'a' is on both sides",
        ("a,", "b"): "'a,' has an empty name",
        ("a", "c"): "There is no space 'c'",
        ("a", "b", "--threshold", "2"): "comparison: --threshold",
    }.items():
        done = run("compare", *words)
        assert done.returncode == 2 and done.stderr.startswith(f"glasshouse: {said}"), words


def test_a_comparison_of_nothing_says_so(run: Any) -> None:
    assert run("analyze", "concepts", "--embedding", "e").returncode == 0
    done = run("compare", "a", "b", "--min-images", "1000")
    assert done.returncode == 2
    assert "No feature of a has a concept vector of 1000 examples or more" in done.stderr
