"""Draws docs/pictures/features.jpg from a demo warehouse: for some values of the world, the patch feature for it.

    python docs/pictures/make_features.py demo.glasshouse

A row is a feature: its strongest images and, below each, where on the image it fires. Which feature stands for a value
is decided by the world's truth (share of images with the value among its 30 strongest), which only this world has; of
equal ones by who is active on the fewest patches of an image, since some tell of a thing from elsewhere in the picture.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from glasshouse.warehouse.warehouse import Warehouse

VALUES = (("shape", "star"), ("texture", "striped"), ("colour", "red"), ("watermark", "present"), ("whole", "face"))
SIDE, N_IMAGES, LABEL, GAP = 96, 8, 150, 6
SIZE = (SIDE, SIDE)

BEST_FEATURE = """
WITH top AS (
    SELECT feature_id, image_id, row_number() OVER (PARTITION BY feature_id ORDER BY value DESC, image_id) AS place
    FROM activations WHERE space = 'patches'
),
shown AS (SELECT DISTINCT image_id FROM image_labels WHERE attribute = $attribute AND value = $value)
SELECT feature_id, avg((image_id IN (FROM shown))::INTEGER) AS purity, count(*) AS n
FROM top JOIN features USING (feature_id) WHERE place <= 30 AND space = 'patches'
GROUP BY feature_id HAVING n = 30 ORDER BY purity DESC, any_value(n_tokens / n_active), feature_id LIMIT 1
"""


def main(root: str) -> None:
    """Draw one pair of rows for each value."""
    warehouse = Warehouse(root)
    height = 2 * SIDE + 3 * GAP
    sheet = Image.new("RGB", (LABEL + N_IMAGES * (SIDE + GAP), len(VALUES) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (attribute, value) in enumerate(VALUES):
        feature, purity, _ = warehouse.sql(BEST_FEATURE, {"attribute": attribute, "value": value}).row(0)
        y = row * height
        draw.text((8, y + SIDE // 2), f"patches:{feature}\n{attribute}: {value}\npurity {purity:.2f}", fill="black")
        for column, found in enumerate(warehouse.top_images("patches", feature, N_IMAGES).iter_rows(named=True)):
            x = LABEL + column * (SIDE + GAP)
            picture = Image.open(warehouse.root / found["path"]).convert("RGB").resize(SIZE, Image.Resampling.NEAREST)
            map_rc = warehouse.token_map("patches", feature, found["image_id"])
            sheet.paste(picture, (x, y))
            sheet.paste(overlay(picture, map_rc), (x, y + SIDE + GAP))
    sheet.save(Path(__file__).with_name("features.jpg"), quality=90)


def overlay(picture: Image.Image, map_rc: np.ndarray) -> Image.Image:
    """Darken a picture where the feature is silent."""
    heat = Image.fromarray((255 * map_rc / map_rc.max()).astype(np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    return Image.composite(picture, Image.eval(picture, lambda pixel: pixel // 5), heat)


if __name__ == "__main__":
    main(sys.argv[1])
