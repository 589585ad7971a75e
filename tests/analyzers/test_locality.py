"""Locality against loops over patches and pixels that know nothing of products."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.patch_space import make_patch_space

from glasshouse.plugins.analyzers import locality
from glasshouse.plugins.analyzers.locality import headline
from glasshouse.plugins.analyzers.mask_patches import MaskGrid, overlaps, patches_of
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.warehouse import Warehouse

Array = np.ndarray[Any, Any]
GRID = (2, 3)
SIZE = 20
N, F = 12, 7
SHORTEST = {"resize": "shortest", "resize_to": [20, 20], "crop_to": [12, 16], "crop_rounding": "round"}
PADDED = {"resize": "none", "resize_to": [20, 20], "crop_to": [30, 60], "crop_rounding": "round"}
COLUMNS = (
    "n_images", "n_present", "iou", "pointing", "iou_present", "pointing_present", "iou_shuffled", "pointing_shuffled",
)  # fmt: skip


def values() -> Array:
    """Activations [12, 6, 7]: random, everywhere equal, on one patch, never, on two images, tied maxima."""
    rng = np.random.default_rng(3)
    values_ntf = rng.exponential(size=(N, 6, F)) * (rng.random((N, 6, F)) < 0.5)
    values_ntf[:, :, 2] = 1.5
    values_ntf[:, :, 3] = 0
    values_ntf[:, :, 4] = 0
    values_ntf[2, 4, 4] = 3
    values_ntf[:, :, 5] = 0
    values_ntf[1:3, 1:4, 5] = 2
    values_ntf[5] = 0
    return values_ntf.astype(np.float32)


def masks() -> list[dict[str, Any]]:
    """Objects on images 0 to 8: random boxes, one pixel, no area, crowds, one without the attribute."""
    rng = np.random.default_rng(4)
    objects = []
    for image in range(9):
        for _ in range(int(rng.integers(1, 5))):
            mask_hw = np.zeros((SIZE, SIZE), dtype=bool)
            top, left = rng.integers(0, 15, 2)
            height, width = rng.integers(1, 10, 2)
            mask_hw[top : top + height, left : left + width] = True
            name = ("cat", "dog", "cow")[int(rng.integers(0, 3))]
            objects.append({"image": image, "name": name, "mask_hw": mask_hw, "crowd": False, "colour": "red"})
    objects[0]["colour"] = None
    objects[1]["colour"] = 'bl"ue'
    single_hw, none_hw = np.zeros((SIZE, SIZE), dtype=bool), np.zeros((SIZE, SIZE), dtype=bool)
    single_hw[9, 9] = True
    full_hw = np.ones((SIZE, SIZE), dtype=bool)
    for name, mask_hw, crowd in (("dot", single_hw, False), ("none", none_hw, False), ("crowd", full_hw, True)):
        objects.append({"image": 2, "name": name, "mask_hw": mask_hw, "crowd": crowd, "colour": "red"})
    objects.append({"image": 9, "name": "crowd", "mask_hw": full_hw, "crowd": True, "colour": "red"})
    return objects


def runs(mask_hw: Array) -> list[int]:
    counts, last = [0], False
    for pixel in mask_hw.ravel(order="F"):
        if bool(pixel) != last:
            counts.append(0)
            last = bool(pixel)
        counts[-1] += 1
    return counts


def write_annotations(file: Path, objects: list[dict[str, Any]], n: int = N, colour: str = "colour") -> Path:
    names = sorted({thing["name"] for thing in objects})
    pictures = [{"id": i, "file_name": f"{i:05d}.png", "width": SIZE, "height": SIZE} for i in range(n)]
    annotations = [
        {
            "id": number, "image_id": thing["image"], "category_id": names.index(thing["name"]),
            "bbox": [0, 0, 1, 1], "area": int(thing["mask_hw"].sum()), "iscrowd": int(thing["crowd"]),
            "segmentation": {"size": [SIZE, SIZE], "counts": runs(thing["mask_hw"])},
            "attributes": {} if thing["colour"] is None else {colour: thing["colour"]},
        }
        for number, thing in enumerate(objects, start=1)
    ]  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    file.write_text(json.dumps({"images": pictures, "annotations": annotations, "categories": categories}))
    return file


@pytest.fixture
def annotated(tmp_path: Path, plugins: Any) -> Any:
    """Return a warehouse of 12 pictures with the objects of `masks`."""
    write_pictures(tmp_path / "twelve", N)
    opened = Warehouse.create(tmp_path / "a.glasshouse", plugins)
    opened.add([tmp_path / "twelve"], annotations=[write_annotations(tmp_path / "a.json", masks())])
    yield opened
    opened.close()


def naive_cover(mask_hw: Array, framing: Mapping[str, Any] | None) -> tuple[Array, Array]:
    """Count small squares, nine to a pixel: share of each patch that is mask, and that is picture, [tokens]."""
    top, left, bottom, right = {None: (0, 0, 20, 20), "c": (4, 2, 16, 18), "p": (-5, -20, 25, 40)}[
        None if framing is None else "c" if framing is SHORTEST else "p"
    ]
    fine = 3  # patches of all these cases end on thirds of pixels
    mask_t, picture_t = np.zeros(GRID), np.zeros(GRID)
    rows, columns = (bottom - top) * fine, (right - left) * fine
    for y in range(rows):
        for x in range(columns):
            pixel = (top + y // fine, left + x // fine)
            patch = (y * GRID[0] // rows, x * GRID[1] // columns)
            if 0 <= pixel[0] < SIZE and 0 <= pixel[1] < SIZE:
                picture_t[patch] += 1
                mask_t[patch] += mask_hw[pixel]
    area = rows * columns / (GRID[0] * GRID[1])
    return mask_t.ravel() / area, picture_t.ravel() / area


def naive_covers(framing: Any, key: str) -> tuple[dict[int, list[tuple[str, Array]]], set[int], Array]:
    """Cover the patches, by image; with the images that have masks, and the share of each patch in the picture."""
    covers: dict[int, list[tuple[str, Array]]] = {}
    masked = set()
    for thing in masks():
        if thing["crowd"] or thing[key] is None:
            continue
        masked.add(thing["image"])
        cover_t, picture_t = naive_cover(thing["mask_hw"], framing)
        if cover_t.any():
            covers.setdefault(thing["image"], []).append((thing[key], cover_t))
    return covers, masked, picture_t


def naive_rows(values_ntf: Array, framing: Any, *, key: str = "name", **given: Any) -> dict[Any, tuple[Any, ...]]:
    asked = {"k": 20, "compare": "patches", "cover": 0.05, "threshold_by": "maximum", "level": 0.5, **given}
    covers, masked, picture_t = naive_covers(framing, key)
    seen_t = picture_t > 0

    def scores(feature: int, image: int, other: int) -> dict[str, tuple[float, float]]:
        map_t = values_ntf[image, :, feature]
        if asked["threshold_by"] == "maximum":
            limit = np.float32(asked["level"]) * map_t.max()
        else:
            column = values_ntf[:, :, feature]
            limit = np.float32(np.quantile(column[column > 0].astype(float), asked["level"]))
        best: dict[str, tuple[float, float]] = {}
        for label, cover_t in covers.get(other, []):
            needed = min(asked["cover"], cover_t.max())
            patches = [bool(cover_t[t] >= needed - 1e-9) for t in range(6)]
            both = either = 0.0
            for t in range(6):
                on = bool(map_t[t] >= limit and map_t[t] > 0 and seen_t[t])
                if asked["compare"] == "patches":
                    both, either = both + (on and patches[t]), either + (on or patches[t])
                else:
                    both += cover_t[t] if on else 0
                    either += picture_t[t] if on else cover_t[t]
            at = max((t for t in range(6) if seen_t[t]), key=lambda t: (map_t[t], -t))
            old = best.get(label, (0.0, 0.0))
            best[label] = (max(old[0], both / either), max(old[1], float(patches[at])))
        return best

    rows: dict[Any, tuple[Any, ...]] = {}
    for feature in range(values_ntf.shape[2]):
        strength = values_ntf[:, :, feature].max(1)
        top = sorted((i for i in masked if strength[i] > 0), key=lambda i: (-strength[i], i))[: asked["k"]]
        own = [scores(feature, image, image) for image in top]
        mixed = [scores(feature, top[i], top[(i + 1) % len(top)]) for i in range(len(top))] if len(top) > 1 else []
        for label in {label for found in own for label in found}:
            with_it = [found[label] for found in own if label in found]
            sums = [sum(pair[p] for pair in with_it) for p in (0, 1)]
            chance = [sum(f[label][p] for f in mixed if label in f) / len(mixed) if mixed else None for p in (0, 1)]
            rows[feature, label] = (
                len(top), len(with_it), *(s / len(top) for s in sums), *(s / len(with_it) for s in sums), *chance,
            )  # fmt: skip
    return rows


def stored(warehouse: Any, **parameters: Any) -> dict[Any, tuple[Any, ...]]:
    (report,) = warehouse.analyze("locality", "p", **parameters)
    rows = warehouse.result_rows(report.run)
    return {row[:2]: row[2:] for row in rows.select("feature_id", "category", *COLUMNS).rows()}


def check_equal(found: dict[Any, Any], expected: dict[Any, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, row in expected.items():
        assert found[key] == pytest.approx(row, abs=1e-6), key


@pytest.mark.parametrize("framing", [None, SHORTEST, PADDED], ids=["whole", "cropped", "padded"])
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"k": 3, "cover": 0.5},
        {"compare": "pixels"},
        {"threshold_by": "quantile", "level": 0.6, "cover": 0.3},
    ],
    ids=["default", "half", "pixels", "quantile"],
)
def test_equals_the_loops(annotated: Any, framing: Any, parameters: dict[str, Any]) -> None:
    make_patch_space(annotated, "p", values(), GRID, framing=framing)
    expected = naive_rows(values(), framing, **parameters)
    assert {0, 1, 2, 4, 5, 6} == {feature for feature, _ in expected}
    assert not {"none", "crowd"} & {label for _, label in expected} and (4, "dot") in expected
    check_equal(stored(annotated, **parameters), expected)


def test_masks_grouped_by_an_attribute(annotated: Any) -> None:
    make_patch_space(annotated, "p", values(), GRID)
    expected = naive_rows(values(), None, key="colour")
    assert {label for _, label in expected} == {"red", 'bl"ue'}
    check_equal(stored(annotated, attribute="colour"), expected)


def test_blocks_change_nothing(annotated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_patch_space(annotated, "p", values(), GRID)
    for size in (1, 150):
        monkeypatch.setattr(locality, "MAX_VALUES", size)
        check_equal(stored(annotated, force=True), naive_rows(values(), None))


def test_a_map_that_is_the_mask(annotated: Any) -> None:
    """Where a feature is active on exactly the patches of a mask, IoU and pointing are 1; off it, 0."""
    cover_t, _ = naive_cover(masks()[0]["mask_hw"], None)
    values_ntf = np.zeros((N, 6, 2), dtype=np.float32)
    values_ntf[0, :, 0] = cover_t >= 0.05
    values_ntf[0, :, 1] = cover_t == 0
    make_patch_space(annotated, "p", values_ntf, GRID)
    found = stored(annotated)
    assert found[0, masks()[0]["name"]] == (1, 1, 1, 1, 1, 1, None, None)
    shown = annotated.sql("SELECT category, iou, pointing FROM features WHERE space = 'p' AND feature_id = 0").row(0)
    assert shown == (masks()[0]["name"], 1.0, 1.0)


def test_what_is_refused(annotated: Any, warehouse: Any) -> None:
    make_patch_space(annotated, "p", values(), GRID)
    with pytest.raises(UsageError, match=r"has masks with 'size'.*--attribute"):
        annotated.analyze("locality", "p", attribute="size")
    annotated.import_features("s", values()[:, 0], list(range(N)))
    with pytest.raises(UsageError, match="needs patches"):
        annotated.analyze("locality", "s")
    make_patch_space(warehouse, "p", values(), GRID)
    with pytest.raises(UsageError, match=r"has masks.*--annotations"):
        warehouse.analyze("locality", "p")


def test_the_notes_count_masks_and_crowds(annotated: Any) -> None:
    make_patch_space(annotated, "p", values(), GRID)
    (report,) = annotated.analyze("locality", "p")
    n_masks = sum(not thing["crowd"] for thing in masks())
    counted = {name: value for name, value in report.run.notes.items() if name != "summary"}
    assert counted == {"n_images": 9, "n_masks": n_masks, "n_crowds": 1}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**31))
def test_coverage_keeps_the_area(rows: int, columns: int, height: int, width: int, seed: int) -> None:
    mask_hw = np.random.default_rng(seed).random((height, width)) < 0.4
    cover_t = MaskGrid((rows, columns), None).cover(mask_hw)
    assert cover_t.min() >= 0 and cover_t.max() <= 1 + 1e-5
    assert cover_t.sum() * height * width / (rows * columns) == pytest.approx(mask_hw.sum(), abs=1e-2)
    np.testing.assert_allclose(overlaps(0, height, rows, height).sum(1), 1, atol=1e-5)


def test_small_masks_keep_their_best_patch() -> None:
    cover_mt = np.array([[0.9, 0.5, 0.1], [0.2, 0.04, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(patches_of(cover_mt, 0.5), [[1, 1, 0], [1, 0, 0]])


def test_the_headline_is_of_each_features_best_category() -> None:
    rows = pl.DataFrame(
        {
            "feature_id": [0, 0, 1], "iou": [0.2, 0.6, 0.4], "pointing": [1.0, 0.5, 0.0],
            "iou_shuffled": [0.3, 0.1, None], "pointing_shuffled": [0.25, 0.0, None],
        }
    )  # fmt: skip
    assert headline(rows) == (
        "2 features, each with the category that fits best, mean IoU 0.500 (masks of other images 0.300), "
        "pointing game 0.500 (masks of other images 0.250)"
    )
    assert headline(rows.clear()) == "0 features, each with the category that fits best"
