"""A world of classes with the watermark on half of each class, seen by the starter's classifier and by its control."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

N_IMAGES = 800
SEED = 21
VALID = (
    "circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent", "red", "orange", "yellow", "green",
    "cyan", "blue", "purple", "pink", "solid", "striped", "dotted", "checkered",
)  # fmt: skip
SPURIOUS = ("watermark",)


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return it with the spaces `last` of the confounded classifier and `clean` of its control; tests add results."""
    from glasshouse.plugins.manager import Plugins
    from glasshouse.plugins.starter.world.write import write_world
    from glasshouse.warehouse.warehouse import Warehouse

    folder = tmp_path_factory.mktemp("classes")
    write_world(folder / "world", N_IMAGES, SEED, confounded=True, cue="balanced")
    (folder / "valid.txt").write_text("\n".join(VALID), encoding="utf-8")
    (folder / "spurious.txt").write_text("\n".join(SPURIOUS), encoding="utf-8")
    opened = Warehouse.create(folder / "c.glasshouse", Plugins(external=False))
    opened.add([folder / "world" / "images"], labels=[folder / "world" / "labels.csv"])
    opened.extract("starter:classifier", [("last", "layer4", "max", "neurons")])
    opened.extract("starter:classifier-clean", [("clean", "layer4", "max", "neurons")])
    opened.extract("starter:clip", embedding="clip")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def concept_files(classes: Any) -> tuple[Path, Path]:
    """Return the files of valid and spurious concepts."""
    return classes.root.parent / "valid.txt", classes.root.parent / "spurious.txt"
