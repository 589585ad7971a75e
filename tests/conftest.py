"""What all tests share: no plugins from outside, real stores in temporary folders, a toy encoder, some pictures."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from kit.forking import Done, Driver
from PIL import Image

os.environ["GLASSHOUSE_NO_PLUGINS"] = "1"
# Two test processes on two cores: threads that wait for each other lose more than they gain.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# The same examples in every run, so that a green main stays green; `HYPOTHESIS_PROFILE=explore` looks for new ones.
settings.register_profile("repeat", derandomize=True, database=None)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))

KIT = Path(__file__).parent / "kit"
TOY_PLUGIN = KIT / "toy_plugin.py"


def pytest_report_header() -> str:
    names = ("duckdb", "lancedb", "pyarrow", "polars", "torch", "pillow", "pluggy")
    return "stores: " + ", ".join(f"{name} {metadata.version(name)}" for name in names)


TOGETHER = {"/test_truth_": "truth", "/benchmarks/test_quick.py": "quick"}
"""Parts of tests' names, and the group that they make: one world, one run of the benchmarks."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep tests that share something costly in one process, which makes it once.

    Some carry the mark `xdist_group`, but xdist 3.8 does not see marks under pytest 9.2
    (pytest-dev/pytest-xdist#1386); once it does, this can go.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    # Late: only the process that hands out the tests needs it, and xdist may be switched off.
    from xdist.scheduler import LoadGroupScheduling

    class Scheduling(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            together = (group for part, group in TOGETHER.items() if part in nodeid)
            return next(together, str(super()._split_scope(nodeid)))

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLASSHOUSE", raising=False)
    monkeypatch.setenv("GLASSHOUSE_LOCK_TIMEOUT", "20")


@pytest.fixture(scope="session")
def toy_encoder_class() -> Any:
    spec = importlib.util.spec_from_file_location("toy_plugin", TOY_PLUGIN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ToyEncoder


@pytest.fixture
def plugins() -> Any:
    from glasshouse.plugins.manager import Plugins

    return Plugins([TOY_PLUGIN], external=False)


def write_pictures(folder: Path, n: int, first: int = 0, size: int = 20) -> list[Path]:
    """Write n different random PNGs; picture i is the same whenever it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(first, first + n):
        pixels = np.random.default_rng(i).integers(0, 256, (size, size, 3), dtype=np.uint8)
        path = folder / f"{i:05d}.png"
        Image.fromarray(pixels).save(path)
        paths.append(path)
    return paths


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder of 30 pictures."""
    write_pictures(tmp_path / "pictures", 30)
    return tmp_path / "pictures"


@pytest.fixture
def warehouse(tmp_path: Path, pictures: Path, plugins: Any) -> Iterator[Any]:
    """Return a warehouse with 30 pictures and nothing extracted."""
    from glasshouse.warehouse.warehouse import Warehouse

    opened = Warehouse.create(tmp_path / "w.glasshouse", plugins)
    opened.add([pictures])
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def driver() -> Iterator[Driver]:
    """Return the process that runs commands in its forks."""
    started = Driver()
    yield started
    started.close()


Run = Callable[..., Done]


@pytest.fixture
def glasshouse(tmp_path: Path, driver: Driver) -> Run:
    """Return a function that runs the real command line in a process of its own, in the temporary folder."""

    def run(*words: str | Path, input: str = "", **environment: str) -> Done:
        return driver.run(
            ["--plugin", str(TOY_PLUGIN), *map(str, words)], tmp_path, input=input, environment=environment
        )

    return run


def command() -> list[str]:
    """Return the start of a command line that runs in an interpreter of its own, with the toy plugin."""
    return [
        sys.executable,
        "-W",
        "error",
        "-c",
        "from glasshouse.cli.main import run; run()",
        "--plugin",
        str(TOY_PLUGIN),
    ]
