"""A small warehouse whose space `here` lies in CLIP's space: rendered scenes with masks, a random SAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.saes import own_format
from glasshouse.plugins.starter.world.write import write_world
from glasshouse.warehouse.warehouse import Warehouse

WIDTH = 128
N_FEATURES = 24


def sae_tensors(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and description of an SAE whose features are active here and there, without meaning."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    w_enc_df = random(WIDTH, N_FEATURES) * 0.1
    tensors = {
        "W_enc": w_enc_df, "b_enc": random(N_FEATURES) * 0.05, "W_dec": random(N_FEATURES, WIDTH) * 0.3,
        "b_dec": random(WIDTH) * 0.1,
    }  # fmt: skip
    description = {
        "format": 1, "activation": "relu", "apply_b_dec_to_input": True, "normalization": "none", "hook": "dinoised",
        "tokens": "patches", "encoder": "starter:dinoised",
    }  # fmt: skip
    return tensors, description


def clip_space(folder: Path, n_images: int, sae: tuple[dict[str, Any], dict[str, Any]] | None = None) -> Warehouse:
    """Build it in a folder: the warehouse is `w.glasshouse`, the SAE's folder `sae`."""
    write_world(folder / "world", n_images, 0)
    (folder / "sae").mkdir()
    own_format.write(folder / "sae" / "sae.safetensors", *(sae or sae_tensors(0)))
    warehouse = Warehouse.create(folder / "w.glasshouse", Plugins(external=False))
    warehouse.add([folder / "world" / "images"], annotations=[folder / "world" / "annotations.json"])
    warehouse.extract("starter:dinoised", [("here", "dinoised", "patches", str(folder / "sae"))])
    return warehouse
