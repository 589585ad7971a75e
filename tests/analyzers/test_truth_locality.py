"""Locality on the starter world: features of patches lie on the masks of what they stand for; controls do not.

Of each value the feature of highest IoU counts, among those with twenty top images. The controls are chosen in the same
way: from the dictionary trained on a CLIP with initial weights, and from maps laid on the masks of other images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from kit.patch_space import make_patch_space

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.starter.activations import clip_activations
from glasshouse.plugins.starter.dictionary import Dictionary
from glasshouse.plugins.starter.models import clip_vocab_size, data_folder, new_clip
from glasshouse.plugins.starter.world.vocabulary import OBJECT_ATTRIBUTES
from glasshouse.plugins.starter.world.write import write_world
from glasshouse.warehouse.showing.pictures import pictures
from glasshouse.warehouse.warehouse import Warehouse

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")]

N, K = 2000, 20
GROUPS = {"shape": "category", "colour": "colour", "texture": "texture", "watermark": "category"}


@pytest.fixture(scope="module")
def masked_world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a warehouse of rendered scenes with masks: spaces `patches` and `untrained`."""
    folder = tmp_path_factory.mktemp("masked")
    plugins = Plugins(external=False)
    write_world(folder / "world", N, 0)
    warehouse = Warehouse.create(folder / "w.glasshouse", plugins)
    warehouse.add([folder / "world" / "images"], annotations=[folder / "world" / "annotations.json"])
    preset = plugins.presets.get("starter")
    chosen = [(space.name, space.hook, space.tokens, space.sae) for space in preset.spaces if space.name == "patches"]
    warehouse.extract(preset.encoder, chosen)
    make_patch_space(warehouse, "untrained", untrained_codes(warehouse), (8, 8))
    yield warehouse
    warehouse.close()


@torch.no_grad()
def untrained_codes(warehouse: Any) -> np.ndarray[Any, Any]:
    """Activations [images, tokens, features] of the control dictionary on a CLIP with initial weights."""
    seen_nhwc = np.stack([np.asarray(picture) for _, picture in pictures(warehouse, range(N))])
    acts = clip_activations(new_clip(clip_vocab_size(), 0), seen_nhwc)
    dictionary = Dictionary.load(data_folder("control-sae-patches"))
    return np.stack([dictionary.encode(tokens_td).numpy() for tokens_td in acts.patches_ntd])


def found(warehouse: Any, space: str, group: str, **parameters: Any) -> dict[str, float]:
    """Mean over the values of a group: IoU and pointing of each value's best feature, and the best shuffled IoU."""
    (report,) = warehouse.analyze("locality", space, attribute=GROUPS[group], **parameters)
    rows = warehouse.result_rows(report.run).filter(pl.col("n_images") == K)
    values = OBJECT_ATTRIBUTES.get(group, ("watermark",))
    best = [rows.filter(category=value).sort("iou", descending=True).row(0, named=True) for value in values]
    shuffled = [rows.filter(category=value)["iou_shuffled"].max() for value in values]
    return {
        "iou": float(np.mean([row["iou"] for row in best])),
        "pointing": float(np.mean([row["pointing"] for row in best])),
        "shuffled": float(np.mean(shuffled)),
    }


@pytest.mark.parametrize(
    ("group", "target"), [("shape", 0.75), ("colour", 0.75), ("texture", 0.75), ("watermark", 0.65)]
)
def test_features_lie_on_what_they_stand_for(masked_world: Any, group: str, target: float) -> None:
    trained, untrained = found(masked_world, "patches", group), found(masked_world, "untrained", group)
    print(group, trained, untrained)
    assert trained["iou"] >= target and trained["pointing"] >= 0.95
    assert trained["iou"] > untrained["iou"] + 0.1
    assert trained["iou"] > trained["shuffled"] + 0.1
