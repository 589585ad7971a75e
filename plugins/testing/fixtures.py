"""Fixtures for pytest: `pytest_plugins = ["glasshouse.plugins.testing.fixtures"]` in a conftest.py brings them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.testing.small import small_warehouse as build
from glasshouse.warehouse.warehouse import Warehouse


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("glasshouse") / "small.glasshouse"
    build(root).close()
    return root


@pytest.fixture
def small_warehouse(_built: Path, tmp_path: Path) -> Iterator[Warehouse]:
    """Return a copy of a small warehouse that is built once a session; see `glasshouse.plugins.testing.small`."""
    root = tmp_path / "small.glasshouse"
    shutil.copytree(_built, root)
    warehouse = Warehouse(root, Plugins())
    yield warehouse
    warehouse.close()
