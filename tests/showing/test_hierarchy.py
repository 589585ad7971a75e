"""Hierarchies to look at: every edge in its place, in every form, and nothing that others wrote is more than text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import write_pictures
from kit.hostile import HOSTILE
from kit.pages import Page, check_only_text
from kit.patch_space import make_patch_space
from kit.planted import GRID, N_IMAGES, planted

from glasshouse.plugins.manager import Plugins
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.showing.hierarchy import Feature, FeatureHierarchy, Link
from glasshouse.warehouse.showing.hierarchy_graphml import NAMESPACE, graphml
from glasshouse.warehouse.showing.hierarchy_page import hierarchy_html
from glasshouse.warehouse.warehouse import Warehouse

TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "h1", "p", "section", "details", "summary", "div",
    "span", "b", "img", "footer",
}  # fmt: skip


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a warehouse with the planted hierarchy; feature 0 has a hostile label."""
    folder = tmp_path_factory.mktemp("shown")
    write_pictures(folder / "pictures", N_IMAGES, size=8)
    warehouse = Warehouse.create(folder / "w.glasshouse", Plugins(external=False))
    warehouse.add([folder / "pictures"])
    make_patch_space(warehouse, "p", planted(0), GRID)
    make_patch_space(warehouse, "q", planted(1)[:, :, :2], GRID)
    warehouse.analyze("hierarchy", "p")
    with warehouse.catalogue.writing() as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS results")
        connection.execute(
            "INSERT INTO runs BY NAME SELECT 900 AS run_id, 'labels' AS analyzer, '1' AS version, 'p' AS space, "
            "'{}' AS parameters, '{}' AS facets, '{}' AS notes, 1 AS n_rows, now() AT TIME ZONE 'UTC' AS started_at, "
            "0 AS duration_s"
        )
        connection.execute(
            "CREATE TABLE results.labels AS SELECT 900::INTEGER AS run_id, 'p' AS space, 0::INTEGER AS feature_id, "
            "$label AS label",
            {"label": HOSTILE + "\uffff"},
        )
        connection.execute(
            "INSERT INTO result_tables VALUES ('labels', $columns, '[]', NULL, true)",
            {"columns": '[["feature_id", "INTEGER"], ["label", "VARCHAR"]]'},
        )
    yield warehouse
    warehouse.close()


def tree_of(hierarchy: Any) -> dict[int, int | None]:
    return {step.feature.feature_id: step.link.parent if step.link else None for step in hierarchy.steps()}


def test_the_forest_is_the_tree_edges(shown: Any) -> None:
    rows = shown.sql("FROM hierarchy WHERE rule = 'tested' AND is_tree_edge")
    tree = tree_of(shown.hierarchy("p"))
    assert {child: parent for child, parent in tree.items() if parent is not None} == dict(
        rows.select("feature_id", "parent_feature_id").iter_rows()
    )
    assert {child: tree[child] for child in (1, 2, 4, 5, 6)} == {1: 0, 2: 0, 4: 3, 5: 3, 6: 5}


def test_roots_depth_and_kinds_choose(shown: Any) -> None:
    assert tree_of(shown.hierarchy("p", root=3)) == {3: None, 5: 3, 4: 3, 6: 5}
    assert tree_of(shown.hierarchy("p", root=3, depth=1)) == {3: None, 5: 3, 4: 3}
    assert tree_of(shown.hierarchy("p", root=6)) == {6: None}
    parts = shown.hierarchy("p", kinds=["part_of"])
    assert tree_of(parts) == {0: None, 1: 0, 2: 0}
    assert "1 below" in str(shown.hierarchy("p", root=3, depth=1))


def test_text_is_a_tree(shown: Any) -> None:
    lines = str(shown.hierarchy("p", root=3)).splitlines()
    assert lines[0].startswith("p, rule tested: ") and "4 features in 1 tree; 1 pair of duplicates" in lines[0]
    images = {f.feature_id: f"({f.n_images:,} images)" for f in shown.hierarchy("p").features.values()}
    four, five, six = (f"kind 1.00  p:{n} {images[n]}" for n in (4, 5, 6))
    orders = ([f"├─ {five}", f"│  └─ {six}", f"└─ {four}"], [f"├─ {four}", f"└─ {five}", f"   └─ {six}"])
    features = shown.hierarchy("p").features
    assert lines[2:] == [f"p:3 {images[3]}", *orders[features[4].n_patches > features[5].n_patches]]
    assert str(shown.hierarchy("p")).endswith("\n\np:8 = p:7")
    hostile = str(shown.hierarchy("p", root=0))
    assert "<script>alert(1)</script>" in hostile and not set(hostile) & {"\x1b", "\u202e"}
    assert "part 1.00  p:1" in hostile


def test_plain_data_holds_the_graph(shown: Any) -> None:
    data = shown.hierarchy("p").as_dict()
    direct = shown.sql("FROM hierarchy WHERE rule = 'tested' AND is_direct")
    assert {(e["child"], e["parent"], e["kind"]) for e in data["edges"]} == set(
        direct.select("feature_id", "parent_feature_id", "kind").rows()
    )
    assert data["same"] == [[8, 7]]
    assert {f["feature_id"]: f["parent"] for f in data["features"]} == tree_of(shown.hierarchy("p"))
    published = shown.hierarchy("p", "published").as_dict()
    assert all(e["kind"] is None and e["d_hat"] > 0.75 and "fills" not in e for e in published["edges"])


def test_graphml_is_valid_and_says_the_same(shown: Any) -> None:
    for hierarchy in (shown.hierarchy("p"), shown.hierarchy("p", "published"), shown.hierarchy("p", root=0)):
        root = ET.fromstring(graphml(hierarchy))
        tag = f"{{{NAMESPACE}}}"
        assert root.tag == f"{tag}graphml"
        assert [child.tag for child in root] == [f"{tag}key"] * (len(root) - 1) + [f"{tag}graph"]
        keys = {key.get("id"): (key.get("for"), key.get("attr.type")) for key in root.findall(f"{tag}key")}
        assert {kind for _, kind in keys.values()} <= {"boolean", "int", "long", "float", "double", "string"}
        (graph,) = root.findall(f"{tag}graph")
        assert graph.get("edgedefault") == "directed"
        nodes = [node.get("id") for node in graph.findall(f"{tag}node")]
        assert len(set(nodes)) == len(nodes) == len(hierarchy.shown)
        edges = graph.findall(f"{tag}edge")
        assert {edge.get(end) for edge in edges for end in ("source", "target")} <= set(nodes)
        for owner in ("node", "edge"):
            for element in graph.findall(f"{tag}{owner}"):
                for data in element.findall(f"{tag}data"):
                    for_, kind = keys[data.get("key")]
                    assert for_ == owner
                    if kind != "string":
                        {"boolean": ("true", "false").index}.get(str(kind), float)(str(data.text))
        data = hierarchy.as_dict()
        directed = {(e.get("source"), e.get("target")) for e in edges if e.get("directed") != "false"}
        assert directed == {(f"f{e['child']}", f"f{e['parent']}") for e in data["edges"]}
    names = [data.text or "" for data in root.iter(f"{tag}data") if data.get("key") == "n_name"]
    assert any("<script>alert(1)</script>" in name for name in names)


def check_page(text: str) -> Page:
    page = Page(text)
    check_only_text(page, TAGS)
    assert "http://" not in text and "https://" not in text and "uffff" not in text
    assert text.count("<details") == text.count("</details>")
    return page


def test_pages_are_whole_and_fold(shown: Any) -> None:
    hierarchy = shown.hierarchy("p")
    page = check_page(hierarchy_html(hierarchy, k=2))
    assert "<script>alert(1)</script>" in page.words and "part 1.00" in page.words
    assert sum(tag == "img" for tag, _ in page.tags) == 2 * len(hierarchy.shown)
    n_parents = sum(feature in hierarchy.children for feature in hierarchy.shown)
    assert sum(tag == "details" for tag, _ in page.tags) == n_parents
    policy = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policy) == 1 and str(policy[0]).startswith("default-src 'none'")


def test_pictures_are_bounded_and_said(shown: Any) -> None:
    hierarchy = shown.hierarchy("p")
    page = check_page(hierarchy_html(hierarchy, k=2, n_pictures=7))
    assert sum(tag == "img" for tag, _ in page.tags) == 6
    assert f"Pictures of 3 of {len(hierarchy.shown)} features" in page.words
    none = check_page(hierarchy_html(hierarchy, k=0))
    assert not any(tag == "img" for tag, _ in none.tags) and "Pictures of" not in none.words


def test_many_features_and_deep_chains(shown: Any) -> None:
    """8,192 features, 3,000 of them below each other: no recursion ends it, and the page stays small."""
    features = {n: Feature(n, None, 1, 9000 - n) for n in range(8192)}
    links = [Link(n, n - 1 if n < 3000 else n % 700, "kind_of", True, {"implied": 1.0}) for n in range(1, 8192)]
    hierarchy = FeatureHierarchy(shown, "p", "tested", features, links)
    text = hierarchy_html(hierarchy, k=0)
    page = check_page(text)
    assert page.words.count(" image") == 8192 and len(text) < 3_000_000
    assert len(str(hierarchy).splitlines()) == 8192 + 2
    assert hierarchy.n_below[0] == 8191 and hierarchy.n_below[2998] == 1


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"space": "r"}, "There is no space 'r'"),
    ({"space": "q"}, "There is no hierarchy of the space 'q'. Run `glasshouse analyze hierarchy --space q`."),
    ({"space": "p", "rule": "guessed"}, "There is no rule 'guessed'. Did you mean 'tested'? Known: published, tested."),
    ({"space": "p", "kinds": ["same"]}, "There is no kind of edge 'same'."),
    ({"space": "p", "rule": "published", "kinds": ["part_of"]}, "tells no kinds"),
    ({"space": "p", "root": 99}, "The space 'p' has no feature 99: they run from 0 to 12."),
]


def test_mistakes_say_what_to_type(shown: Any) -> None:
    for words, message in MISTAKES:
        with pytest.raises(UsageError) as caught:
            shown.hierarchy(**words)
        assert message in str(caught.value)


def test_a_space_without_edges(shown: Any) -> None:
    values_ntf = np.random.default_rng(0).random((N_IMAGES, 36, 3)).astype(np.float32)
    make_patch_space(shown, "noise", values_ntf, GRID)
    shown.analyze("hierarchy", "noise")
    found = shown.hierarchy("noise")
    assert found.is_empty and not shown.hierarchy("p").is_empty
    assert str(found).startswith("noise, rule tested: no edges. The other rule has ")
    nowhere = str(replace(found, n_other_rule=0))
    assert nowhere.startswith("noise, rule tested: no edges, and none by the other rule")
    check_page(hierarchy_html(found))
    assert found.as_dict()["features"] == []


def test_where_there_are_edges_is_said_where_there_are_none(shown: Any) -> None:
    by_rule = dict(
        shown.sql("SELECT rule, count(*) AS n FROM hierarchy WHERE space = 'p' AND is_direct GROUP BY 1").iter_rows()
    )
    for rule, other in (("tested", "published"), ("published", "tested")):
        found = shown.hierarchy("p", rule)
        assert (found.n_other_rule, found.n_other_kinds) == (by_rule[other], 0)
        without = replace(found, links=(), same=())
        assert str(without) == f"p, rule {rule}: no edges. The other rule has {by_rule[other]} edges: --rule {other}."
    parts = shown.hierarchy("p", kinds=["part_of"])
    assert parts.n_other_kinds == by_rule["tested"] - len(parts.links) > 0
    words = str(replace(parts, links=(), same=()))
    assert words.endswith(f"no edges of this kind. Of other kinds there are {parts.n_other_kinds}: leave --kind away.")


def test_what_is_nearly_everywhere_is_marked(shown: Any) -> None:
    """Nobody should take the name of such a parent for a kind."""
    counts = dict(shown.feature_statistics("p").select("feature_id", "n_active").iter_rows())
    hierarchy = shown.hierarchy("p", "published")
    marked = {n: feature.nearly_everywhere for n, feature in hierarchy.features.items()}
    assert marked == {n: counts[n] >= 0.9 * N_IMAGES for n in marked}
    assert set(marked.values()) == {True, False}
    text, page = str(hierarchy), check_page(hierarchy_html(hierarchy, k=0)).words
    for feature in hierarchy.shown:
        facts = f"({counts[feature]} images{': nearly everywhere' if marked[feature] else ''})"
        assert any(f"p:{feature} " in line and line.endswith(facts) for line in text.splitlines())
    n_marked = sum(marked[feature] for feature in hierarchy.shown)
    assert n_marked and page.count(" images: nearly everywhere") == n_marked
    assert {f["feature_id"]: f["nearly_everywhere"] for f in hierarchy.as_dict()["features"]} == {
        n: marked[n] for n in hierarchy.shown
    }


def test_pictures_that_are_gone_are_counted(shown: Any, tmp_path: Path) -> None:
    from glasshouse.warehouse.showing.thumbnails import Tally

    top = shown.top_images("p", 6, 1).to_dicts()[0]
    file = next(shown.root.parent.glob(f"pictures/{top['image_id']:05d}.png"))
    content = file.read_bytes()
    file.unlink()
    try:
        tally = Tally()
        page = check_page(hierarchy_html(shown.hierarchy("p", root=6), k=1, tally=tally))
    finally:
        file.write_bytes(content)
    assert tally.missing == {top["image_id"]} and not any(tag == "img" for tag, _ in page.tags)


def test_frames_and_features_agree(shown: Any) -> None:
    """What a feature's line says is what the statistics say."""
    statistics = shown.feature_statistics("p").filter(pl.col("feature_id") == 3).to_dicts()[0]
    feature = shown.hierarchy("p").features[3]
    assert (feature.n_images, feature.n_patches) == (statistics["n_active"], statistics["n_tokens"])
