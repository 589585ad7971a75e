"""A small rendered world with both spaces and both embeddings, made once; each test works on a copy of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

N_IMAGES = 120


@pytest.fixture(scope="session")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from glasshouse.plugins.manager import Plugins
    from glasshouse.plugins.starter.demo import build_demo

    root = tmp_path_factory.mktemp("search") / "demo.glasshouse"
    made = build_demo(root, N_IMAGES, 0, Plugins(external=False), lambda title: lambda done, total: None).warehouse
    made.forget(made.runs())
    made.close()
    shutil.rmtree(root / "cache", ignore_errors=True)
    return root


@pytest.fixture
def demo(small_demo: Path, tmp_path: Path) -> Iterator[Any]:
    """Return the warehouse of a copy."""
    from glasshouse.plugins.manager import Plugins
    from glasshouse.warehouse.warehouse import Warehouse

    root = tmp_path / "demo.glasshouse"
    shutil.copytree(small_demo, root)
    opened = Warehouse(root, Plugins(external=False))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def searched_demo(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small demo with concept vectors of both spaces and some words embedded."""
    from glasshouse.plugins.manager import Plugins
    from glasshouse.warehouse.search.texts import embed_texts
    from glasshouse.warehouse.warehouse import Warehouse

    root = tmp_path_factory.mktemp("searched") / "demo.glasshouse"
    shutil.copytree(small_demo, root)
    opened = Warehouse(root, Plugins(external=False))
    for space in ("cls", "patches"):
        opened.analyze("concepts", space)
    embed_texts(opened, "clip", ["", *WORDS])
    opened.close()
    return root


WORDS = ("striped", "red", "a star", "watermark", "it's; DROP TABLE images --")


@pytest.fixture
def searchable(searched_demo: Path, tmp_path: Path) -> Iterator[Any]:
    """Return the warehouse of a copy."""
    from glasshouse.plugins.manager import Plugins
    from glasshouse.warehouse.warehouse import Warehouse

    root = tmp_path / "searchable.glasshouse"
    shutil.copytree(searched_demo, root)
    opened = Warehouse(root, Plugins(external=False))
    yield opened
    opened.close()
