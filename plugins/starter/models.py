"""The starter's models: where their files are, how to load them, and untrained ones of the same shape.

Owns the architecture of both encoders and the layout of the data folder: `clip/`, `dinov2/`, `sae-cls/`,
`sae-patches/`, `sae-dinoised/`, their controls, `classifier/`, `classifier-clean/` and `MODEL_CARD.md`. Every loader
takes the folder that holds these, so that freshly trained weights are read like the shipped ones. The classifiers'
architecture is in `classifier.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from glasshouse.plugins.encoders.torchvision_shim import ensure_torchvision_operators
from glasshouse.plugins.starter.world.vocabulary import IMAGE_SIZE
from glasshouse.schema.errors import ModelError

PIXEL_MEAN: Final = 0.5
PIXEL_STD: Final = 0.25
"""Preprocessing of both encoders: pixels in 0..1, minus the mean, divided by the standard deviation."""

CLIP_EMBEDDING: Final = 128
CLIP_VISION: Final[dict[str, Any]] = {
    "image_size": IMAGE_SIZE, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32,
}  # fmt: skip
CLIP_TEXT: Final[dict[str, Any]] = {"context_length": 32, "width": 64, "heads": 2, "layers": 2}
DINOV2: Final[dict[str, Any]] = {
    "image_size": IMAGE_SIZE, "patch_size": 8, "hidden_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 3, "mlp_ratio": 4,
}  # fmt: skip

_WEIGHTS: Final = {
    "clip": "open_clip_model.safetensors",
    "dinov2": "model.safetensors",
    "sae-cls": "sae.safetensors",
    "sae-patches": "sae.safetensors",
    "control-sae-cls": "sae.safetensors",
    "control-sae-patches": "sae.safetensors",
    "sae-dinoised": "sae.safetensors",
    "control-sae-dinoised": "sae.safetensors",
    "classifier": "model.safetensors",
    "classifier-clean": "model.safetensors",
}
NAMES: Final = tuple(_WEIGHTS)
"""The three `control-…` are dictionaries trained in the same way on models that were not trained; `classifier-clean` is
trained like `classifier` on a world whose watermark gives no class away."""
Tokenizer = Callable[[list[str]], torch.Tensor]


def data_root() -> Path:
    """The folder of the shipped weights and their model card."""
    return Path(str(files("glasshouse.plugins.starter").joinpath("data")))


def data_folder(name: str) -> Path:
    """The folder of one shipped model: one of `NAMES`.

    Raises:
        ModelError: there is no model of this name.
    """
    if name not in NAMES:
        raise ModelError(f"The starter has no model {name!r}; it has {', '.join(NAMES)}.")
    return data_root() / name


def weights_sha256(name: str, root: Path | None = None) -> str:
    """SHA-256 of a model's weights file, in hexadecimal."""
    path = (root or data_root()) / name / _WEIGHTS[name]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def clip_tokenizer(folder: Path | None = None) -> Tokenizer:
    """The tokenizer of the starter's CLIP: list of texts -> token ids [texts, 32], zero after the end.

    It is open_clip's byte-pair tokenizer with the few merges of `merges.txt.gz`; open_clip's configuration files
    have no way to name such a file beside them.
    """
    ensure_torchvision_operators()
    from open_clip.tokenizer import SimpleTokenizer  # late: open_clip takes seconds to import

    path = (folder or data_folder("clip")) / "merges.txt.gz"
    tokenizer: Tokenizer = SimpleTokenizer(bpe_path=str(path), context_length=CLIP_TEXT["context_length"])
    return tokenizer


def pixels(images_nhwc: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Images [n, 64, 64, 3] in 0..255 to normalised model input [n, 3, 64, 64]."""
    scaled = torch.from_numpy(np.ascontiguousarray(images_nhwc)).permute(0, 3, 1, 2).float() / 255.0
    return (scaled - PIXEL_MEAN) / PIXEL_STD


def new_clip(vocab_size: int, seed: int) -> Any:
    """An untrained open_clip model of the starter's shape, in evaluation mode."""
    ensure_torchvision_operators()
    from open_clip.model import CLIP  # late: open_clip takes seconds to import

    torch.manual_seed(seed)
    text = {**CLIP_TEXT, "vocab_size": vocab_size}
    return CLIP(embed_dim=CLIP_EMBEDDING, vision_cfg=CLIP_VISION, text_cfg=text).eval()


def load_clip(folder: Path | None = None) -> Any:
    """The starter's CLIP in float32 and evaluation mode, through open_clip's own loader."""
    ensure_torchvision_operators()
    import open_clip  # late: it takes seconds to import

    model = open_clip.create_model(f"local-dir:{folder or data_folder('clip')}", precision="fp32")
    return model.eval()


def clip_vocab_size(folder: Path | None = None) -> int:
    """Number of tokens that the starter's CLIP knows."""
    path = (folder or data_folder("clip")) / "open_clip_config.json"
    return int(json.loads(path.read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]["vocab_size"])


def new_dinov2(seed: int) -> Any:
    """An untrained Dinov2Model of the starter's shape, in evaluation mode."""
    ensure_torchvision_operators()
    from transformers import Dinov2Config, Dinov2Model  # late: it takes seconds to import

    torch.manual_seed(seed)
    return Dinov2Model(Dinov2Config(**DINOV2)).eval()


def load_dinov2(folder: Path | None = None) -> Any:
    """The starter's Dinov2Model in float32 and evaluation mode."""
    ensure_torchvision_operators()
    from transformers import Dinov2Model  # late: it takes seconds to import

    with quiet_transformers():
        return Dinov2Model.from_pretrained(folder or data_folder("dinov2"), dtype=torch.float32).eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing its own progress bars over ours while it reads or writes a small file."""
    from transformers.utils import logging  # late: it takes seconds to import

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()
