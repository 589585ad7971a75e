"""Analyzer `relevance`: how much each feature counts for each class of a classifier, and where it looks then.

For a class c, over the images that are asked about it, with R as in `relevance_methods.py`:

    relevance = mean over images of Σ_tokens R            share = max(relevance, 0) / Σ_features max(relevance, 0)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters
from glasshouse.plugins.analyzers.attribution_maps import batches_of, hook_point_of
from glasshouse.plugins.analyzers.relevance_classes import (
    asked_classes,
    choose_class_attribute,
    classifier_of,
    counted,
    labels_that_are_no_class,
)
from glasshouse.plugins.analyzers.relevance_methods import ImageRelevance, check_method, measure_of
from glasshouse.plugins.analyzers.relevance_sums import ClassSums
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.analyzers.relevance_classes import Classifier
    from glasshouse.plugins.analyzers.relevance_methods import Measure
    from glasshouse.plugins.view import AnalysisView

FEW = 64
"""Images of each class that ablation takes by default: it needs a pass for each feature."""


class RelevanceParameters(Parameters):
    """Parameters of `relevance`."""

    method: Literal["gradient", "crp", "ablation"] = Field(
        "gradient", description="gradient × activation; crp (CNNs, extra `attribution`); ablation, a pass each."
    )
    attribute: str | None = Field(
        None, description="Label that says each image's class, or `predicted`; by default one that holds classes."
    )
    classes: tuple[str, ...] = Field((), description="A class to ask about; by default all.")
    images: int | None = Field(None, ge=1, description="Images of each class, drawn at random. [all; ablation: 64]")
    n: int = Field(30, ge=1, description="How many of each feature's most relevant images are remembered.")
    most: int = Field(500, ge=0, description="Features kept of each class, those that count most; 0 keeps all.")
    features: tuple[int, ...] = Field((), description="With ablation: a feature to take out; by default all.")
    batch_size: int = Field(32, ge=1, description="Images per pass.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the encoder runs.")
    seed: int = Field(0, ge=0, description="Of the draw of --images.")


class Relevance(Analyzer[RelevanceParameters]):
    """How much each feature counts for each class's output, where it looks, and on which images it counts most.

    One row for each class and feature. The encoder must have a classifier.
    """

    summary = "How much each feature counts for each class of a classifier, and where it looks"
    parameters: ClassVar[type[Parameters]] = RelevanceParameters
    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("feature_id", pa.int32()),
            ("class_name", pa.string()),
            ("method", pa.string()),
            ("relevance", pa.float64()),
            ("share", pa.float64()),
            ("rank", pa.int32()),
            ("activation", pa.float64()),
            ("x", pa.float64()),
            ("y", pa.float64()),
            ("n_images", pa.int32()),
            ("image_ids", pa.list_(pa.int32())),
            ("image_relevance", pa.list_(pa.float32())),
        ]
    )
    facets = ("method",)
    in_features = ("class_name", "relevance", "share")
    strongest = "share"

    def resolve(self, view: AnalysisView, parameters: RelevanceParameters) -> RelevanceParameters:
        """See that the encoder has a classifier and the method fits, and choose the label that says the classes.

        Raises:
            UsageError: it has none, the method does not fit the space, or no label holds its classes.
        """
        model = _model(view, parameters)
        check_method(view, parameters.method)
        if parameters.features and parameters.method != "ablation":
            raise UsageError("--features counts with --method ablation only.")
        wrong = next((feature for feature in parameters.features if not 0 <= feature < view.n_features), None)
        if wrong is not None:
            raise UsageError(
                f"The space '{view.space}' has no feature {wrong}: they run from 0 to {view.n_features - 1}."
            )
        for name in parameters.classes:
            model.number(name)
        chosen: dict[str, Any] = {"attribute": choose_class_attribute(view, parameters.attribute, model.names)}
        if parameters.method == "ablation" and parameters.images is None:
            chosen["images"] = FEW
        return parameters.model_copy(update=chosen)

    def run(self, view: AnalysisView, parameters: RelevanceParameters) -> Iterator[pa.RecordBatch]:
        """Measure the images class by class, so that memory holds the sums of one class."""
        from glasshouse.plugins.analyzers.crops import note_unreadable  # late: it brings torch and Pillow

        model = _model(view, parameters)
        measure = measure_of(view, model, parameters.method, parameters.features)
        asked = asked_classes(
            view, model, str(parameters.attribute), parameters.classes, parameters.images, parameters.seed
        )
        has_places = parameters.method != "ablation" and view.record["tokens"] != "cls"
        places = _Places(view, model, has_places=has_places)
        n_done = n_unreadable = 0
        for number, image_n in asked.by_class():
            sums = ClassSums(view.n_features, parameters.n)
            for ids, found in _measured(view, model, measure, image_n, number, parameters.batch_size, places):
                sums.add(ids, found)
                n_done += len(ids)
                view.progress(n_done, len(asked.image_n))
            n_unreadable += len(image_n) - sums.n_images
            if sums.n_images:
                yield from sums.table(model.names[number], parameters, self.schema).to_batches()
        no_class = labels_that_are_no_class(view, model, str(parameters.attribute))
        unasked = sorted(set(model.names) - {model.names[number] for number, _ in asked.by_class()})
        said = f"{n_done:,} images of {len(model.names) - len(unasked)} of {len(model.names)} classes"
        if no_class:
            said += f"; left out, since their label is no class: {counted(no_class)}"
        view.note(attribute=parameters.attribute, n_images=n_done, no_class=no_class, summary=said)
        note_unreadable(view, n_unreadable, len(asked.image_n))


def _model(view: AnalysisView, parameters: RelevanceParameters) -> Classifier:
    from glasshouse.plugins.analyzers.crops import device_named  # late: as above

    return classifier_of(view, device_named(parameters.device))


def _measured(
    view: AnalysisView, model: Classifier, measure: Measure, image_n: Any, number: int, batch_size: int, places: _Places
) -> Iterator[tuple[list[int], ImageRelevance]]:
    """Yield batches of a class's images and what counts on them, places as shares of the picture's sides."""
    import torch  # late: it takes a second to import

    for batch in batches_of(view, model.encoder, image_n, batch_size):
        if batch.batch_bchw is None:
            continue
        classes_b = torch.full((len(batch.image_ids),), number, dtype=torch.int64)
        yield batch.image_ids, places.moved(batch.image_ids, measure(batch.batch_bchw, classes_b))


class _Places:
    """From cells of the token grid to shares of a picture's sides, 0 to 1 from its upper left corner."""

    def __init__(self, view: AnalysisView, model: Classifier, *, has_places: bool) -> None:
        images = view.images()
        self._size = dict(zip(images["image_id"], zip(images["width"], images["height"], strict=True), strict=True))
        self._framing = view.warehouse.space(view.space).framing
        self._grid = hook_point_of(view, model.encoder).grid if has_places else None

    def moved(self, ids: list[int], found: ImageRelevance) -> ImageRelevance:
        """Return the sums with columns and rows turned into x and y."""
        from glasshouse.warehouse.showing.framing import grid_box

        if self._grid is None:
            return found
        rows, columns = self._grid
        starts_b2, spans_b2 = np.zeros((len(ids), 2)), np.zeros((len(ids), 2))
        for b, image in enumerate(ids):
            width, height = self._size[image]
            left, top, right, bottom = grid_box(self._framing, width, height)
            starts_b2[b] = left / width, top / height
            spans_b2[b] = (right - left) / width / columns, (bottom - top) / height / rows
        weight_bf = found.positive_bf
        return found._replace(
            column_bf=weight_bf * starts_b2[:, :1] + found.column_bf * spans_b2[:, :1],
            row_bf=weight_bf * starts_b2[:, 1:] + found.row_bf * spans_b2[:, 1:],
        )
