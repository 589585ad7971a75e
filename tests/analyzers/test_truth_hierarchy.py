"""Hierarchies on a rendered world: told edges are right, controls have few, and what is not reached has its reason.

The limits of the rule were chosen on another world and on several dictionaries; the truth of what a feature stands for
comes from masks alone.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.truth.hierarchy import REPORTED_ON, TOLD, HierarchyTruth, edges_of, masked_world, relations

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")]

N = 1500


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Any:
    warehouse = masked_world(tmp_path_factory.mktemp("hierarchy"), N, REPORTED_ON)
    yield warehouse
    warehouse.close()


@pytest.fixture(scope="module")
def truth(rendered: Any) -> HierarchyTruth:
    return HierarchyTruth(rendered, "patches")


def test_told_edges_are_right_and_find_what_detectors_make(rendered: Any, truth: HierarchyTruth) -> None:
    published = truth.judged(edges_of(rendered, "patches", "published"))
    told = truth.judged(edges_of(rendered, "patches", "tested", TOLD))
    print(published, told, sep="\n")
    assert told.n_true >= 15
    assert told.precision >= 0.78 and told.precision_told >= 0.85
    assert told.recall >= 0.6
    assert published.precision < told.precision - 0.1
    assert told.right_kind >= 0.85


def test_what_is_implied_and_not_told_is_hardly_ever_wrong(rendered: Any, truth: HierarchyTruth) -> None:
    """Most of them are right, or fragments of their parent that the world has no word for."""
    implied = truth.judged(edges_of(rendered, "patches", "tested", ["implied"]))
    print(implied)
    assert implied.precision_told >= 0.9
    assert implied.counts["wrong"] + implied.counts["reversed"] <= 5


def test_controls_have_little_to_tell(rendered: Any, truth: HierarchyTruth) -> None:
    """Colours survive in an encoder that was never trained, so some of its edges are right; no word's relation is."""
    assert edges_of(rendered, "shuffled", "tested") == []
    edges = edges_of(rendered, "patches", "tested", TOLD)
    told = truth.judged(edges)
    assert truth.judged_by_chance(edges) <= 0.2 < told.precision
    untrained = HierarchyTruth(rendered, "untrained")
    found = untrained.judged(edges_of(rendered, "untrained", "tested", TOLD))
    print(found, truth.judged_by_chance(edges))
    assert found.counts["right"] <= told.counts["right"] * 0.6 and found.precision < told.precision - 0.1
    assert found.n_true == 0 and "found" not in untrained.reached(edges_of(rendered, "untrained", "tested")).values()


def test_every_relation_is_found_or_has_its_reason(rendered: Any, truth: HierarchyTruth) -> None:
    reached = truth.reached(edges_of(rendered, "patches", "tested"))
    print(reached)
    assert set(reached) == set(relations())
    assert reached["thin", "striped"] == reached["thick", "striped"] == "found"
    parts = [state for (_, whole), state in reached.items() if whole in ("house", "face")]
    assert parts.count("found") >= 3 and "missed" not in parts
    general = [state for (_, word), state in reached.items() if word in ("polygon", "round", "warm", "cool")]
    assert all(state == "found" or state.startswith("no feature for") for state in general)
