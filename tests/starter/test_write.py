"""The files of a world are well formed and say what the scenes say."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glasshouse.plugins.starter.world import render_scene, write_world
from glasshouse.plugins.starter.world.write import split_of

N = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    seen: list[int] = []
    write_world(path, N, 3, progress=seen.append)
    assert seen == list(range(1, N + 1))
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def decode(segmentation: dict[str, list[int]]) -> np.ndarray:
    """Uncompressed COCO run lengths, the slow way: column by column, zeros first."""
    height, width = segmentation["size"]
    flat, value = [], 0
    for count in segmentation["counts"]:
        flat += [value] * count
        value = 1 - value
    assert len(flat) == height * width
    return np.array(flat, dtype=bool).reshape(width, height).T


def test_images_are_the_scenes(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == [
        "annotations.json", "captions.csv", "images", "labels.csv", "ratings.csv",
    ]  # fmt: skip
    assert len(list((folder / "images").iterdir())) == N
    for index in (0, 7, N - 1):
        with Image.open(folder / f"images/{index:06d}.png") as image:
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), render_scene(3, index).image_hwc)


def test_a_larger_world_extends_a_smaller_one(folder: Path, tmp_path: Path) -> None:
    write_world(tmp_path, 10, 3)
    for name in ("images/000000.png", "images/000009.png"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    for name in ("captions.csv", "ratings.csv", "labels.csv"):
        assert (folder / name).read_text().startswith((tmp_path / name).read_text())


def test_annotations_are_sound_coco(folder: Path) -> None:
    coco = json.loads((folder / "annotations.json").read_text())
    images = {image["id"]: image for image in coco["images"]}
    names = {category["id"]: category["name"] for category in coco["categories"]}
    ids = [annotation["id"] for annotation in coco["annotations"]]
    assert len(images) == N
    assert len(set(ids)) == len(ids)
    assert all((folder / image["file_name"]).exists() for image in images.values())
    assert all((image["width"], image["height"]) == (64, 64) for image in images.values())
    for annotation in coco["annotations"]:
        mask = decode(annotation["segmentation"])
        rows, columns = np.nonzero(mask)
        left, top, width, height = annotation["bbox"]
        assert annotation["area"] == mask.sum() > 0
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())
        assert annotation["iscrowd"] == 0
        assert annotation["image_id"] in images
        assert annotation["category_id"] in names


def test_annotations_hold_every_object_part_and_watermark(folder: Path) -> None:
    coco = json.loads((folder / "annotations.json").read_text())
    names = {category["id"]: category["name"] for category in coco["categories"]}
    by_id = {annotation["id"]: annotation for annotation in coco["annotations"]}
    of_image = defaultdict(list)
    for annotation in coco["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    for index in range(N):
        scene = render_scene(3, index)
        found = {names[a["category_id"]]: a for a in of_image[index + 1]}
        for thing in scene.objects:
            same = [a for a in of_image[index + 1] if a["attributes"].get("position") == thing.position]
            assert any(np.array_equal(decode(a["segmentation"]), thing.mask_hw) for a in same)
            assert {a["attributes"].get("colour") for a in same} >= {thing.colour}
        assert ("watermark" in found) == (scene.watermark_hw is not None)
        for part in scene.whole.parts if scene.whole else ():
            parent = by_id[found[part]["attributes"]["part_of"]]
            assert names[parent["category_id"]] == scene.whole.kind
            assert parent["image_id"] == index + 1


def test_labels_are_the_values_of_the_scene(folder: Path) -> None:
    labels = defaultdict(lambda: defaultdict(set))
    rows = table(folder / "labels.csv")
    for row in rows:
        labels[row["image"]][row["attribute"]].add(row["value"])
    assert len({tuple(row.values()) for row in rows}) == len(rows)
    for index in range(N):
        scene, known = render_scene(3, index), labels[f"images/{index:06d}.png"]
        for attribute in ("shape", "colour", "texture", "size", "position"):
            assert known[attribute] == {getattr(thing, attribute) for thing in scene.objects}
        assert known["background_colour"] == {scene.background_colour}
        assert known["watermark"] == {"present" if scene.watermark_hw is not None else "absent"}
        assert known["split"] == {split_of(index)}
        assert known["part"] == (set(scene.whole.parts) if scene.whole else set())
        assert known["general"] == {"polygon", "round", "warm", "cool"} & scene.values()
        assert "class" not in known


def test_every_ten_images_hold_the_three_splits() -> None:
    for start in (0, 10, 990):
        splits = [split_of(index) for index in range(start, start + 10)]
        assert sorted(splits) == ["test"] * 2 + ["train"] * 7 + ["validation"]


def test_confounded_world_names_the_class(tmp_path: Path) -> None:
    write_world(tmp_path, 40, 1, confounded=True)
    classes = [row["value"] for row in table(tmp_path / "labels.csv") if row["attribute"] == "class"]
    shapes = [row["value"] for row in table(tmp_path / "labels.csv") if row["attribute"] == "shape"]
    assert len(classes) == 40
    assert classes == shapes
