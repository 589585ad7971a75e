"""Captions: which concepts are told, where they are said to be, and that names stay text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_pictures
from kit.hostile import HOSTILE
from kit.patch_space import make_patch_space

from glasshouse.schema.errors import UsageError
from glasshouse.schema.plain import plain
from glasshouse.warehouse.showing.caption import LONGEST, ancestors, listed
from glasshouse.warehouse.showing.caption_picture import caption_picture, free_tag
from glasshouse.warehouse.showing.caption_places import is_place, region_of
from glasshouse.warehouse.warehouse import Warehouse

Array = np.ndarray[Any, Any]
NAMES = {0: "shape", 1: "star", 2: "red", 3: "grid", 4: "Star", 5: "far", 6: HOSTILE, 7: "weak", 8: "Top-left"}
PARENTS = {1: 0, 4: 0}


def values() -> Array:
    """Two images, 6 × 6 patches, 9 features; on the first a shape, a star in it, red there too, a grid, …"""
    values_ncrf = np.zeros((2, 6, 6, 9), dtype=np.float32)
    values_ncrf[1, 0, 0] = 1
    first = values_ncrf[0]
    first[0:3, 0:3, 0] = 0.9
    first[1, 1, 1] = 1.0
    first[0:2, 0:2, 2] = 0.8
    first[:, 1:, 3] = 0.7
    first[2, 2, 4] = 0.65
    first[[0, 5], [5, 5], 5] = (0.6, 0.55)
    first[5, 0, 6] = 0.5
    first[0, 0, 7] = 0.1
    first[3, 3, 8] = 0.95
    return values_ncrf.reshape(2, 36, 9)


@pytest.fixture
def named(tmp_path: Path, plugins: Any) -> Any:
    from datetime import datetime

    import pyarrow as pa

    from glasshouse.plugins.analyzers.names import SCHEMA, Names
    from glasshouse.warehouse.results.records import Request, ResultTable
    from glasshouse.warehouse.results.store import Outcome, commit_run

    warehouse = Warehouse.create(tmp_path / "w.glasshouse", plugins)
    write_pictures(tmp_path / "pictures", 2)
    warehouse.add([tmp_path / "pictures"])
    make_patch_space(warehouse, "s", values(), (6, 6))
    rows = [
        {
            "feature_id": feature, "method": "plain", "name": name, "score": 0.5, "distinguishing_name": name,
            "parent_feature_id": PARENTS.get(feature),
        }
        for feature, name in NAMES.items()
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    outcome = Outcome(table, [], datetime(2026, 1, 1), 0.1)
    request = Request("names", "1", "s", {}, {"method": "plain"})
    commit_run(warehouse.layout, request, ResultTable("names", SCHEMA, Names.in_features), outcome)
    yield warehouse
    warehouse.close()


def test_concepts_are_told_strongest_first_and_families_once(named: Any) -> None:
    caption = named.caption(0, "s", 10)
    told = [(c.feature_id, c.name, c.region) for c in caption.concepts]
    assert told == [
        (1, "star", "in the top left"),
        (2, "red", "in the top left"),
        (3, "grid", "all over the picture"),
        (5, "far", "in the top right and in the bottom right"),
        (6, HOSTILE, "in the bottom left"),
    ]
    star, red, grid, far, _ = caption.concepts
    width, height = caption.width, caption.height
    assert star.box == (width // 6, height // 6, -(-width // 2), -(-height // 2)), "with the second feature of the name"
    assert red.share == pytest.approx(4 / 36) and grid.share == pytest.approx(30 / 36)
    assert far.box[1] == 0 and far.box[3] == height and far.box[2] == width
    assert red.strength == pytest.approx(0.8) and red.activation == pytest.approx(0.8)
    assert caption.sentence.startswith(
        "Star and red in the top left; grid all over the picture; far in the top right and in the bottom right; "
    )
    assert plain(HOSTILE) in caption.sentence and "\x1b" not in caption.sentence and "\n" not in caption.sentence


def test_k_counts_concepts_and_the_only_named_space_is_taken(named: Any) -> None:
    make_patch_space(named, "other", values(), (6, 6))
    assert [c.name for c in named.caption(0, k=2).concepts] == ["star", "red"]
    data = json.loads(json.dumps(named.caption(0, k=1).as_dict()))
    assert data["sentence"] == "Star in the top left." and data["concepts"][0]["name"] == "star"
    picture = caption_picture(named.caption(0), named.picture(0))
    assert picture.width >= 480 and len(picture.convert("RGB").getcolors(1 << 20) or []) > 10


def test_an_image_on_which_nothing_named_is_strong(named: Any) -> None:
    make_patch_space(named, "t", np.pad(values()[:1, :, 8:], ((0, 1), (0, 0), (0, 0))), (6, 6))
    with pytest.raises(
        UsageError, match=r"The features of 't' have no names. Run `glasshouse analyze names --space t`"
    ):
        named.caption(0, "t")


def test_labels_serve_where_there_are_no_names(analysed: Any) -> None:
    """The card's label: of `labels`; a caption takes it too."""
    caption = analysed.caption(0, "patches", 3)
    assert caption.concepts and all(concept.score is None for concept in caption.concepts)


def test_what_cannot_be_captioned_is_said(named: Any) -> None:
    named.import_features("flat", np.ones((2, 2)), [0, 1])
    with pytest.raises(UsageError, match="A caption needs patches, and the space 'flat' holds one vector"):
        named.caption(0, "flat")
    with pytest.raises(UsageError, match="There is no space 'x'"):
        named.caption(0, "x")
    with pytest.raises(UsageError, match="k must be at least 1"):
        named.caption(0, "s", 0)
    with pytest.raises(UsageError, match="There is no image 9"):
        named.caption(9, "s")


def test_names_stand_for_labels_in_cards_and_hits(named: Any) -> None:
    assert named.feature("s", 2).label == "red" and named.feature("s", 7).label == "weak"
    assert [f.label for f in named.image(1).features["s"] if f.feature_id == 3] == ["grid"]


def test_a_place_is_no_concept() -> None:
    places = ("bottom left", "Top-Right", "in the centre", "on the left", "at the top", "center")
    assert all(is_place(name) for name in places)
    assert not any(is_place(name) for name in ("left hand", "laptop", "red", "", "the", "bottom left corner shop"))
    assert all(is_place(region_of(x, y)) for x in (0.1, 0.5, 0.9) for y in (0.1, 0.5, 0.9))


def test_long_names_are_shortened_where_people_read(named: Any) -> None:
    caption = named.caption(0, "s", 10)
    long = replace(
        caption, concepts=[replace(concept, name=f"{concept.name} {'x' * 300}") for concept in caption.concepts]
    )
    assert len(long.sentence) < 600 and all(len(concept.short_name) == LONGEST for concept in long.concepts)
    assert len(long.as_dict()["concepts"][0]["name"]) == 305
    assert caption_picture(long, named.picture(0)).width < 1200


def test_numbers_of_boxes_do_not_lie_on_each_other() -> None:
    tags: list[Any] = []
    for corner in [(10, 10)] * 8 + [(12, 12), (90, 90), (90, 90)]:
        tags.append(free_tag(corner, (19, 20), tags, (100, 200)))
    cells = [{(x, y) for x in range(t[0], t[2] + 1) for y in range(t[1], t[3] + 1)} for t in tags]
    assert sum(map(len, cells)) == len(set.union(*cells)) and tags[0] == (10, 10, 29, 30)
    assert free_tag((0, 0), (19, 20), [(0, 0, 500, 500)], (100, 100)) == (0, 0, 19, 20), "no room"


def test_words() -> None:
    assert [listed(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [region_of(x, y) for x, y in ((0.5, 0.5), (0.1, 0.5), (0.5, 0.9), (0.9, 0.1), (1 / 3, 2 / 3))] == [
        "in the centre", "on the left", "at the bottom", "in the top right", "in the centre",
    ]  # fmt: skip


def test_a_circle_of_parents_ends() -> None:
    from glasshouse.warehouse.showing.caption import Name

    names = {0: Name("a", None, 1), 1: Name("b", None, 2), 2: Name("c", None, 0), 3: Name("d", None, 3)}
    assert ancestors(0, names) == {1, 2} and ancestors(3, names) == set()
