"""A sparse autoencoder of the starter: its tensors, its description, and the file that holds both.

The file is `sae.safetensors`: W_enc [width, features], b_enc [features], W_dec [features, width], b_dec [width] and
threshold [1], with the description as JSON under the metadata key `glasshouse_sae`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file

METADATA_KEY: Final = "glasshouse_sae"
_TENSORS: Final = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")


@dataclass(frozen=True)
class Dictionary:
    """Tensors in float32 as in the file, and the description from its metadata."""

    w_enc_df: torch.Tensor
    b_enc_f: torch.Tensor
    w_dec_fd: torch.Tensor
    b_dec_d: torch.Tensor
    threshold: torch.Tensor
    description: dict[str, Any] = field(default_factory=dict)

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The five tensors in the order of the file."""
        return self.w_enc_df, self.b_enc_f, self.w_dec_fd, self.b_dec_d, self.threshold

    def encode(self, acts_nd: torch.Tensor) -> torch.Tensor:
        """Features [n, features]: ReLU((x - b_dec) W_enc + b_enc), kept where above the threshold."""
        codes_nf = torch.relu((acts_nd - self.b_dec_d) @ self.w_enc_df + self.b_enc_f)
        return codes_nf * (codes_nf > self.threshold)

    def decode(self, codes_nf: torch.Tensor) -> torch.Tensor:
        """Reconstruction [n, width] of features."""
        return codes_nf @ self.w_dec_fd + self.b_dec_d

    def save(self, folder: Path) -> None:
        """Write `sae.safetensors` in float16."""
        named = zip(_TENSORS, self.tensors(), strict=True)
        tensors = {name: value.half().contiguous() for name, value in named}
        metadata = {METADATA_KEY: json.dumps(self.description, sort_keys=True)}
        save_file(tensors, folder / "sae.safetensors", metadata=metadata)

    @classmethod
    def load(cls, folder: Path) -> Dictionary:
        """Read `sae.safetensors` from a folder."""
        with safe_open(folder / "sae.safetensors", framework="pt") as file:
            w_enc_df, b_enc_f, w_dec_fd, b_dec_d, threshold = (file.get_tensor(name).float() for name in _TENSORS)
            description = json.loads(file.metadata()[METADATA_KEY])
        return cls(w_enc_df, b_enc_f, w_dec_fd, b_dec_d, threshold, description)


def reconstruction(dictionary: Dictionary, acts_nd: torch.Tensor) -> dict[str, float]:
    """Share of variance explained, mean number of active features, and mean cosine of the reconstruction."""
    codes_nf = dictionary.encode(acts_nd)
    decoded_nd = dictionary.decode(codes_nf)
    residual = (acts_nd - decoded_nd).square().sum()
    total = (acts_nd - acts_nd.mean(0)).square().sum()
    return {
        "explained_variance": float(1 - residual / total),
        "l0": float((codes_nf > 0).sum(1).float().mean()),
        "cosine": float(torch.cosine_similarity(acts_nd, decoded_nd, dim=1).mean()),
    }
