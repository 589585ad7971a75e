"""The world whose truth is known, for all tests of truth: they are one group, so that one process renders it once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return what `make bench` measures on: the rendered world and its controls. Tests may add results only."""
    from benchmarks.truth.rows import N_IMAGES
    from benchmarks.truth.world import build_world

    built = build_world(tmp_path_factory.mktemp("truth"), N_IMAGES)
    yield built
    built.warehouse.close()
