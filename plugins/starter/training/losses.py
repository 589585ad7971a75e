"""Losses of the starter models.

Owns the contrastive loss for captions that are true of several images, and the auxiliary losses from the ground
truth that make small models learn in minutes. The auxiliary heads are thrown away after training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from glasshouse.plugins.starter.training.data import GRID, PATCH
from glasshouse.plugins.starter.world.truth import FALSE, TRUE
from glasshouse.plugins.starter.world.vocabulary import ALL_VALUES, BIT, OBJECT_ATTRIBUTES, PARTS, WHOLES

_CLASSES: Final[dict[str, tuple[str, ...]]] = {name: OBJECT_ATTRIBUTES[name] for name in ("shape", "texture", "colour")}
_CLASS_WEIGHT: Final[dict[str, float]] = {"shape": 3.0, "texture": 1.5, "colour": 1.0}
_MARKS: Final[tuple[str, ...]] = (*WHOLES, *PARTS, "watermark", "thin", "thick")
_MASK_WEIGHT: Final = 2.0


def unpack_bits(facts: npt.NDArray[np.uint64], values: tuple[str, ...] = ALL_VALUES) -> torch.Tensor:
    """Bit sets [...] to floats [..., n_values]: 1 where the value holds."""
    positions = np.array([BIT[value] for value in values], dtype=np.uint64)
    return torch.from_numpy((facts[..., None] >> positions & np.uint64(1)).astype(np.float32))


def caption_loss(
    image_embedding_bd: torch.Tensor, text_embedding_bd: torch.Tensor, truth_cb: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Contrastive loss when a caption may be true of several images of the batch.

    Text to image: mean log-probability of all images of which the caption is true (the unified contrastive loss of
    Yang et al. 2022, arXiv 2204.03610). Image to text: the image's own caption, other true ones left out. Pairs of
    unknown truth are left out of both.

    Args:
        image_embedding_bd: unit image embeddings [batch, width].
        text_embedding_bd: unit caption embeddings, row i made from image i.
        truth_cb: truth [captions, images]: 1 true, 0 false, -1 unknown.
        scale: factor of the cosines.
    """
    logits_cb = scale * text_embedding_bd @ image_embedding_bd.T
    true_cb = (truth_cb == TRUE).float()
    unknown_cb = (truth_cb != TRUE) & (truth_cb != FALSE)
    log_p_cb = F.log_softmax(logits_cb.masked_fill(unknown_cb, -1e4), dim=1)
    text_to_image = -((true_cb * log_p_cb).sum(1) / true_cb.sum(1).clamp(min=1)).mean()
    own = torch.eye(len(truth_cb), dtype=torch.bool)
    others_left_out_cb = logits_cb.masked_fill((truth_cb != FALSE) & ~own, -1e4)
    image_to_text = F.cross_entropy(others_left_out_cb.T, torch.arange(len(truth_cb)))
    return 0.5 * (text_to_image + image_to_text)


@dataclass(frozen=True)
class DenseTargets:
    """What lies on the kept patches: facts_bt uint64, mask_btp [batch, token, 64 pixels] float."""

    facts_bt: npt.NDArray[np.uint64]
    mask_btp: torch.Tensor


def patch_masks(masks_bp: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Packed masks [batch, 512] to pixels by patch [batch, 64, 64]."""
    pixels = np.unpackbits(masks_bp, axis=1).reshape(-1, GRID, PATCH, GRID, PATCH)
    return pixels.transpose(0, 1, 3, 2, 4).reshape(len(masks_bp), GRID * GRID, PATCH * PATCH)


class AuxiliaryHeads(nn.Module):
    """Linear heads on the image embedding and on patch tokens, for training only."""

    def __init__(self, image_width: int, token_width: int) -> None:
        super().__init__()
        self.attributes = nn.Linear(image_width, len(ALL_VALUES))
        self.classes = nn.ModuleDict({name: nn.Linear(token_width, len(values)) for name, values in _CLASSES.items()})
        self.marks = nn.Linear(token_width, len(_MARKS))
        self.mask = nn.Linear(token_width, PATCH * PATCH)

    def image_loss(self, image_bd: torch.Tensor, facts_b32: npt.NDArray[np.uint64]) -> torch.Tensor:
        """Mean binary cross-entropy of every value, where it is known whether it holds."""
        union_b2 = np.bitwise_or.reduce(facts_b32, axis=1)
        certain_bv, possible_bv = unpack_bits(union_b2[:, 0]), unpack_bits(union_b2[:, 1])
        known_bv = (certain_bv == possible_bv).float()
        losses_bv = F.binary_cross_entropy_with_logits(self.attributes(image_bd), certain_bv, reduction="none")
        return (losses_bv * known_bv).sum() / known_bv.sum()

    def token_loss(self, tokens_btd: torch.Tensor, targets: DenseTargets) -> torch.Tensor:
        """Classes of the object on each patch, marks (wholes, parts, watermark, stripes), and its pixels."""
        loss = _MASK_WEIGHT * F.binary_cross_entropy_with_logits(self.mask(tokens_btd), targets.mask_btp)
        for name, values in _CLASSES.items():
            one_hot_btv = unpack_bits(targets.facts_bt, values)
            there_bt = one_hot_btv.sum(-1) > 0
            logits = self.classes[name](tokens_btd[there_bt])
            loss = loss + _CLASS_WEIGHT[name] * F.cross_entropy(logits, one_hot_btv[there_bt].argmax(-1))
        marks_btv = unpack_bits(targets.facts_bt, _MARKS)
        return loss + 2.0 * F.binary_cross_entropy_with_logits(self.marks(tokens_btd), marks_btv)


def grid_positions(width: int, scale: float = 0.7) -> torch.Tensor:
    """Sine-cosine positions [1 + 64, width] of the CLS token (zero) and the patches, as a starting point."""
    quarter = width // 4
    frequency = 1.0 / 100.0 ** (torch.arange(quarter) / quarter)
    y, x = torch.meshgrid(torch.arange(GRID).float(), torch.arange(GRID).float(), indexing="ij")
    parts = [f(c.reshape(-1, 1) * frequency) for c in (x, y) for f in (torch.sin, torch.cos)]
    grid = torch.cat(parts, dim=1)
    return scale * torch.cat([torch.zeros(1, grid.shape[1]), grid])
