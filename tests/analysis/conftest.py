"""A warehouse with one extracted space, and the counting analyzers beside the built-in plugins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import KIT, TOY_PLUGIN

COUNTING_PLUGIN = KIT / "counting_plugin.py"


@pytest.fixture
def plugins() -> Any:
    from glasshouse.plugins.manager import Plugins

    return Plugins([TOY_PLUGIN, COUNTING_PLUGIN], external=False)


def extract(warehouse: Any) -> None:
    warehouse.extract("toy:0", [("x", "blocks.0.resid_post", "cls", "neurons")], "toy")


@pytest.fixture
def analysed(warehouse: Any) -> Iterator[Any]:
    """Return a warehouse of 30 pictures with the space `x`."""
    extract(warehouse)
    yield warehouse


@pytest.fixture
def command(glasshouse: Any) -> Callable[..., Any]:
    """Return the real command line with the counting analyzers."""

    def run(*words: str | Path, **options: Any) -> Any:
        return glasshouse("--plugin", COUNTING_PLUGIN, *words, **options)

    return run
