"""Trains the starter's second encoder: a small Dinov2Model that shares nothing with the CLIP but the world.

No text, other images, another seed. In this world colour and position alone tell which two views belong together, which
leaves self-supervision nothing to learn. So it learns from labels: attribute losses and kernel alignment, which shapes
the space in which neighbours are sought.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from glasshouse.plugins.starter.models import DINOV2, PIXEL_MEAN, PIXEL_STD, new_dinov2, pixels, quiet_transformers
from glasshouse.plugins.starter.training.clip import Report
from glasshouse.plugins.starter.training.data import PictureSet
from glasshouse.plugins.starter.training.losses import (
    AuxiliaryHeads,
    DenseTargets,
    grid_positions,
    patch_masks,
    unpack_bits,
)
from glasshouse.plugins.starter.training.optimizers import Optimizers
from glasshouse.plugins.starter.training.precision import fast_matrices
from glasshouse.plugins.starter.training.schedule import (
    Batches,
    kept_patches,
    n_kept_patches,
)
from glasshouse.plugins.starter.world.vocabulary import CORE_ATTRIBUTES

N_PICTURES: Final = 30_000
BATCH: Final = 192
STEPS: Final = 700
SEED_OFFSET: Final = 1
"""Added to the seed, so that no initial weight agrees with the CLIP's."""
ALIGNMENT_WEIGHT: Final = 20.0
LABEL_WEIGHT: Final[dict[str, float]] = {
    "shape": 1.7, "colour": 1.3, "texture": 1.5, "size": 1.2, "position": 1.3,
    "background_colour": 1.05, "background_pattern": 1.6, "watermark": 2.4,
}  # fmt: skip
"""How much each attribute counts when two images are compared.

Shape and texture are the hardest to see; the watermark is rare, so it varies little and needs the largest weight.
"""


def label_vectors(facts_b32: npt.NDArray[np.uint64]) -> torch.Tensor:
    """Weighted label vectors [batch, 36], centred on the batch; unknown values count by half."""
    union_b2 = np.bitwise_or.reduce(facts_b32, axis=1)
    columns = []
    for attribute, values in CORE_ATTRIBUTES.items():
        certain_bv, possible_bv = unpack_bits(union_b2[:, 0], values), unpack_bits(union_b2[:, 1], values)
        label_bv = (certain_bv + possible_bv) / 2
        label_bv = label_bv / label_bv.norm(dim=1, keepdim=True).clamp(min=1.0)
        columns.append(LABEL_WEIGHT[attribute] * (label_bv - label_bv.mean(0)))
    return torch.cat(columns, dim=1)


def alignment_loss(embedding_bd: torch.Tensor, label_bv: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the cosines of embeddings and of label vectors, over pairs of images."""
    embedding_bd = embedding_bd - embedding_bd.mean(0)
    actual_bb = F.normalize(embedding_bd, dim=1) @ F.normalize(embedding_bd, dim=1).T
    wanted_bb = F.normalize(label_bv, dim=1) @ F.normalize(label_bv, dim=1).T
    off_diagonal = ~torch.eye(len(label_bv), dtype=torch.bool)
    return F.mse_loss(actual_bb[off_diagonal], wanted_bb[off_diagonal])


def image_tokens(model: Any, pixels_bchw: torch.Tensor, kept_bk: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """CLS embedding [batch, 96] and the tokens [batch, kept, 96] that enter the last layer."""
    x_btd = model.embeddings(pixels_bchw)
    patches_btd = x_btd[:, 1:].gather(1, kept_bk[:, :, None].expand(-1, -1, x_btd.shape[-1]))
    x_btd = torch.cat([x_btd[:, :1], patches_btd], dim=1)
    *early, last = model.encoder.layer
    for layer in early:
        x_btd = layer(x_btd)
    return model.layernorm(last(x_btd)[:, 0]), x_btd[:, 1:]


def train_dinov2(pictures: PictureSet, seed: int, steps: int = STEPS, report: Report | None = None) -> Any:
    """Train on pictures; returns the model. `report` gets the step and its losses."""
    rng = np.random.default_rng((seed, 2000))
    model = new_dinov2(seed + SEED_OFFSET).train()
    width = DINOV2["hidden_size"]
    heads = AuxiliaryHeads(width, width)
    with torch.no_grad():
        model.embeddings.position_embeddings.copy_(grid_positions(width)[None])
    optimizers = Optimizers(model.encoder.layer, model, heads)
    batches = Batches(pictures, BATCH, rng)
    for step in range(steps):
        progress = step / steps
        chosen = batches.draw(progress)
        facts_bt = pictures.patch_facts_nt[chosen]
        kept_bk = kept_patches(facts_bt, n_kept_patches(progress), rng)
        with fast_matrices():
            embedding_bd, tokens_btd = image_tokens(model, pixels(pictures.images_nhwc[chosen]), kept_bk)
        embedding_bd, tokens_btd = embedding_bd.float(), tokens_btd.float()
        masks_btp = torch.from_numpy(patch_masks(pictures.masks_np[chosen]))
        masks_bkp = masks_btp.gather(1, kept_bk[:, :, None].expand(-1, -1, masks_btp.shape[-1])).float()
        targets = DenseTargets(np.take_along_axis(facts_bt, kept_bk.numpy(), axis=1), masks_bkp)
        losses = {
            "alignment": alignment_loss(embedding_bd, label_vectors(pictures.facts_n32[chosen])),
            "image": heads.image_loss(embedding_bd, pictures.facts_n32[chosen]),
            "token": heads.token_loss(tokens_btd, targets),
        }
        total = ALIGNMENT_WEIGHT * losses["alignment"] + (1 - progress) * (6.0 * losses["image"] + losses["token"])
        optimizers.step(total, progress)
        if report is not None:
            report(step + 1, {name: loss.item() for name, loss in losses.items()})
    return model.eval()


def save_dinov2(model: Any, folder: Path) -> None:
    """Write the weights (float16), the configuration and the preprocessing that transformers reads."""
    half = new_dinov2(0)
    half.load_state_dict(model.state_dict())
    with quiet_transformers():
        half.half().save_pretrained(folder)
    preprocessing = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": DINOV2["image_size"]},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": DINOV2["image_size"], "width": DINOV2["image_size"]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [PIXEL_MEAN] * 3,
        "image_std": [PIXEL_STD] * 3,
    }
    text = json.dumps(preprocessing, indent=2) + "\n"
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
