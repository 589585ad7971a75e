"""Segmentation on the rendered world: mean IoU of concepts with masks of shapes, colours and textures, and controls.

The controls: a CLIP with initial weights, with the dictionary that was trained on it, through the same encoder and the
same analysis; and the texts of the classes shuffled. Nothing was chosen by these figures.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.starter.models import clip_vocab_size, data_folder, new_clip
from glasshouse.plugins.starter.plugin import DINOISED_BLOCK
from glasshouse.plugins.starter.world.vocabulary import CORE_ATTRIBUTES
from glasshouse.plugins.starter.world.write import write_world
from glasshouse.warehouse.warehouse import Warehouse

GROUPS = {"shape": ("category", "a {}"), "colour": ("colour", "a {} shape"), "texture": ("texture", "a {} shape")}
"""What groups the masks of an attribute's values, and the template in which a value is asked for."""

BACKGROUND = ("background",)
SPACE, UNTRAINED = "dinoised", "untrained"


class Segmentation(NamedTuple):
    """Mean IoU over the values of an attribute."""

    concepts: float
    features: float
    shuffled: float
    untrained: float
    with_background: float


def segment_world(folder: Path, n_images: int, seed: int = 0) -> Warehouse:
    """Render scenes with their masks; extract the space in CLIP's space, and that of the untrained CLIP."""
    plugins = Plugins(external=False)
    write_world(folder / "world", n_images, seed)
    warehouse = Warehouse.create(folder / "segment.glasshouse", plugins)
    warehouse.add([folder / "world" / "images"], annotations=[folder / "world" / "annotations.json"])
    warehouse.extract("starter:dinoised", [(SPACE, "dinoised", "patches", "starter:sae-dinoised")])
    control = str(data_folder("control-sae-dinoised"))
    warehouse.extract(untrained_encoder(folder / "clip"), [(UNTRAINED, "dinoised", "patches", control)])
    return warehouse


def untrained_encoder(folder: Path) -> str:
    """Write a CLIP with initial weights to a folder; return the spec of the encoder that the starter's would be."""
    shutil.copytree(data_folder("clip"), folder)
    weights = {name: tensor.contiguous() for name, tensor in new_clip(clip_vocab_size(), 0).state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    dino = f"affinity=hf:{data_folder('dinov2')},by=patches,block={DINOISED_BLOCK}"
    return f"dinoised:open_clip:{folder}#{dino}"


def segmentation(warehouse: Warehouse, attribute: str) -> Segmentation:
    """Measure one of `GROUPS`."""
    plain = notes(warehouse, SPACE, attribute)
    return Segmentation(
        plain["miou_concepts"],
        plain["miou_features"],
        plain["miou_shuffled"],
        notes(warehouse, UNTRAINED, attribute, features=False)["miou_concepts"],
        notes(warehouse, SPACE, attribute, features=False, background=BACKGROUND)["miou_concepts"],
    )


def notes(warehouse: Warehouse, space: str, attribute: str, **parameters: Any) -> dict[str, Any]:
    """Run the analysis on every image; return its notes."""
    group, template = GROUPS[attribute]
    given = {"attribute": group, "classes": CORE_ATTRIBUTES[attribute], "templates": (template,), "images": 0}
    (report,) = warehouse.analyze("segment", space, **given, **parameters)
    return dict(report.run.notes)
