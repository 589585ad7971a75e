"""Impurity against loops over patches and masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import write_pictures
from kit.patch_space import make_patch_space

from glasshouse.plugins.analyzers import impurity
from glasshouse.plugins.analyzers.impurity import headline
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.warehouse import Warehouse

Array = np.ndarray[Any, Any]
N, SIZE, GRID, F = 8, 20, (4, 2), 7
PADDED = {"resize": "none", "resize_to": [20, 20], "crop_to": [40, 20], "crop_rounding": "round"}
COLUMNS = (
    "category",
    "impurity",
    "impurity_expected",
    "outside_all",
    "category_shuffled",
    "impurity_shuffled",
    "n_patches",
)


def values() -> Array:
    """Activations [8, 8, 7]: random ones, 3 nowhere, 4 on one patch of an image without masks, 5 everywhere alike."""
    rng = np.random.default_rng(1)
    values_ntf = rng.exponential(size=(N, 8, F)) * (rng.random((N, 8, F)) < 0.4)
    values_ntf[:, :, 3:6] = 0
    values_ntf[7, 2, 4] = 1
    values_ntf[:, :, 5] = 0.5
    return values_ntf.astype(np.float32)


def things() -> list[dict[str, Any]]:
    """Boxes [top, left, bottom, right] on the images 0 to 5; a crowd on 6, none on 7; one without a colour."""
    rng = np.random.default_rng(5)
    found = []
    for image in range(6):
        for number in range(int(rng.integers(1, 4))):
            top, left = (int(v) for v in rng.integers(0, 14, 2))
            height, width = (int(v) for v in rng.integers(2, 12, 2))
            box = (top, left, min(top + height, SIZE), min(left + width, SIZE))
            colour = None if (image, number) == (0, 0) else ("red", "blue")[int(rng.integers(2))]
            name = ("cat", "dog")[int(rng.integers(2))]
            found.append({"image": image, "box": box, "name": name, "crowd": False, "colour": colour})
    found.append({"image": 6, "box": (0, 0, 20, 20), "name": "crowd", "crowd": True, "colour": "red"})
    return found


@pytest.fixture
def annotated(tmp_path: Path, plugins: Any) -> Any:
    write_pictures(tmp_path / "pictures", N)
    names = sorted({thing["name"] for thing in things()})
    annotations = []
    for number, thing in enumerate(things(), start=1):
        top, left, bottom, right = thing["box"]
        outline = [left, top, right, top, right, bottom, left, bottom]
        annotations.append(
            {
                "id": number, "image_id": thing["image"], "category_id": names.index(thing["name"]),
                "bbox": [left, top, right - left, bottom - top], "area": 1, "iscrowd": int(thing["crowd"]),
                "segmentation": {"size": [SIZE, SIZE], "counts": [0, SIZE * SIZE]} if thing["crowd"] else [outline],
                "attributes": {"colour": thing["colour"]} if thing["colour"] else {},
            }
        )  # fmt: skip
    content = {
        "images": [{"id": i, "file_name": f"{i:05d}.png", "width": SIZE, "height": SIZE} for i in range(N)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    opened = Warehouse.create(tmp_path / "a.glasshouse", plugins)
    opened.add([tmp_path / "pictures"], annotations=[tmp_path / "a.json"])
    yield opened
    opened.close()


def patches_of(box: tuple[int, int, int, int], cover: float, *, padded: bool) -> set[int]:
    """Patches of a box: 5 × 10 pixels each; where the encoder pads 10 × 10, half of them beside the picture."""
    height, above = (10, 10) if padded else (5, 0)
    share = {}
    for token in range(8):
        row, column = divmod(token, 2)
        inside = [
            (y, x)
            for y in range(row * height - above, (row + 1) * height - above)
            for x in range(column * 10, (column + 1) * 10)
            if box[0] <= y < box[2] and box[1] <= x < box[3]
        ]
        share[token] = len(inside) / (height * 10)
    needed = min(cover, max(share.values()))
    return {token for token, covered in share.items() if covered >= needed - 1e-9 and covered > 0}


def naive_rows(values_ntf: Array, *, cover: float = 0.05, key: str = "name", padded: bool = False) -> dict[int, Any]:
    labels: dict[int, dict[str, set[int]]] = {}
    for thing in things():
        if not thing["crowd"] and thing[key] is not None:
            of_image = labels.setdefault(thing["image"], {})
            of_image.setdefault(thing[key], set()).update(patches_of(thing["box"], cover, padded=padded))
    images = sorted(labels)
    seen = range(2, 6) if padded else range(8)
    following = {image: images[(place + 1) % len(images)] for place, image in enumerate(images)}
    every = sorted({label for of_image in labels.values() for label in of_image})

    def outside(feature: int, masks_of: dict[int, int]) -> tuple[str, float, float, float]:
        total = sum(float(values_ntf[i, t, feature]) for i in images for t in seen)
        mass = {}
        for label in every:
            on = [(i, t) for i in images for t in seen if t in labels[masks_of[i]].get(label, ())]
            mass[label] = sum(float(values_ntf[i, t, feature]) for i, t in on)
        in_any = sum(
            float(values_ntf[i, t, feature])
            for i in images
            for t in seen
            if t in set().union(*labels[masks_of[i]].values())
        )
        best = max(every, key=lambda label: mass[label])
        return best, 1 - mass[best] / total, 1 - in_any / total, total

    rows = {}
    for feature in range(F):
        if not any(values_ntf[i, t, feature] for i in images for t in seen):
            continue
        best, share, out, _ = outside(feature, {i: i for i in images})
        mixed, control, _, _ = outside(feature, following)
        n_in = sum(len(labels[i].get(best, set()) & set(seen)) for i in images)
        expected = 1 - n_in / (len(images) * len(seen))
        n_patches = sum(values_ntf[i, t, feature] > 0 for i in images for t in seen)
        rows[feature] = (best, share, expected, out, mixed, control, n_patches)
    return rows


def stored(warehouse: Any, **parameters: Any) -> dict[int, Any]:
    (report,) = warehouse.analyze("impurity", "p", **parameters)
    rows = warehouse.result_rows(report.run)
    return {row[0]: row[1:] for row in rows.select("feature_id", *COLUMNS).rows()}


def check_equal(found: dict[int, Any], expected: dict[int, Any]) -> None:
    assert found.keys() == expected.keys()
    for feature, row in expected.items():
        assert (found[feature][0], found[feature][4], found[feature][6]) == (row[0], row[4], row[6]), feature
        assert [found[feature][i] for i in (1, 2, 3, 5)] == pytest.approx([row[i] for i in (1, 2, 3, 5)], abs=1e-6)


@pytest.mark.parametrize("cover", [0.05, 0.4])
def test_equals_the_loops(annotated: Any, cover: float) -> None:
    make_patch_space(annotated, "p", values(), GRID)
    expected = naive_rows(values(), cover=cover)
    assert set(expected) == {0, 1, 2, 5, 6}
    check_equal(stored(annotated, cover=cover), expected)


def test_patches_beside_the_picture_do_not_count(annotated: Any) -> None:
    make_patch_space(annotated, "p", values(), GRID, framing=PADDED)
    check_equal(stored(annotated), naive_rows(values(), padded=True))


def test_masks_grouped_by_an_attribute(annotated: Any) -> None:
    make_patch_space(annotated, "p", values(), GRID)
    check_equal(stored(annotated, attribute="colour"), naive_rows(values(), key="colour"))


def test_blocks_change_nothing(annotated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_patch_space(annotated, "p", values(), GRID)
    for size in (1, 4):
        monkeypatch.setattr(impurity, "IMAGES_AT_ONCE", size)
        check_equal(stored(annotated, force=True), naive_rows(values()))


def test_a_feature_inside_its_masks_is_pure_and_one_outside_all_has_no_category(annotated: Any) -> None:
    values_ntf = np.zeros((N, 8, 2), dtype=np.float32)
    for thing in things()[:-1]:
        patches = patches_of(thing["box"], 0.05, padded=False)
        if thing["name"] == "cat":
            values_ntf[thing["image"], list(patches), 0] = 2
    taken = {(t["image"], p) for t in things()[:-1] for p in patches_of(t["box"], 0.05, padded=False)}
    free = next((i, p) for i in range(6) for p in range(8) if (i, p) not in taken)
    values_ntf[(*free, 1)] = 1
    make_patch_space(annotated, "p", values_ntf, GRID)
    found = stored(annotated)
    assert found[0][:2] == ("cat", 0.0) and found[0][3] == 0 and found[0][5] > 0.2
    assert found[1][:4] == (None, 1.0, None, 1.0)
    assert annotated.sql("SELECT impurity FROM features WHERE space = 'p' ORDER BY feature_id").rows() == [
        (0.0,),
        (1.0,),
    ]


def test_what_is_refused(annotated: Any) -> None:
    make_patch_space(annotated, "p", values(), GRID)
    with pytest.raises(UsageError, match=r"has masks with 'size'.*--attribute"):
        annotated.analyze("impurity", "p", attribute="size")
    annotated.import_features("s", values()[:, 0], list(range(N)))
    with pytest.raises(UsageError, match="'impurity' needs patches"):
        annotated.analyze("impurity", "s")


def test_the_headline_has_the_control_beside_it() -> None:
    table = pa.table({"impurity": [0.25, 0.75], "impurity_shuffled": [0.9, None]})
    assert headline(table) == "2 features, mean impurity 0.500 (masks of other images 0.900)"
    assert headline(table.slice(0, 0)) == "0 features"
