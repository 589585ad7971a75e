from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glasshouse.plugins.sources.coco import CocoSource
from glasshouse.plugins.sources.folder import FolderSource
from glasshouse.plugins.sources.table import TableSource
from glasshouse.plugins.sources.webdataset import WebdatasetSource
from glasshouse.warehouse.catalogue import CATALOGUE_FILE, Catalogue, migrate
from glasshouse.warehouse.intake.add import add
from glasshouse.warehouse.intake.report import AddReport

SOURCES = (WebdatasetSource(), CocoSource(), TableSource(), FolderSource())
TABLES = (
    "images",
    "image_paths",
    "failures",
    "rejected_rows",
    "intakes",
    "ratings",
    "captions",
    "image_labels",
    "annotations",
)


@pytest.fixture(scope="session")
def empty_warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with nothing in it, migrated once and copied for every test."""
    root = tmp_path_factory.mktemp("empty")
    migrate(root / CATALOGUE_FILE)
    return root


@pytest.fixture
def warehouse(empty_warehouse: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(empty_warehouse, tmp_path / "w.glasshouse"))


@pytest.fixture
def another_warehouse(empty_warehouse: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(empty_warehouse, tmp_path / "another.glasshouse"))


@pytest.fixture
def run_add(warehouse: Path) -> Callable[..., AddReport]:
    """Call `add` on the warehouse with the built-in sources."""

    def call(*paths: Path | str, root: Path | None = None, **kwargs: Any) -> AddReport:
        return add(root or warehouse, paths, SOURCES, **kwargs)

    return call


@pytest.fixture
def query(warehouse: Path) -> Callable[..., list[Any]]:
    """Rows of a query as tuples; of a query with one column as plain values."""

    def call(sql: str, root: Path | None = None) -> list[Any]:
        with Catalogue(root or warehouse).reading() as connection:
            rows = connection.execute(sql).fetchall()
        return [row[0] if len(row) == 1 else row for row in rows]

    return call


@pytest.fixture
def dump() -> Callable[[Path], dict[str, list[Any]]]:
    """Everything `add` writes, table by table, in an order that does not depend on storage."""

    def call(root: Path) -> dict[str, list[Any]]:
        with Catalogue(root).reading() as connection:
            return {name: connection.execute(f'SELECT * FROM "{name}" ORDER BY ALL').fetchall() for name in TABLES}

    return call


@pytest.fixture
def png() -> Callable[..., bytes]:
    """The bytes of a small random picture, the same for the same seed."""

    def call(seed: int = 0, size: tuple[int, int] = (12, 8), file_format: str = "PNG") -> bytes:
        pixels_hwc = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels_hwc).save(buffer, file_format)
        return buffer.getvalue()

    return call


@pytest.fixture
def write_png(png: Callable[..., bytes]) -> Callable[..., Path]:
    """Write a small random picture to a path, folders included."""

    def call(path: Path, seed: int = 0, **kwargs: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed, **kwargs))
        return path

    return call
