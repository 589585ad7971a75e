"""A scene as COCO instance annotations, with run-length masks written by hand."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.starter.world.scene import Scene
from glasshouse.plugins.starter.world.vocabulary import OBJECT_ATTRIBUTES, PARTS, WHOLES

BoolArray = npt.NDArray[np.bool_]

_GROUPS: Final = (
    ("shape", OBJECT_ATTRIBUTES["shape"]),
    ("whole", tuple(WHOLES)),
    ("part", PARTS),
    ("overlay", ("watermark",)),
)
CATEGORIES: Final[tuple[dict[str, Any], ...]] = tuple(
    {"id": number, "name": name, "supercategory": group}
    for number, (group, name) in enumerate(((g, n) for g, names in _GROUPS for n in names), start=1)
)
_CATEGORY_ID: Final[dict[str, int]] = {c["name"]: c["id"] for c in CATEGORIES}


def run_lengths(mask_hw: BoolArray) -> list[int]:
    """Lengths of alternating runs of a mask read column by column, beginning with a run of zeros."""
    flat = np.concatenate([[False], mask_hw.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    lengths = np.diff(np.concatenate([[0], changes, [mask_hw.size]]))
    return [int(length) for length in lengths]


def _annotation(number: int, image_id: int, name: str, mask_hw: BoolArray, attributes: dict[str, Any]) -> Any:
    rows, columns = np.flatnonzero(mask_hw.any(1)), np.flatnonzero(mask_hw.any(0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": _CATEGORY_ID[name],
        "bbox": [int(v) for v in box],
        "area": int(mask_hw.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask_hw.shape), "counts": run_lengths(mask_hw)},
        "attributes": attributes,
    }


def annotations_of(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """COCO annotations of every object, whole, part and the watermark.

    Args:
        scene: the scene.
        image_id: its id in the file.
        first_id: id of the first annotation; the others count on.
    """
    found: list[dict[str, Any]] = []

    def add(name: str, mask_hw: BoolArray, attributes: dict[str, Any]) -> int:
        number = first_id + len(found)
        found.append(_annotation(number, image_id, name, mask_hw, attributes))
        return number

    for thing in scene.objects:
        attributes: dict[str, Any] = {name: getattr(thing, name) for name in OBJECT_ATTRIBUTES}
        if thing.stripes:
            attributes["stripes"] = thing.stripes
        add(thing.shape, thing.mask_hw, attributes)
    if scene.whole is not None:
        parent = add(scene.whole.kind, scene.whole.mask_hw, {"position": scene.whole.position})
        for part, mask_hw in scene.whole.parts.items():
            add(part, mask_hw, {"part_of": parent})
    if scene.watermark_hw is not None:
        add("watermark", scene.watermark_hw, {})
    return found
