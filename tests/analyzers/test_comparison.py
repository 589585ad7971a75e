"""Matches between spaces against a loop over all pairs, their threshold against a control, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TOY_PLUGIN, write_pictures

from glasshouse.plugins.comparing import compare
from glasshouse.plugins.manager import Plugins
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.warehouse import Warehouse

Array = np.ndarray[Any, Any]
N = 30
N_MANY = 12
"""Features of `s` and `t`; the first three of `t` are those of `s`."""


def cosine(one: Array, other: Array) -> float:
    a, b = one.astype(float), other.astype(float)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def vectors_of(warehouse: Any, space: str, embedding: str = "e") -> dict[int, Array]:
    """Concept vectors of the features that are active on ten images or more."""
    (run,) = [
        run
        for run in warehouse.runs()
        if run.analyzer == "concepts" and run.space == space and run.facets["embedding"] == embedding and run.is_latest
    ]
    ids, vectors_ke = warehouse.result_vectors(run)
    counts = dict(warehouse.result_rows(run).select("feature_id", "n_images").rows())
    return {int(f): vector for f, vector in zip(ids, vectors_ke, strict=True) if counts[f] >= 10}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a warehouse with three spaces and their concept vectors; it is copied for each test."""
    folder = tmp_path_factory.mktemp("comparison")
    write_pictures(folder / "pictures", N)
    built = Warehouse.create(folder / "w.glasshouse", Plugins([TOY_PLUGIN], external=False))
    built.add([folder / "pictures"])
    fill(built)
    built.close()
    return folder / "w.glasshouse"


@pytest.fixture
def filled(made: Path, tmp_path: Path, plugins: Any) -> Iterator[Any]:
    shutil.copytree(made, tmp_path / "w.glasshouse")
    opened = Warehouse(tmp_path / "w.glasshouse", plugins)
    yield opened
    opened.close()


def fill(warehouse: Any) -> None:
    rng = np.random.default_rng(6)
    acts_nf = rng.exponential(size=(N, N_MANY)).astype(np.float32) * (rng.random((N, N_MANY)) < 0.5)
    acts_nf[:, 4] = 0
    acts_nf[:3, 4] = 1
    other_nf = rng.exponential(size=(N, N_MANY)).astype(np.float32) * (rng.random((N, N_MANY)) < 0.5)
    other_nf[:, :3] = acts_nf[:, :3]
    warehouse.import_features("s", acts_nf, list(range(N)))
    warehouse.import_features("t", other_nf, list(range(N)))
    warehouse.import_features("u", rng.permutation(acts_nf), list(range(N)))
    # As many coordinates as features, where a product with the wrong side of a matrix would go unnoticed.
    warehouse.import_embeddings("e", rng.normal(0.2, 1, (N, N_MANY)).astype(np.float32), list(range(N)))
    warehouse.analyze("concepts", embedding="e")


@pytest.mark.parametrize("centred", [False, True])
def test_matches_are_those_of_all_pairs(filled: Any, centred: bool) -> None:
    (report,) = filled.analyze("comparison", "s", other="t", k=3, centre=centred, threshold=0.9)
    own, others = vectors_of(filled, "s"), vectors_of(filled, "t")
    assert 4 not in own and len(own) >= 8 and len(others) >= 8
    centre = filled.embeddings("e").vectors_ne.astype(float).mean(axis=0) if centred else np.zeros(N_MANY)
    rows = filled.sql("SELECT feature_id, other, rank, other_feature_id, cosine, is_known FROM comparison").to_dicts()
    assert len(rows) == 3 * len(own)
    for row in rows:
        cosines = sorted(((cosine(own[row["feature_id"]] - centre, v - centre), f) for f, v in others.items()))[::-1]
        expected, other = cosines[row["rank"]]
        assert row["cosine"] == pytest.approx(expected, abs=1e-6) and row["other_feature_id"] == other
        assert row["is_known"] == (row["cosine"] >= 0.9) and row["other"] == "t"
    best = {row["feature_id"]: row for row in rows if row["rank"] == 0}
    assert all(best[f]["other_feature_id"] == f and best[f]["cosine"] == pytest.approx(1) for f in set(own) & {0, 1, 2})
    notes = report.run.notes
    assert notes["n_known"] == sum(row["is_known"] for row in best.values()) and notes["n_features"] == len(own)
    assert notes["share_known"] == notes["n_known"] / len(own)
    assert notes["mean_cosine"] == pytest.approx(np.mean([row["cosine"] for row in best.values()]))


def test_the_threshold_is_what_one_in_twenty_random_sets_reaches(filled: Any) -> None:
    (report,) = filled.analyze("comparison", "s", other="t")
    notes = report.run.notes
    others = list(vectors_of(filled, "t").values())
    (run,) = [run for run in filled.runs() if run.analyzer == "concepts" and run.space == "s"]
    sizes = [n for n in filled.result_rows(run)["n_images"] if n >= 10]
    images = filled.embeddings("e").vectors_ne.astype(float)
    rng = np.random.default_rng(99)
    best = [
        max(cosine(images[rng.choice(N, rng.choice(sizes), replace=False)].mean(axis=0), v) for v in others)
        for _ in range(1500)
    ]
    assert np.mean(np.array(best) >= notes["threshold"]) == pytest.approx(0.05, abs=0.02)
    assert notes["share_by_chance"] == pytest.approx(0.05, abs=0.001)
    (again,) = filled.analyze("comparison", "s", other="t", seed=1)
    assert again.run.notes["threshold"] == pytest.approx(notes["threshold"], abs=0.01)
    assert again.run.notes["threshold"] != notes["threshold"]


def test_shuffled_images_are_known_as_seldom_as_chance(filled: Any) -> None:
    """The twins are found; of features whose images were dealt out anew hardly any."""
    twins, control = (filled.analyze("comparison", space, other="s")[0].run.notes for space in ("t", "u"))
    assert twins["n_known"] >= 3 and control["n_known"] <= 1


def test_spaces_stand_side_by_side_and_new_vectors_make_stale(filled: Any) -> None:
    for other in ("t", "u"):
        filled.analyze("comparison", "s", other=other)
    (again,) = filled.analyze("comparison", "s", other="u")
    assert not again.is_new
    assert sorted(filled.sql("SELECT DISTINCT other FROM comparison").to_series()) == ["t", "u"]
    filled.analyze("concepts", "t", embedding="e", n=12)
    stale = {run.facets["other"]: run.is_stale for run in filled.runs() if run.analyzer == "comparison"}
    assert stale == {"t": True, "u": False}


def test_what_cannot_be_compared_says_what_to_run(filled: Any) -> None:
    with pytest.raises(UsageError, match="--other SPACE"):
        filled.analyze("comparison", "s")
    with pytest.raises(UsageError, match="redundancy --space s"):
        filled.analyze("comparison", "s", other="s")
    with pytest.raises(UsageError, match="no space 'nowhere'"):
        filled.analyze("comparison", "s", other="nowhere")
    rng = np.random.default_rng(0)
    filled.import_features("v", rng.random((N, 3)).astype(np.float32), list(range(N)))
    filled.import_embeddings("other", rng.normal(size=(N, 3)).astype(np.float32), list(range(N)))
    filled.analyze("concepts", "v", embedding="other")
    with pytest.raises(
        UsageError, match=r"'s' in e; 'v' in other\. Run `glasshouse analyze concepts --space v --embedding e`"
    ):
        filled.analyze("comparison", "s", other="v")
    with pytest.raises(UsageError, match=r"Run `glasshouse analyze concepts --space s --embedding other`"):
        filled.analyze("comparison", "s", other="v", embedding="other")
    with pytest.raises(UsageError, match=r"of this kind: .*--space s --space t --embedding e --crop`"):
        filled.analyze("comparison", "s", other="t", crop=True)
    with pytest.raises(UsageError, match="no embedding 'none'"):
        filled.analyze("comparison", "s", other="t", embedding="none")
    filled.drop("embedding", "e")
    filled.import_embeddings("e", rng.normal(size=(N, N_MANY)).astype(np.float32), list(range(N)))
    with pytest.raises(UsageError, match="of 't' in 'e' are stale"):
        filled.analyze("comparison", "s", other="t")


def test_cut_outs_are_compared_with_chance_among_cut_outs(warehouse: Any) -> None:
    spaces = [(f"block{i}", f"blocks.{i}.resid_post", "patches", "neurons") for i in (0, 1)]
    warehouse.extract("toy:0", spaces, "toy")
    warehouse.analyze("concepts", embedding="toy", crop=True, n=3)
    (report,) = warehouse.analyze("comparison", "block0", other="block1", crop=True, min_images=3)
    (whole,) = [r for r in warehouse.analyze("redundancy", "block0", embedding="toy") if r.analyzer == "redundancy"]
    (cut,) = warehouse.analyze("redundancy", "block0", embedding="toy", crop=True)
    assert report.run.notes["share_by_chance"] == pytest.approx(0.05, abs=0.01)
    assert whole.run.notes["mean_redundancy"] != cut.run.notes["mean_redundancy"]
    runs = [run for run in warehouse.runs() if run.analyzer == "concepts" and run.space.startswith("block")]
    vectors = {(run.space, run.facets["crop"]): warehouse.result_vectors(run).vectors_ke for run in runs}
    best = [max(cosine(one, other) for other in vectors["block1", True]) for one in vectors["block0", True]]
    assert warehouse.result_rows(report.run)["cosine"].to_list() == pytest.approx(best, abs=1e-6)


# -- both ways, and over several spaces -------------------------------------------------------------------------


def test_both_ways_over_several_spaces_the_best_match_counts(filled: Any, plugins: Any) -> None:
    found = compare(plugins.runner(filled), ["s"], ["t", "u"], {"threshold": 0.8}, k=4)
    assert [(pair["space"], pair["other"]) for pair in found.pairs] == [("s", "t"), ("s", "u"), ("t", "s"), ("u", "s")]
    vectors = {space: vectors_of(filled, space) for space in "stu"}
    ours, theirs = found.sides
    best = {
        feature: max((cosine(vector, v), space, f) for space in "tu" for f, v in vectors[space].items())
        for feature, vector in vectors["s"].items()
    }
    assert ours.n_features == len(best) and theirs.n_features == len(vectors["t"]) + len(vectors["u"])
    assert ours.n_known == sum(c >= 0.8 for c, *_ in best.values())
    first = sorted(best, key=lambda feature: -best[feature][0])[:4]
    found_first = [row["feature_id"] for row in ours.best]
    assert sorted(found_first) == sorted(first) == [0, 1, 2, first[3]] and found_first[3] == first[3]
    assert [(row["other"], row["other_feature_id"]) for row in ours.best] == [best[f][1:] for f in found_first]
    least = [f for f in sorted(best, key=lambda feature: best[feature][0]) if best[f][0] < 0.8][:4]
    assert [row["feature_id"] for row in ours.lacking] == least and all(not row["is_known"] for row in ours.lacking)
    assert json.loads(json.dumps(found.as_dict()))["sides"][0]["n_known"] == ours.n_known
    n_runs = len(filled.runs())
    assert compare(plugins.runner(filled), ["s"], ["t", "u"], {"threshold": 0.8}, k=4) == found
    assert len(filled.runs()) == n_runs


def test_stale_vectors_are_renewed_before_they_are_compared(filled: Any, plugins: Any) -> None:
    filled.drop("embedding", "e")
    vectors_ne = np.random.default_rng(8).normal(size=(N, 5)).astype(np.float32)
    filled.import_embeddings("e", vectors_ne, list(range(N)))
    compare(plugins.runner(filled), ["s"], ["t"])
    newest = {run.space: run for run in filled.runs() if run.analyzer == "concepts" and run.is_latest}
    assert {space: run.is_stale for space, run in newest.items()} == {"s": False, "t": False, "u": True}
    assert not any(run.is_stale for run in filled.runs() if run.analyzer == "comparison")


def test_a_space_on_both_sides_is_refused(filled: Any, plugins: Any) -> None:
    with pytest.raises(UsageError, match="'t' is on both sides"):
        compare(plugins.runner(filled), ["s", "t"], ["t"])
