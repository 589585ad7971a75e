"""Lets torchvision be imported beside a CPU-only torch.

A torchvision wheel that was built for CUDA registers shapes for two compiled operators at import time and fails
with "operator torchvision::nms does not exist" when its compiled half cannot load. open_clip, timm and
transformers need its transforms only, so declaring the two operators is enough
(pytorch/vision issues 8985 and 9085). Nothing is declared where the compiled half loads.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_LIBRARY: torch.library.Library | None = None
_checked = False


def ensure_torchvision_operators() -> None:
    """Declare `torchvision::nms` and `torchvision::qnms` when they are missing.

    Call it before the first import of torchvision, open_clip, timm or an image class of transformers; calling it
    again does nothing.
    """
    global _LIBRARY, _checked
    if _checked:
        return
    _checked = True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return
    if _compiled_half_loads(Path(spec.submodule_search_locations[0])):
        return
    # The library object must stay alive: its declarations vanish with it.
    _LIBRARY = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        signature = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        _LIBRARY.define(signature)  # type: ignore[no-untyped-call]


def _compiled_half_loads(package: Path) -> bool:
    """Load torchvision's compiled operators the way torchvision itself does; False when that fails."""
    for library in (*package.glob("_C*.so"), *package.glob("_C*.pyd")):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError:
            continue
        return True
    return False
