"""The identity of weights: a SHA-256 that changes with every number, name, shape and setting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def fingerprint(tensors: Mapping[str, torch.Tensor], description: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over every tensor's name, dtype, shape and bytes, and over `description` as JSON.

    The same in every process and on every device; the order of the mappings does not matter.
    """
    digest = hashlib.sha256(_canonical(description))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(_canonical([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The tensor's memory without a copy; read as bytes, since numpy knows no bfloat16."""
    import torch  # late: it takes a second to import

    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()
