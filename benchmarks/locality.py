"""Locality of all features of a patch space on masked images, against decoding a mask for each comparison.

The peer does what a loop over features does: for each map of a feature's top images it decodes the image's masks and
compares them pixel by pixel. A sample of maps is timed and the rest extrapolated; the table says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco_mask

from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import say, seconds
from glasshouse.plugins.analyzers.locality import LocalityParameters, comparisons, masked_images
from glasshouse.plugins.view import AnalysisView
from glasshouse.warehouse.warehouse import Warehouse

N_IMAGES = 2_000
N_MASKS = 7
"""Masks of an image, as many as in COCO: ellipses of random size on pictures of 640 x 480."""
N_CATEGORIES = 80
N_IN_LOOP = 200
HEIGHT, WIDTH = 480, 640


def run(setting: Setting) -> Iterator[Row]:
    """Yield the time for all features."""
    shape, warehouse = setting.shapes[1], setting.ready
    n_images = min(N_IMAGES, shape.n_images)
    say(f"  writing {N_MASKS} masks on each of {n_images:,} images")
    annotate(warehouse, n_images)

    def once() -> None:
        warehouse.analyze("locality", shape.name, force=True)

    once()
    ours = statistics.median(seconds(once) for _ in range(setting.repeats))
    loop = by_map(warehouse, shape.name)
    what = f"{shape.name}: all {shape.n_features:,} features on {n_images:,} images with {N_MASKS} masks each, written"
    against = f"{loop:.0f} s decoding for each map (extrapolated from {N_IN_LOOP} maps)"
    yield Row("locality", what, f"{ours:.1f} s", against, loop / ours, "<= 30 s", ours <= 30)


def annotate(warehouse: Warehouse, n_images: int) -> None:
    """Write masks of the first images."""
    rng = np.random.default_rng(2)
    y_h, x_w = np.arange(HEIGHT)[:, None], np.arange(WIDTH)[None, :]
    pool = []
    for _ in range(200):
        centre_y, centre_x, reach_y, reach_x = rng.random(4) * (HEIGHT, WIDTH, 150, 200) + (0, 0, 8, 8)
        mask_hw = ((y_h - centre_y) / reach_y) ** 2 + ((x_w - centre_x) / reach_x) ** 2 <= 1
        pool.append(coco_mask.encode(np.asfortranarray(mask_hw.astype(np.uint8)))["counts"].decode("ascii"))
    number_m = np.arange(n_images * N_MASKS)
    rows = {
        "annotation_id": number_m,
        "image_id": (number_m // N_MASKS).astype(np.int32),
        "category": [f"category {c}" for c in rng.integers(0, N_CATEGORIES, len(number_m))],
        "mask_rle": [pool[i] for i in rng.integers(0, len(pool), len(number_m))],
    }
    with warehouse.catalogue.writing() as connection:
        connection.register("rows", pa.table(rows))
        connection.execute("DELETE FROM annotations")
        connection.execute(
            "INSERT INTO annotations BY NAME SELECT *, false AS is_crowd, $height AS mask_height, "
            "$width AS mask_width, 'synthetic' AS source FROM rows",
            {"height": HEIGHT, "width": WIDTH},
        )
        connection.execute("INSERT OR REPLACE INTO revisions VALUES ('annotations', 1)")


def by_map(warehouse: Warehouse, space: str) -> float:
    """Seconds of a loop over all maps that decodes the masks for each of them."""
    view = AnalysisView(warehouse, space)
    pairs = comparisons(view, masked_images(view, "category"), LocalityParameters())
    own = pairs.filter(~pairs["is_shuffled"])
    some = own.sample(min(N_IN_LOOP, own.height), seed=0).select("feature_id", "image_id").rows()

    def loop() -> None:
        for feature, image in some:
            _compare(warehouse, space, feature, image)

    return seconds(loop) * own.height / len(some)


def _compare(warehouse: Any, space: str, feature: int, image: int) -> float:
    map_rc = warehouse.token_map(space, feature, image)
    rows = np.arange(HEIGHT) * map_rc.shape[0] // HEIGHT
    columns = np.arange(WIDTH) * map_rc.shape[1] // WIDTH
    above_hw = (map_rc >= map_rc.max() / 2)[rows][:, columns]
    masks = [mask.mask_hw for mask in warehouse.masks(image)]
    return max(float((above_hw & mask_hw).sum() / (above_hw | mask_hw).sum()) for mask_hw in masks)
