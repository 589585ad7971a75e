"""The hierarchy: every figure against loops over patches, planted parts and kinds, and what must not become an edge."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import write_pictures
from kit.patch_space import make_patch_space
from kit.planted import CHILDREN, GRID, N_IMAGES, planted
from scipy import stats

from glasshouse.plugins.analyzers import hierarchy_controls, hierarchy_maps
from glasshouse.plugins.analyzers.hierarchy import HierarchyParameters, told_apart
from glasshouse.plugins.analyzers.hierarchy_controls import Controls, dealt_anew
from glasshouse.plugins.analyzers.hierarchy_graph import Edge, arranged
from glasshouse.plugins.testing.conformance import check_analyzer
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.warehouse import Warehouse

Array = np.ndarray[Any, Any]
SMALL = {"min_patches": 2, "min_images": 2}


def rows_of(warehouse: Any, rule: str = "tested", **parameters: Any) -> pl.DataFrame:
    return warehouse.result_rows(warehouse.analyze("hierarchy", "p", **parameters)[-1].run).filter(rule=rule)


# -- against loops --------------------------------------------------------------------------------------------------


def random_values() -> Array:
    """Activations [30, 12, 8]: several at once on neighbouring patches, so that many pairs imply each other."""
    rng = np.random.default_rng(3)
    values_ntf = np.zeros((30, 12, 8))
    for image in range(30):
        row, column = rng.integers(0, 2), rng.integers(0, 3)
        block = [4 * (row + r) + column + c for r in (0, 1) for c in (0, 1)]
        values_ntf[image, block, 0] = rng.exponential(size=4)
        values_ntf[image, block[: rng.integers(1, 5)], 1] = rng.exponential() + 0.5
        values_ntf[image, block[:1], 2] = rng.exponential() * (rng.random() < 0.6)
        values_ntf[image, rng.integers(0, 12, 3), 3] = rng.exponential(size=3)
    values_ntf[:, :, 4] = 1.0
    values_ntf[:, :, 5] = values_ntf[:, :, 0] * (np.arange(30) % 2)[:, None]
    values_ntf[:, :, 6] = np.where(values_ntf[:, :, 0] > 0, 0.3, 0) + 0.002
    values_ntf[4, 3, 7] = 5
    return values_ntf.astype(np.float32)


def levels(values_tf: Array) -> tuple[dict[int, set[Any]], dict[int, set[Any]]]:
    """Where each feature is strong, and where it reaches: sets of (image, token)."""
    strong, reached = {}, {}
    for feature in range(values_tf.shape[2]):
        column = values_tf[:, :, feature].astype(float)
        ordered = sorted(column[column > 0].tolist())
        position = 0.98 * (len(ordered) - 1)
        low = int(position)
        high = min(low + 1, len(ordered) - 1)
        full = ordered[low] + (position - low) * (ordered[high] - ordered[low])
        places = [(i, t) for i in range(column.shape[0]) for t in range(column.shape[1])]
        strong[feature] = {place for place in places if column[place] > 0 and column[place] >= 0.5 * full}
        reached[feature] = {place for place in places if column[place] > 0 and column[place] >= 0.2 * full}
    return strong, reached


def regions(places: set[Any], columns: int) -> list[set[Any]]:
    """Connected patches of an image, diagonals too."""
    left, found = set(places), []
    while left:
        region, queue = set(), deque([left.pop()])
        while queue:
            image, token = queue.popleft()
            region.add((image, token))
            row, column = divmod(token, columns)
            for other in [place for place in left if place[0] == image]:
                if max(abs(other[1] // columns - row), abs(other[1] % columns - column)) <= 1:
                    left.remove(other)
                    queue.append(other)
        found.append(region)
    return found


def naive_evidence(values_ntf: Array, child: int, parent: int, columns: int) -> dict[str, float]:
    strong, reached = levels(values_ntf)
    images = {image for image, _ in strong[child]}
    parent_images = {image for image, _ in reached[parent]}
    touched = [region for region in regions(reached[parent], columns) if region & strong[child]]
    n_patches = values_ntf.shape[0] * values_ntf.shape[1]
    implied = len(strong[child] & reached[parent]) / len(strong[child])
    return {
        "n_patches": len(strong[child]),
        "n_images": len(images),
        "n_parent_images": len(parent_images),
        "implied": implied,
        "both_strong": len(strong[child] & strong[parent]) / len(strong[child]),
        "implies_back": len(strong[parent] & reached[child]) / len(strong[parent]),
        "fills": sum(len(r & reached[child]) for r in touched) / sum(map(len, touched)) if touched else 0,
        "recurs": len({image for image, _ in reached[child]} & parent_images) / len(parent_images),
        "lift": implied / (len(reached[parent]) / n_patches),
        "picture_lift": (len(images & parent_images) / len(images)) / (len(parent_images) / values_ntf.shape[0]),
    }


def test_every_figure_equals_the_loops(warehouse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values_ntf = random_values()
    make_patch_space(warehouse, "p", values_ntf, (3, 4))
    warehouse.analyze("cooccurrence", "p", min_support=1)
    for max_rows in (1, 10**6):
        monkeypatch.setattr(hierarchy_maps, "MAX_ROWS", max_rows)
        rows = rows_of(warehouse, implied=0.01, alpha=0.999, force=True, **SMALL)
        assert rows.height >= 10
        for row in rows.to_dicts():
            expected = naive_evidence(values_ntf, row["feature_id"], row["parent_feature_id"], 4)
            assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-9), row


def test_images_that_the_space_does_not_cover_do_not_count(warehouse: Any) -> None:
    values_ntf = random_values()[:20]
    make_patch_space(warehouse, "p", values_ntf, (3, 4), list(range(5, 25)))
    warehouse.analyze("cooccurrence", "p", min_support=1)
    rows = rows_of(warehouse, implied=0.01, alpha=0.999, **SMALL)
    assert rows.height >= 8
    for row in rows.to_dicts():
        expected = naive_evidence(values_ntf, row["feature_id"], row["parent_feature_id"], 4)
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=1e-9), row


def test_the_published_rule_is_the_threshold_and_nothing_else(warehouse: Any) -> None:
    make_patch_space(warehouse, "p", random_values(), (3, 4))
    pairs = warehouse.result_rows(warehouse.analyze("cooccurrence", "p", min_support=1)[-1].run)
    for above in (0.75, 0.8, 0.3):
        expected = {
            (row["feature_id"], row["other_feature_id"]): row["d_hat"]
            for row in pairs.to_dicts()
            if row["d_hat"] > above
        }
        rows = rows_of(warehouse, "published", published=above, **SMALL)
        found = {(row["feature_id"], row["parent_feature_id"]): row["d_hat"] for row in rows.to_dicts()}
        assert found == expected and len(found) >= 6
        assert rows["kind"].null_count() == rows["implied"].null_count() == rows.height


def test_a_radius_is_not_mistaken_for_the_same_patch(warehouse: Any) -> None:
    make_patch_space(warehouse, "p", random_values(), (3, 4))
    warehouse.analyze("cooccurrence", "p", min_support=1)
    expected = rows_of(warehouse, "published", **SMALL).drop("run_id", strict=False)
    warehouse.analyze("cooccurrence", "p", min_support=1, radius=2)
    again = rows_of(warehouse, "published", force=True, **SMALL).drop("run_id", strict=False)
    assert again.equals(expected)


# -- controls -------------------------------------------------------------------------------------------------------


def test_moved_maps_follow_the_definition() -> None:
    """With all permutations of three pictures and all draws, the mean share is what probability says."""
    inside_p = np.zeros(12, dtype=bool)
    inside_p[[0, 1, 4, 9]] = True  # 3 images of 4 patches: {0, 1}, {0}, {1}
    strong = np.array([0, 4, 9])
    controls = Controls(3, 4, 20_000, 0)
    anywhere, among = controls.moved((1, 2), strong, inside_p, np.array([0, 1, 2]))
    # Patch 0 is inside on two of three pictures, patch 1 on two: each of the three maps hits with 2/3.
    assert anywhere.expected == pytest.approx(2 / 3, abs=0.01)
    assert anywhere.p == pytest.approx((2 / 3) ** 3, abs=0.015)
    # Permutations: as it is all three hit; the hits of the six are 3, 3, 2, 2, 1, 1.
    assert among.expected == pytest.approx(2 / 3, abs=0.01)
    assert among.p == pytest.approx(2 / 6, abs=0.015)


def test_moving_in_blocks_and_among_few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    inside_p = rng.random(4000) < 0.3
    strong = np.sort(rng.choice(4000, 600, replace=False))
    shared = np.unique(strong // 10)
    whole = Controls(400, 10, 99, 5).moved((3, 4), strong, inside_p, shared)
    monkeypatch.setattr(hierarchy_controls, "MAX_MOVED", 7)
    assert Controls(400, 10, 99, 5).moved((3, 4), strong, inside_p, shared) == whole
    assert Controls(400, 10, 99, 6).moved((3, 4), strong, inside_p, shared) != whole
    lonely = Controls(400, 10, 99, 5).moved((3, 4), strong[:1], inside_p, shared[:1])
    assert [moved.p for moved in lonely] == [1, 1]


def test_ps_of_unrelated_maps_are_uniform() -> None:
    rng = np.random.default_rng(1)
    ps = []
    for pair in range(300):
        inside_p = rng.random(100 * 16) < 0.2
        strong = np.sort(rng.choice(100 * 16, 150, replace=False))
        ps.append(Controls(100, 16, 99, 0).moved((pair, 0), strong, inside_p, np.unique(strong // 16)))
    for which in (0, 1):
        assert stats.kstest([moved[which].p for moved in ps], "uniform").pvalue > 0.01
        assert np.mean([moved[which].p <= 0.05 for moved in ps]) < 0.1


def test_pictures_dealt_anew() -> None:
    found = dealt_anew(50, np.array([10, 50]), np.array([20, 20]), np.array([8, 20]))
    table = [[8, 2], [12, 28]]
    assert found == pytest.approx([stats.fisher_exact(table, "greater").pvalue, 1], abs=1e-12)


# -- the graph ------------------------------------------------------------------------------------------------------


def naive_direct(pairs: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Edges between whose ends there is no other path."""

    def reachable(start: int, goal: int, without: tuple[int, int]) -> bool:
        seen, queue = {start}, deque([start])
        while queue:
            at = queue.popleft()
            for pair in pairs - {without}:
                if pair[0] == at and pair[1] not in seen:
                    seen.add(pair[1])
                    queue.append(pair[1])
        return goal in seen

    return {pair for pair in pairs if not reachable(*pair, pair)}


def test_graphs_have_no_cycles_and_only_direct_edges() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        n = int(rng.integers(2, 12))
        size_of = {f: int(rng.integers(1, 6)) for f in range(n)}
        pairs = {(int(i), int(j)) for i, j in rng.integers(0, n, (25, 2)) if i != j}
        edges = [Edge(*pair, True, float(rng.random())) for pair in sorted(pairs)]
        standing = arranged(edges, size_of)
        kept = {(i, j) for i, j in pairs if size_of[j] > size_of[i] or (size_of[j] == size_of[i] and j < i)}
        assert {tuple(e[:2]) for e, ok in zip(edges, standing.is_in_order, strict=True) if ok} == kept
        direct = {tuple(e[:2]) for e, ok in zip(edges, standing.is_direct, strict=True) if ok}
        assert direct == naive_direct(kept)
        tree = [e for e, ok in zip(edges, standing.is_tree_edge, strict=True) if ok]
        assert {tuple(e[:2]) for e in tree} <= direct
        assert sorted(e.child for e in tree) == sorted({i for i, _ in kept})
        for edge in tree:
            others = [e for e in edges if e.child == edge.child and tuple(e[:2]) in direct]
            assert edge.strength == max(e.strength for e in others)


def test_a_told_edge_gives_way_to_told_paths_only() -> None:
    """3 → 1 is told; by way of 2 there is a path that is only implied, which does not replace it."""
    size_of = {1: 30, 2: 20, 3: 10}
    edges = [Edge(3, 1, True, 1), Edge(3, 2, False, 9), Edge(2, 1, True, 1)]
    standing = arranged(edges, size_of)
    assert standing.is_direct.tolist() == [True, True, True]
    assert standing.is_tree_edge.tolist() == [True, False, True]
    edges[1] = edges[1]._replace(is_sure=True)
    assert arranged(edges, size_of).is_direct.tolist() == [False, True, True]
    assert arranged([], {}).is_direct.tolist() == []


# -- planted --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted_warehouse(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from glasshouse.plugins.manager import Plugins

    folder = tmp_path_factory.mktemp("planted")
    write_pictures(folder / "pictures", N_IMAGES, size=8)
    warehouse = Warehouse.create(folder / "w.glasshouse", Plugins(external=False))
    warehouse.add([folder / "pictures"])
    make_patch_space(warehouse, "p", planted(0), GRID)
    make_patch_space(warehouse, "shuffled", planted(0, shuffled=True), GRID)
    yield warehouse
    warehouse.close()


def test_planted_parts_and_kinds_are_found_and_nothing_else(planted_warehouse: Any) -> None:
    rows = rows_of(planted_warehouse)
    found = {(row["feature_id"], row["parent_feature_id"]): row["kind"] for row in rows.to_dicts()}
    told = {pair: kind for pair, kind in found.items() if kind != "implied"}
    assert told == CHILDREN
    same = {pair for pair, kind in CHILDREN.items() if kind == "same"}
    direct = rows.filter("is_direct")
    assert {(r["feature_id"], r["parent_feature_id"]) for r in direct.to_dicts()}.isdisjoint(same)
    assert direct.filter(pl.col("kind") != "implied").height == len(CHILDREN) - len(same) - 1  # 5 → 0 goes by way of 4


CLEAR_KIND = {
    "implied": 0.75, "both_strong": 0.6, "implies_back": 0.2, "fills": 0.8, "recurs": 0.4, "q": 0.01,
    "q_pictures": 1.0, "q_among_shared": 1.0, "picture_lift": 1.0, "expected_among_shared": 0.3,
}  # fmt: skip
CLEAR_PART = CLEAR_KIND | {"implied": 0.95, "fills": 0.1, "q_pictures": 0.0, "q_among_shared": 0.0, "picture_lift": 3.0}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (CLEAR_KIND, "kind_of"),
        (CLEAR_KIND | {"implied": 0.69}, None),
        (CLEAR_KIND | {"both_strong": 0.29}, None),
        (CLEAR_KIND | {"implies_back": 0.51}, None),
        (CLEAR_KIND | {"fills": 0.49}, None),
        (CLEAR_KIND | {"q": 0.06}, None),
        (CLEAR_KIND | {"implied": 0.95, "both_strong": 0.29}, "implied"),
        (CLEAR_KIND | {"implied": 0.95, "recurs": 0.95}, "same"),
        (CLEAR_PART, "part_of"),
        (CLEAR_PART | {"implied": 0.89}, None),
        (CLEAR_PART | {"both_strong": 0.29}, "implied"),
        (CLEAR_PART | {"implies_back": 0.64}, "implied"),
        (CLEAR_PART | {"expected_among_shared": 0.48}, "implied"),
        (CLEAR_PART | {"recurs": 0.24}, "implied"),
        (CLEAR_PART | {"implies_back": 0.92}, "same"),
    ],
)
def test_each_limit_decides(row: dict[str, float], kind: str | None) -> None:
    found = told_apart(pl.DataFrame([row]), HierarchyParameters())["kind"].to_list()
    assert found == ([kind] if kind else [])


def test_the_published_rule_does_not_tell_them_apart(planted_warehouse: Any) -> None:
    """It has the planted edges, the duplicates in both directions, and whatever lies on the feature of all patches."""
    published = rows_of(planted_warehouse, "published").select("feature_id", "parent_feature_id").rows()
    assert {pair for pair, kind in CHILDREN.items() if kind != "same"} <= set(published)
    assert sum(parent == 9 for _, parent in published) >= 9


def test_shuffled_maps_have_no_hierarchy(planted_warehouse: Any) -> None:
    (*_, report) = planted_warehouse.analyze("hierarchy", "shuffled")
    rows = planted_warehouse.result_rows(report.run).filter(rule="tested")
    assert rows.height == 0, rows
    assert report.run.notes["n_frequent"] > 5


# -- what comes in --------------------------------------------------------------------------------------------------


def test_odd_features_do_no_harm(warehouse: Any) -> None:
    """On one patch, on all patches, never, twice the same, and nothing at all."""
    values_ntf = np.zeros((30, 4, 6), dtype=np.float32)
    values_ntf[3, 2, 0] = 4
    values_ntf[:, :, 1] = 2
    values_ntf[:, 1, 2] = values_ntf[:, 1, 3] = 1 + np.arange(30)
    make_patch_space(warehouse, "p", values_ntf, (2, 2))
    rows = rows_of(warehouse, **SMALL)
    assert rows.rows() == [] or set(rows["feature_id"]) <= {2, 3}
    make_patch_space(warehouse, "empty", np.zeros((3, 4, 6), dtype=np.float32), (2, 2))
    assert warehouse.analyze("hierarchy", "empty")[-1].run.n_rows == 0


def test_the_same_again_gives_the_same(planted_warehouse: Any) -> None:
    first = rows_of(planted_warehouse, force=True)
    assert (
        rows_of(planted_warehouse, force=True).drop("run_id", strict=False).equals(first.drop("run_id", strict=False))
    )
    other = rows_of(planted_warehouse, seed=1)
    assert not other["expected"].equals(first["expected"])


def test_spaces_without_patches_are_refused(warehouse: Any) -> None:
    warehouse.import_features("c", np.ones((3, 2)), [0, 1, 2])
    with pytest.raises(UsageError, match="needs patches, and the space 'c'"):
        warehouse.analyze("hierarchy", "c")


def test_conformance(planted_warehouse: Any) -> None:
    from glasshouse.plugins.analyzers.hierarchy import Hierarchy

    assert set(check_analyzer("hierarchy", Hierarchy(), planted_warehouse)) == {"p", "shuffled"}
