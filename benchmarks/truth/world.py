"""One rendered world as a warehouse: the starter's spaces, the controls beside them, and what is true of its images.

Spaces: `cls` and `patches`, the starter's; `neurons`, the unrotated activations behind `cls`; and the controls
`shuffled_*`, the very codes of a space with each image's on another image, `untrained_*`, codes of a CLIP with initial
weights in the dictionaries that were trained on it, and `random`, as sparse as `cls`. The ratings are there a second
time as `shuffled …`, each image's with another image. No analysis is run: each measure runs its own.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.contracts import LabelerLoader
from glasshouse.plugins.labeling import FeatureLabel
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.starter.activations import clip_activations
from glasshouse.plugins.starter.dictionary import Dictionary
from glasshouse.plugins.starter.evaluate import image_codes
from glasshouse.plugins.starter.measures import PURE, purity_table
from glasshouse.plugins.starter.models import clip_vocab_size, data_folder, new_clip
from glasshouse.plugins.starter.world.vocabulary import ALL_VALUES, CORE_ATTRIBUTES, CORE_VALUES, GENERAL_WORDS
from glasshouse.plugins.starter.world.write import write_world
from glasshouse.warehouse.showing.pictures import pictures
from glasshouse.warehouse.warehouse import Warehouse

SPACES = ("cls", "patches")
NEURONS = ("neurons", "blocks.3.resid_post", "cls", "neurons")
SHUFFLED = "shuffled"
"""Begins the names of what has lost its images: spaces (`shuffled_cls`) and ratings (`shuffled festive`)."""
TABLE = "table"
"""Name of the labeler whose labels are read from a JSON file: {feature: label}."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating]


class TableLabeler(NamedTuple):
    """A labeler that answers from a table."""

    model: str
    labels: Mapping[str, str]

    def label(self, question: Any) -> FeatureLabel:
        """Return the feature's label."""
        return FeatureLabel(self.labels[str(question.feature_id)])


class World:
    """The warehouse and the truth.

    Attributes:
        warehouse: with every space and rating, and no results.
        folder: for files of measures.
        true_n: of each of the 36 values and the general words, which images show it, bool [n].
    """

    def __init__(self, warehouse: Warehouse, folder: Path) -> None:
        self.warehouse = warehouse
        self.folder = folder
        self.true_n = truth(warehouse)
        self._values: dict[str, list[set[str]]] = {}

    @property
    def n_images(self) -> int:
        """How many images there are; their ids are 0 to n − 1."""
        return len(self.true_n[CORE_VALUES[0]])

    @cached_property
    def words(self) -> str:
        """A vocabulary file of the world's words: its 36 values, its general words, the parts of houses and faces."""
        return self.vocabulary("world", ALL_VALUES)

    def vocabulary(self, name: str, words: tuple[str, ...]) -> str:
        """Write a vocabulary file; return its path."""
        file = self.folder / f"{name}.txt"
        file.write_text("\n".join(words) + "\n", encoding="utf-8")
        return str(file)

    def codes(self, space: str) -> Floats:
        """Return the activations [n_images, features] of a space."""
        return np.asarray(self.warehouse.sparse_matrix(space).toarray())

    def values_of(self, space: str) -> list[set[str]]:
        """Return of each feature the values that it is pure in: (nearly) all of its 20 strongest images show them."""
        if space not in self._values:
            true_nv = np.stack([self.true_n[value] for value in CORE_VALUES], axis=1)
            purity_fv = purity_table(self.codes(space), true_nv)
            self._values[space] = [{CORE_VALUES[v] for v in np.flatnonzero(row_v >= PURE)} for row_v in purity_fv]
        return self._values[space]

    def pure(self, space: str) -> dict[int, set[str]]:
        """Return the features that are pure in a value or several, with these."""
        return {feature: values for feature, values in enumerate(self.values_of(space)) if values}

    def rows(self, name: str, space: str, **parameters: Any) -> Any:
        """Run an analysis, unless an identical result is there; return the rows of that run as a frame."""
        return self.warehouse.result_rows(self.warehouse.analyze(name, space, **parameters)[-1].run)


def build_world(folder: Path, n_images: int, seed: int = 0) -> World:
    """Render, extract, and add the controls.

    Args:
        folder: new or empty.
        n_images: how many images.
        seed: of the world.
    """
    plugins = Plugins(external=False)
    plugins.labelers.register(TABLE, LabelerLoader(_load_table, "", sees_pictures=False), "the truth")
    rendered = folder / "world"
    write_world(rendered, n_images, seed)
    shuffle_ratings(rendered / "ratings.csv", rendered / "shuffled.csv")
    warehouse = Warehouse.create(folder / "world.glasshouse", plugins)
    warehouse.add(
        [rendered / "images"],
        ratings=[rendered / "ratings.csv", rendered / "shuffled.csv"],
        labels=[rendered / "labels.csv"],
    )
    preset = plugins.presets.get("starter")
    spaces = [(space.name, space.hook, space.tokens, space.sae) for space in preset.spaces]
    warehouse.extract(preset.encoder, [*spaces, NEURONS], "clip")
    warehouse.extract("starter:dinov2", embedding="dinov2")
    add_controls(warehouse)
    return World(warehouse, folder)


def _load_table(options: Any) -> TableLabeler:
    return TableLabeler(options.model, json.loads(Path(options.vocabulary).read_text(encoding="utf-8")))


def shuffle_ratings(source: Path, target: Path) -> None:
    """Write the ratings of the planted dimensions once more, all that an image has with another image."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dimension"] != "luck"]
    names = sorted({row["image"] for row in rows})
    other = dict(zip(names, np.random.default_rng(0).permutation(names), strict=True))
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("image", "dimension", "rater", "value"))
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "image": other[row["image"]], "dimension": f"{SHUFFLED} {row['dimension']}"})


def add_controls(warehouse: Warehouse) -> None:
    """Import the controls of the spaces."""
    images = list(range(warehouse.images().height))
    other = np.random.default_rng(0).permutation(len(images))
    for space in SPACES:
        warehouse.import_features(f"{SHUFFLED}_{space}", warehouse.sparse_matrix(space).toarray()[other], images)
    for space, codes_nf in untrained_codes(warehouse, images).items():
        warehouse.import_features(f"untrained_{space}", codes_nf, images)
    active_nf = warehouse.sparse_matrix("cls").toarray() > 0
    rng = np.random.default_rng(0)
    random_nf = rng.exponential(size=active_nf.shape) * (rng.random(active_nf.shape) < active_nf.mean())
    warehouse.import_features("random", random_nf, images)


def untrained_codes(warehouse: Warehouse, images: list[int]) -> dict[str, Floats]:
    """Return by space the codes of a CLIP with initial weights in the dictionary trained on it in the same way."""
    images_nhwc = np.stack([np.asarray(picture) for _, picture in pictures(warehouse, images)])
    acts = clip_activations(new_clip(clip_vocab_size(), 0), images_nhwc)
    return {space: image_codes(Dictionary.load(data_folder(f"control-sae-{space}")), acts) for space in SPACES}


def truth(warehouse: Warehouse) -> dict[str, Bools]:
    """Return of each of the 36 values and each general word which images show it, bool [n]."""
    labels = warehouse.sql("FROM image_labels")
    n_images = warehouse.images().height
    shown: dict[str, Bools] = {}
    for attribute, values in CORE_ATTRIBUTES.items():
        for value in values:
            is_it = labels["value"] == ("present" if attribute == "watermark" else value)
            ids = labels.filter((labels["attribute"] == attribute) & is_it)["image_id"].to_numpy()
            shown[value] = np.isin(np.arange(n_images), ids)
    for word, members in GENERAL_WORDS.items():
        shown[word] = np.any([shown[member] for member in members], axis=0)
    return shown
