from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glasshouse.warehouse.intake.records import ReadOptions


@pytest.fixture
def options(tmp_path: Path) -> ReadOptions:
    return ReadOptions(warehouse=tmp_path / "w.glasshouse")


@pytest.fixture
def png() -> Callable[..., bytes]:
    """The bytes of a small random picture, the same for the same seed."""

    def call(seed: int = 0) -> bytes:
        pixels_hwc = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels_hwc).save(buffer, "PNG")
        return buffer.getvalue()

    return call
