"""Why an image is taken for what it is: the newest `probe` of a space, one image's activations, and their products.

The probe is linear and has no bias, so a class's logit is the sum of weight × activation over the concepts that are
active on the image, and the weights in the result are all that is needed: nothing is fitted here.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from glasshouse.schema.errors import UsageError
from glasshouse.schema.plain import plain
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.results.records import Run
from glasshouse.warehouse.results.store import all_runs
from glasshouse.warehouse.showing.gather import labels_of

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

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data that JSON can hold."""
        return {**asdict(self), "parts": [{**asdict(part), "difference": part.difference} for part in self.parts]}

    def head(self, path: str | None = None) -> list[str]:
        """Return what is said above the concepts, as lines; with another name of the image where one is given."""
        known = f"labelled {', '.join(map(plain, self.true_classes))}" if self.true_classes else "not labelled"
        lines = [
            f"{plain(path or self.path)} (image {self.image_id}): {self.attribute} {plain(self.predicted)}; {known}",
            f"logit {self._logit(self.predicted)}, before {plain(self.runner_up)} with {self._logit(self.runner_up)}",
        ]
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
    names, classes = _known(warehouse, run, image_id, rows["feature_id"].unique().to_list())
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
        classes,
        _parts(rows, ranked[0], ranked[1], names),
        reader.grid is not None,
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


def _known(warehouse: WarehouseReads, run: Run, image_id: int, features: list[int]) -> tuple[dict[int, str], list[str]]:
    """Return the features' names, and the classes with which the image is labelled."""
    with warehouse.reading() as connection:
        names = labels_of(connection, run.space, features)
        values = {"attribute": run.facets["attribute"]}
        labels = connection.execute(read_sql("queries/probe_labels.sql"), values).fetchall()
    return names, [str(value) for image, value in labels if image == image_id]


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
