"""A world of classes with the watermark on half of each class, seen by the starter's classifier and by its control."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

N_IMAGES = 1600
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
    _more_to_test(folder / "world" / "labels.csv")
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


def _more_to_test(labels: Path) -> None:
    """Split the world anew, two images for the means and three to measure of any five in a row: hearts are rare."""
    rows = list(csv.reader(labels.read_text(encoding="utf-8").splitlines()))
    kept = [row for row in rows if row[1] != "split"]
    images = sorted({row[0] for row in kept[1:]})
    kept += [[image, "split", "train" if number % 5 < 2 else "test"] for number, image in enumerate(images)]
    with labels.open("w", encoding="utf-8", newline="") as sink:
        csv.writer(sink).writerows(kept)
