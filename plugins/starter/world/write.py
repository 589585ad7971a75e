"""Writes a world to a folder: images, captions, ratings, labels, and COCO annotations."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from PIL import Image

from glasshouse.plugins.starter.world.captions import captions_of
from glasshouse.plugins.starter.world.coco import CATEGORIES, annotations_of
from glasshouse.plugins.starter.world.ratings import ratings_of
from glasshouse.plugins.starter.world.scene import Cue, Scene, check_cue, render_scene
from glasshouse.plugins.starter.world.vocabulary import (
    GENERAL_WORDS,
    IMAGE_SIZE,
    OBJECT_ATTRIBUTES,
    SCENE_ATTRIBUTES,
    STRIPE_KINDS,
)

_SPLITS: Final = ("train",) * 7 + ("validation",) + ("test",) * 2
_SPLIT_STEP: Final = 7
"""Prime to the number of splits, so that any ten images in a row hold all three."""

_TABLES: Final[dict[str, tuple[str, ...]]] = {
    "captions": ("image", "caption"),
    "ratings": ("image", "dimension", "rater", "value"),
    "labels": ("image", "attribute", "value"),
}


def split_of(index: int) -> str:
    """The split of image `index`: 70 % train, 10 % validation, 20 % test, whatever the size of the world."""
    return _SPLITS[index * _SPLIT_STEP % len(_SPLITS)]


def labels_of(scene: Scene, *, confounded: bool = False) -> Iterator[tuple[str, str]]:
    """(attribute, value) pairs that are true of a scene, each once."""
    values = scene.values()
    yield "split", split_of(scene.index)
    for attribute in OBJECT_ATTRIBUTES:
        for value in dict.fromkeys(getattr(thing, attribute) for thing in scene.objects):
            yield attribute, value
    for attribute in ("background_colour", "background_pattern"):
        yield attribute, next(v for v in SCENE_ATTRIBUTES[attribute] if v in values)
    yield "watermark", "present" if scene.watermark_hw is not None else "absent"
    for attribute, words in (("general", tuple(GENERAL_WORDS)), ("stripes", STRIPE_KINDS)):
        yield from ((attribute, word) for word in words if word in values)
    if scene.whole is not None:
        yield "whole", scene.whole.kind
        yield from (("part", part) for part in scene.whole.parts)
    if confounded:
        yield "class", scene.objects[0].shape


def write_world(
    folder: Path,
    n_images: int,
    seed: int,
    *,
    confounded: bool = False,
    cue: Cue | float = "as trained",
    progress: Callable[[int], None] | None = None,
) -> None:
    """Render a world into a folder.

    Writes `images/NNNNNN.png` (64x64 RGB), `captions.csv` (image, caption), `ratings.csv` (image, dimension, rater,
    value), `labels.csv` (image, attribute, value) and `annotations.json` (COCO instances with uncompressed run
    lengths). `image` is the path relative to the folder. Image i depends on (seed, i) alone: a larger world
    begins with the images of a smaller one.

    Args:
        folder: made when missing; files of an earlier world are overwritten.
        n_images: number of images.
        seed: seed of the world.
        confounded: one object per image, whose shape is the label `class`; the watermark is on 99 % of the class
            `heart` and on 0.3 % of the others.
        cue: where a confounded world has the watermark instead; see `render_scene`.
        progress: called after each image with the number of images written so far.

    Raises:
        UsageError: a `cue` that is unknown, or that of a world which is not confounded.
    """
    check_cue(confounded, cue)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    coco: dict[str, list[Any]] = {"images": [], "categories": list(CATEGORIES), "annotations": []}
    with ExitStack() as stack:
        tables = {name: _open_table(folder / f"{name}.csv", stack, header) for name, header in _TABLES.items()}
        for index in range(n_images):
            scene = render_scene(seed, index, confounded=confounded, cue=cue)
            image = f"images/{index:06d}.png"
            Image.fromarray(scene.image_hwc).save(folder / image, compress_level=4)
            tables["captions"].writerows((image, caption.text) for caption in captions_of(scene))
            tables["ratings"].writerows((image, *rating) for rating in ratings_of(scene))
            tables["labels"].writerows((image, *label) for label in labels_of(scene, confounded=confounded))
            size = {"width": IMAGE_SIZE, "height": IMAGE_SIZE}
            coco["images"].append({"id": index + 1, "file_name": image, **size})
            coco["annotations"] += annotations_of(scene, index + 1, len(coco["annotations"]) + 1)
            if progress is not None:
                progress(index + 1)
    text = json.dumps(coco, separators=(",", ":"))
    (folder / "annotations.json").write_text(text, encoding="utf-8")


def _open_table(path: Path, stack: ExitStack, header: tuple[str, ...]) -> Any:
    """A CSV writer whose header is written; the stack closes its file."""
    writer = csv.writer(stack.enter_context(path.open("w", newline="", encoding="utf-8")))
    writer.writerow(header)
    return writer
