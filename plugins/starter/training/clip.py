"""Trains the starter's CLIP: contrastive on captions, with auxiliary losses from the truth that fade away."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from glasshouse.plugins.starter.models import (
    CLIP_EMBEDDING,
    CLIP_TEXT,
    CLIP_VISION,
    PIXEL_MEAN,
    PIXEL_STD,
    clip_tokenizer,
    new_clip,
    pixels,
)
from glasshouse.plugins.starter.training.data import PictureSet
from glasshouse.plugins.starter.training.losses import (
    AuxiliaryHeads,
    DenseTargets,
    caption_loss,
    grid_positions,
    patch_masks,
)
from glasshouse.plugins.starter.training.optimizers import Optimizers
from glasshouse.plugins.starter.training.precision import fast_matrices
from glasshouse.plugins.starter.training.schedule import (
    Batches,
    kept_patches,
    n_kept_patches,
)
from glasshouse.plugins.starter.training.tokens import token_table
from glasshouse.plugins.starter.world.truth import pack_captions, truth_matrix

N_PICTURES: Final = 40_000
N_CAPTIONS: Final = 5
BATCH: Final = 192
STEPS: Final = 2_000
IMAGE_LOSS_WEIGHT: Final = 6.0
LARGEST_SCALE: Final = math.log(100.0)
Report = Callable[[int, dict[str, float]], None]


@dataclass
class _Step:
    """The pictures of one training step and how far training is."""

    chosen: np.ndarray[Any, np.dtype[np.int64]]
    progress: float
    rng: np.random.Generator


def image_tokens(visual: Any, pixels_bchw: torch.Tensor, kept_bk: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Image embedding [batch, 128] and patch tokens before the last block [batch, kept, 128].

    The same computation as open_clip's own, on a choice of patches; in the last block only the CLS token is
    followed, since nothing else reaches the embedding.
    """
    patches_btd = visual.conv1(pixels_bchw).flatten(2).transpose(1, 2) + visual.positional_embedding[1:]
    patches_btd = patches_btd.gather(1, kept_bk[:, :, None].expand(-1, -1, patches_btd.shape[-1]))
    cls_b1d = (visual.class_embedding + visual.positional_embedding[0]).expand(len(patches_btd), 1, -1)
    x_btd = visual.ln_pre(torch.cat([cls_b1d, patches_btd], dim=1))
    *early, last = visual.transformer.resblocks
    for block in early:
        x_btd = block(x_btd)
    normed_btd = last.ln_1(x_btd)
    attended_b1d, _ = last.attn(normed_btd[:, :1], normed_btd, normed_btd, need_weights=False)
    out_b1d = x_btd[:, :1] + attended_b1d
    out_b1d = out_b1d + last.mlp(last.ln_2(out_b1d))
    return visual.ln_post(out_b1d[:, 0]) @ visual.proj, x_btd[:, 1:]


def _losses(
    model: Any, heads: AuxiliaryHeads, pictures: PictureSet, tokens_nkl: Any, required_nk3: Any, step: _Step
) -> dict[str, torch.Tensor]:
    chosen, rng = step.chosen, step.rng
    caption_b = rng.integers(required_nk3.shape[1], size=len(chosen))
    patch_facts_bt = pictures.patch_facts_nt[chosen]
    kept_bk = kept_patches(patch_facts_bt, n_kept_patches(step.progress), rng)
    with fast_matrices():
        embedding_bd, tokens_btd = image_tokens(model.visual, pixels(pictures.images_nhwc[chosen]), kept_bk)
    embedding_bd, tokens_btd = embedding_bd.float(), tokens_btd.float()
    text_bl = tokens_nkl[chosen, caption_b].astype(np.int64)
    text_bl = torch.from_numpy(text_bl[:, : int((text_bl > 0).sum(1).max())])
    text_bd = _encode_short(model, text_bl)
    truth_cb = torch.from_numpy(truth_matrix(required_nk3[chosen, caption_b], pictures.facts_n32[chosen]))
    facts_bk = np.take_along_axis(patch_facts_bt, kept_bk.numpy(), axis=1)
    masks_btp = torch.from_numpy(patch_masks(pictures.masks_np[chosen]))
    masks_bkp = masks_btp.gather(1, kept_bk[:, :, None].expand(-1, -1, masks_btp.shape[-1])).float()
    normed_bd = F.normalize(embedding_bd, dim=-1)
    return {
        "caption": caption_loss(normed_bd, F.normalize(text_bd, dim=-1), truth_cb, model.logit_scale.exp()),
        "image": heads.image_loss(embedding_bd, pictures.facts_n32[chosen]),
        "token": heads.token_loss(tokens_btd, DenseTargets(facts_bk, masks_bkp)),
    }


def _encode_short(model: Any, text_bl: torch.Tensor) -> torch.Tensor:
    """Text embedding of tokens that are cut to the longest caption; attention is causal, so nothing is lost."""
    length = text_bl.shape[1]
    x_bld = model.token_embedding(text_bl) + model.positional_embedding[:length]
    x_bld = model.ln_final(model.transformer(x_bld, attn_mask=model.attn_mask[:length, :length]))
    embedding_bd: torch.Tensor = x_bld[torch.arange(len(text_bl)), text_bl.argmax(-1)] @ model.text_projection
    return embedding_bd


def train_clip(
    pictures: PictureSet, folder: Path, vocab_size: int, seed: int, steps: int = STEPS, report: Report | None = None
) -> Any:
    """Train on pictures with the tokenizer in `folder`; returns the model.

    `report` gets the step and the losses of it, after every step.
    """
    rng = np.random.default_rng((seed, 1000))
    model = new_clip(vocab_size, seed).train()
    heads = AuxiliaryHeads(CLIP_EMBEDDING, CLIP_VISION["width"])
    with torch.no_grad():
        model.visual.positional_embedding.copy_(grid_positions(CLIP_VISION["width"]))
    tokens_nkl = token_table([[c.text for c in cs] for cs in pictures.captions], clip_tokenizer(folder))
    required_nk3 = np.stack([pack_captions(captions) for captions in pictures.captions])
    blocks = [*model.visual.transformer.resblocks, *model.transformer.resblocks]
    optimizers = Optimizers(blocks, model, heads)
    batches = Batches(pictures, BATCH, rng)
    for step in range(steps):
        progress = step / steps
        now = _Step(batches.draw(progress), progress, rng)
        losses = _losses(model, heads, pictures, tokens_nkl, required_nk3, now)
        fading = 1.0 - progress
        total = losses["caption"] + fading * (IMAGE_LOSS_WEIGHT * losses["image"] + losses["token"])
        optimizers.step(total, progress)
        with torch.no_grad():
            model.logit_scale.clamp_(max=LARGEST_SCALE)
        if report is not None:
            report(step + 1, {name: loss.item() for name, loss in losses.items()})
            if (step + 1) % 500 == 0 and step + 1 < steps:
                save_clip(model, folder, vocab_size)
    return model.eval()


def save_clip(model: Any, folder: Path, vocab_size: int) -> None:
    """Write the weights (float16) and the configuration that open_clip reads from a `local-dir:`."""
    state = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    state.pop("attn_mask", None)
    save_file(state, folder / "open_clip_model.safetensors")
    channels = 3
    config = {
        "model_cfg": {
            "embed_dim": CLIP_EMBEDDING,
            "vision_cfg": CLIP_VISION,
            "text_cfg": {**CLIP_TEXT, "vocab_size": vocab_size},
        },
        "preprocess_cfg": {
            "mean": [PIXEL_MEAN] * channels,
            "std": [PIXEL_STD] * channels,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
