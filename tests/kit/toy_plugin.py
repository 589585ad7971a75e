"""A plugin in a single file: a small deterministic encoder, for tests of everything around encoders.

`toy:SEED` is quick; `toy:SEED/slow` sleeps in every forward pass, so that a test can interrupt it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import EncoderLoader
from glasshouse.schema.errors import unknown_name
from glasshouse.warehouse.contracts import ForwardResult, HookPoint

SIDE, PATCH, WIDTH, EMBEDDING = 16, 4, 24, 8


class ToyEncoder:
    """Patches of a 16 × 16 picture through two random layers; CLS is the mean of the patches."""

    embedding_width = EMBEDDING
    device = "cpu"

    def __init__(self, rest: str) -> None:
        import torch

        self.spec = f"toy:{rest}"
        seed, _, self.pace = rest.partition("/")
        generator = torch.Generator().manual_seed(int(seed))
        self.layers = [
            torch.randn(PATCH * PATCH * 3, WIDTH, generator=generator) / 7,
            torch.randn(WIDTH, WIDTH, generator=generator) / 5,
        ]
        self.head = torch.randn(WIDTH, EMBEDDING, generator=generator) / 5
        self.fingerprint = hashlib.sha256(f"toy {seed}".encode()).hexdigest()
        self.n_forward = 0

    def hook_points(self) -> Sequence[HookPoint]:
        return [HookPoint(f"blocks.{i}.resid_post", WIDTH, 1, (SIDE // PATCH, SIDE // PATCH)) for i in (0, 1)]

    def preprocess(self, image: Any) -> Any:
        import torch

        pixels = np.asarray(image.resize((SIDE, SIDE)), dtype=np.float32) / 255 - 0.5
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())

    def forward(self, batch_bchw: Any, hooks: Sequence[str], *, embedding: bool = True) -> ForwardResult:
        import torch

        self.n_forward += 1
        if self.pace == "slow":
            time.sleep(0.3)
        known = [point.name for point in self.hook_points()]
        for hook in hooks:
            if hook not in known:
                raise unknown_name("hook point", hook, known)
        patches = batch_bchw.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5)
        tokens_btd = patches.reshape(len(batch_bchw), -1, PATCH * PATCH * 3)
        activations = {}
        for name, layer in zip(known, self.layers, strict=True):
            tokens_btd = torch.tanh(tokens_btd @ layer)
            activations[name] = torch.cat([tokens_btd.mean(1, keepdim=True), tokens_btd], dim=1)
        wanted = {name: activations[name] for name in hooks}
        return ForwardResult(wanted, tokens_btd.mean(1) @ self.head if embedding else None)

    def embed_text(self, texts: Sequence[str]) -> None:
        return None


@hookimpl
def register_encoders(register: Any) -> None:
    register("toy", EncoderLoader(lambda rest, device: ToyEncoder(rest), "A toy for tests, e.g. toy:0"))
