"""Why an image is taken for what it is: the newest `probe` of a space, one image's activations, and their products.

The probe is linear and has no bias, so a class's logit is the sum of weight × activation over the concepts that are
active on the image, and the weights in the result are all that is needed: nothing is fitted here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from glasshouse.schema.errors import UsageError
from glasshouse.schema.plain import plain
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.results.records import Run
from glasshouse.warehouse.results.store import all_runs
from glasshouse.warehouse.showing.gather import labels_of
from glasshouse.warehouse.splits import TEST, TRAIN, VALIDATION, parts_of

if TYPE_CHECKING:
    from pathlib import Path

    from glasshouse.warehouse.reads import WarehouseReads


@dataclass(frozen=True)
class Part:
    """What one concept contributes to the class that wins and to the runner-up: weight × activation each."""

    feature_id: int
    name: str | None
    activation: float
    contribution: float
    contribution_runner_up: float

    @property
    def difference(self) -> float:
        """By how much it speaks for the one rather than for the other."""
        return self.contribution - self.contribution_runner_up


class Quality(NamedTuple):
    """How good a probe is on the images that it did not learn from.

    Attributes:
        n_test: test images.
        accuracy: share of them whose class is right.
        accuracy_majority: of always naming the most frequent class.
        accuracy_shuffled: of a probe that learned from shuffled classes.
    """

    n_test: int
    accuracy: float
    accuracy_majority: float
    accuracy_shuffled: float

    def __str__(self) -> str:
        return (
            f"probe: accuracy {self.accuracy:.3f} on {self.n_test:,} test image{'' if self.n_test == 1 else 's'} "
            f"(most frequent class {self.accuracy_majority:.3f}, shuffled classes {self.accuracy_shuffled:.3f})"
        )


ROLES = {
    "learned": "this image is one of those that the probe has learned from",
    "test": "this image is one of the test images",
    "neither": "the probe has neither learned from this image nor been tested on it",
    "unknown": "the probe may have learned from this image",
}
"""What an image was to a probe."""


@dataclass(frozen=True)
class Explanation:
    """One image's prediction.

    Attributes:
        image_id: of the image.
        path: of the image.
        space: whose concepts they are.
        attribute: what is told.
        run_id: of the probe.
        is_stale: whether something that the probe read has changed since.
        predicted: the class of largest logit; of equal ones that of most training images.
        runner_up: the next one.
        logits: of every class, the largest first.
        true_classes: what the image is labelled with; empty where it is not.
        parts: every concept that is active and has a weight for one of the two, the largest |difference| first.
        has_maps: whether the space says where on the image a concept is.
        quality: of the probe.
        role: what the image was to the probe, one of `ROLES`; unknown where the probe is stale.
    """

    image_id: int
    path: str
    space: str
    attribute: str
    run_id: int
    is_stale: bool
    predicted: str
    runner_up: str
    logits: dict[str, float]
    true_classes: list[str]
    parts: list[Part]
    has_maps: bool
    quality: Quality
    role: str

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data that JSON can hold."""
        parts = [{**asdict(part), "difference": part.difference} for part in self.parts]
        return {**asdict(self), "quality": self.quality._asdict(), "parts": parts}

    def head(self, path: str | None = None) -> list[str]:
        """Return what is said above the concepts, as lines; with another name of the image where one is given."""
        known = f"labelled {', '.join(map(plain, self.true_classes))}" if self.true_classes else "not labelled"
        lines = [
            f"{plain(path or self.path)} (image {self.image_id}): {self.attribute} {plain(self.predicted)}; {known}",
            f"logit {self._logit(self.predicted)}, before {plain(self.runner_up)} with {self._logit(self.runner_up)}",
        ]
        lines += [str(self.quality), ROLES[self.role]]
        if not self.parts:
            lines.append("No concept with a weight for either is active: the class of most training images is named.")
        if self.is_stale:
            lines.append("The probe is stale: something that it read has changed since it was run.")
        return lines

    def _logit(self, name: str) -> str:
        logit = self.logits[name]
        return f"{logit:+.2f} (chance {1 / (1 + math.exp(-max(logit, -700.0))):.2f} against the rest)"


def explain(
    warehouse: WarehouseReads, image: int | str | Path, space: str | None = None, attribute: str | None = None
) -> Explanation:
    """Explain one image's prediction by the newest probe of a space and attribute, whatever they are when not named.

    Raises:
        UsageError: no such image, no such probe, or the space does not cover the image.
    """
    image_id = warehouse.image_id(image)
    run = probe_run(warehouse, space, attribute)
    reader = warehouse.space(run.space)
    if image_id not in set(reader.image_ids().tolist()):
        raise UsageError(
            f"The space '{run.space}' does not cover image {image_id}. Run its `glasshouse extract` again, or name "
            "another space with --space."
        )
    active = reader.features_of_image(image_id, None).select("feature_id", "value")
    rows = warehouse.result_rows(run).select("feature_id", "class", "weight").join(active, on="feature_id")
    rows = rows.with_columns(contribution=pl.col("weight") * pl.col("value").cast(pl.Float64))
    sums = dict(rows.group_by("class").agg(pl.col("contribution").sum()).iter_rows())
    # The order of the notes is that of the training images: sorting keeps it among equal logits.
    logits = {name: float(sums.get(name, 0.0)) for name in run.notes["classes"]}
    ranked = sorted(logits, key=lambda name: -logits[name])
    labels = _labels(warehouse, run)
    with warehouse.reading() as connection:
        names = labels_of(connection, run.space, rows["feature_id"].unique().to_list())
    return Explanation(
        image_id,
        str(warehouse.images()["path"][image_id]),
        run.space,
        str(run.facets["attribute"]),
        run.run_id,
        run.is_stale,
        ranked[0],
        ranked[1],
        {name: logits[name] for name in ranked},
        [value for image, value in labels if image == image_id],
        _parts(rows, ranked[0], ranked[1], names),
        reader.grid is not None,
        Quality(*(run.notes[name] for name in Quality._fields)),
        _role(warehouse, run, image_id, labels),
    )


def probe_run(warehouse: WarehouseReads, space: str | None, attribute: str | None) -> Run:
    """Return the newest run of `probe` that fits.

    Raises:
        UsageError: there is none; says which there are.
    """
    if space is not None:
        warehouse.space(space)
    runs = [run for run in all_runs(warehouse.catalogue) if run.analyzer == "probe" and run.is_latest]
    fitting = [run for run in runs if space in (None, run.space) and attribute in (None, run.facets["attribute"])]
    if fitting:
        return fitting[-1]
    options = "".join(
        f" --{name} {value}" for name, value in (("space", space), ("attribute", attribute)) if value is not None
    )
    there = ", ".join(f"{run.facets['attribute']} on {run.space}" for run in runs)
    raise UsageError(
        f"There is no such probe{f'; there are {there}' if runs else ''}. Run `glasshouse analyze probe{options}`."
    )


def _labels(warehouse: WarehouseReads, run: Run) -> list[tuple[int, str]]:
    """Return image and class of everything that is labelled with the attribute of a probe."""
    with warehouse.reading() as connection:
        values = {"attribute": run.facets["attribute"]}
        found = connection.execute(read_sql("queries/probe_labels.sql"), values).fetchall()
    return [(int(image), str(value)) for image, value in found]


def _role(warehouse: WarehouseReads, run: Run, image_id: int, labels: Sequence[tuple[int, str]]) -> str:
    """Return what an image was to a probe: its images are parted again, by the rules by which they were."""
    if run.is_stale:
        return "unknown"
    if not any(image == image_id and value in run.notes["classes"] for image, value in labels):
        return "neither"
    with warehouse.reading() as connection:
        query = "SELECT image_id, value FROM image_labels WHERE attribute = 'split'"
        splits = {int(image): str(value) for image, value in connection.execute(query).fetchall()}
    image_n = np.intersect1d([image for image, _ in labels], warehouse.space(run.space).image_ids())
    hash_n = warehouse.images()["sha256"].gather(image_n).to_list()
    part_n, _ = parts_of(splits, image_n, hash_n, int(run.parameters["seed"]))
    part = int(part_n[np.searchsorted(image_n, image_id)])
    return {TRAIN: "learned", VALIDATION: "learned", TEST: "test"}.get(part, "neither")


def _parts(rows: pl.DataFrame, first: str, second: str, names: dict[int, str]) -> list[Part]:
    by_class = {
        name: dict(rows.filter(pl.col("class") == name).select("feature_id", "contribution").iter_rows())
        for name in (first, second)
    }
    value_of = dict(rows.select("feature_id", "value").iter_rows())
    parts = [
        Part(
            int(feature),
            names.get(int(feature)),
            float(value_of[feature]),
            float(by_class[first].get(feature, 0.0)),
            float(by_class[second].get(feature, 0.0)),
        )
        for feature in {**by_class[first], **by_class[second]}
    ]
    return sorted(parts, key=lambda part: (-abs(part.difference), part.feature_id))
