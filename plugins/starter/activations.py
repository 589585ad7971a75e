"""Runs the starter's encoders over images and returns embeddings and inner activations as arrays."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from glasshouse.plugins.encoders import dinoised, open_clip, transformers
from glasshouse.plugins.starter.models import Tokenizer, clip_vocab_size, new_clip, new_dinov2, pixels
from glasshouse.plugins.starter.plugin import DINOISED, DINOISED_BLOCK

_BATCH: Final = 250
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ClipActivations:
    """What the CLIP makes of n images.

    embedding_nd: unit embeddings [n, 128]. cls_nd: CLS token of the last block's output, before the final norm,
    [n, 128]. patches_ntd: patch tokens of the last block's input, [n, 64, 128].
    """

    embedding_nd: torch.Tensor
    cls_nd: torch.Tensor
    patches_ntd: torch.Tensor


@torch.no_grad()
def clip_activations(model: Any, images_nhwc: Images) -> ClipActivations:
    """Run open_clip's image tower and read `blocks.3.resid_post` (CLS) and `blocks.2.resid_post` (patches)."""
    rows: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    caught: dict[int, torch.Tensor] = {}

    def catch(number: int) -> Any:
        return lambda _module, _inputs, output: caught.__setitem__(number, output)

    blocks = model.visual.transformer.resblocks
    handles = [blocks[number].register_forward_hook(catch(number)) for number in (2, 3)]
    try:
        for start in range(0, len(images_nhwc), _BATCH):
            embedding_bd = model.encode_image(pixels(images_nhwc[start : start + _BATCH]), normalize=True)
            rows.append((embedding_bd, caught[3][:, 0].clone(), caught[2][:, 1:].clone()))
    finally:
        for handle in handles:
            handle.remove()
    return ClipActivations(*(torch.cat(column) for column in zip(*rows, strict=True)))


@torch.no_grad()
def text_embeddings(model: Any, tokenize: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Unit text embeddings [n_texts, 128]."""
    embedding_nd: torch.Tensor = model.encode_text(tokenize(texts), normalize=True)
    return embedding_nd


@torch.no_grad()
def dinov2_embeddings(model: Any, images_nhwc: Images) -> torch.Tensor:
    """Pooled CLS embeddings of the Dinov2Model [n, 96], centred on these images, of unit length."""
    starts = range(0, len(images_nhwc), _BATCH)
    batches = (pixels(images_nhwc[start : start + _BATCH]) for start in starts)
    embedding_nd = torch.cat([model(pixel_values=batch).pooler_output for batch in batches])
    return F.normalize(embedding_nd - embedding_nd.mean(0), dim=1)


@torch.no_grad()
def dinoised_activations(root: Path, images_nhwc: Images) -> torch.Tensor:
    """Patch features [n, 64, 128] of `starter:dinoised`, put together from `clip/` and `dinov2/` in a folder."""
    clip = open_clip.load_folder(root / "clip", "cpu", "starter:clip")
    dino = transformers.load_folder(root / "dinov2", "cpu", "starter:dinov2")
    encoder = dinoised.with_dino(f"starter:{DINOISED}", clip, dino, by="patches", block=DINOISED_BLOCK)
    starts = range(0, len(images_nhwc), _BATCH)
    batches = (pixels(images_nhwc[start : start + _BATCH]) for start in starts)
    return torch.cat(
        [encoder.forward(batch, [DINOISED], embedding=False).activations[DINOISED].float() for batch in batches]
    )


@contextmanager
def untrained_root(root: Path, seed: int) -> Iterator[Path]:
    """Give a folder with `clip/` and `dinov2/` of the same shape as those in `root`, with untrained weights."""
    from glasshouse.plugins.starter.training.clip import save_clip  # late: only controls need what training needs
    from glasshouse.plugins.starter.training.dinov2 import save_dinov2

    vocab_size = clip_vocab_size(root / "clip")
    with tempfile.TemporaryDirectory(prefix="glasshouse-untrained-") as name:
        folder = Path(name)
        for part in ("clip", "dinov2"):
            (folder / part).mkdir()
        shutil.copy(root / "clip" / "merges.txt.gz", folder / "clip")
        save_clip(new_clip(vocab_size, seed), folder / "clip", vocab_size)
        save_dinov2(new_dinov2(seed), folder / "dinov2")
        yield folder
