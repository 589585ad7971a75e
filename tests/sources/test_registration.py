"""The four sources come through the public hook, and each path has exactly one of them."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from glasshouse.warehouse.intake.records import Source

NAMES = ("folder", "table", "coco", "webdataset")


def registered() -> dict[str, Source]:
    found: dict[str, Source] = {}
    for name in NAMES:
        module = importlib.import_module(f"glasshouse.plugins.sources.{name}")
        module.register_sources(found.__setitem__)
    return found


def test_every_source_registers_under_its_name() -> None:
    assert tuple(registered()) == NAMES


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/x/a.jpg", "folder"),
        ("/x/no-ending", "folder"),
        ("/x/a.CSV", "table"),
        ("/x/a.txt", "table"),
        ("/x/a.parquet", "table"),
        ("/x/a.json", "coco"),
        ("/x/a.tar", "webdataset"),
        ("/x/a.tar.gz", "webdataset"),
        ("/x/a.tgz", "webdataset"),
        ("https://x.org/a.csv", "table"),
        ("https://x.org/a.jpg", "folder"),
        ("/", "folder"),
    ],
)
def test_each_path_has_one_source(path: str, name: str) -> None:
    assert [known for known, source in registered().items() if source.claims(path)] == [name]


def test_importing_the_sources_is_quick() -> None:
    """They are imported at every start of the command line, so heavy libraries must wait until they are needed."""
    modules = ", ".join(f"glasshouse.plugins.sources.{name}" for name in NAMES)
    heavy = ["duckdb", "numpy", "pyarrow", "polars", "PIL", "fsspec", "aiohttp", "pycocotools", "torch"]
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
