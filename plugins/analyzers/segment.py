"""Analyzer `segment`: open-vocabulary segmentation by concepts, and what each concept contributes to each class (CFM).

Codes of patches are decoded to CLIP's space and compared with the texts of classes (arXiv 2601.13798); the details that
the paper leaves open are explained in docs/analyses.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers.clip_space import decoder, require_clip_space
from glasshouse.plugins.analyzers.locality import masked_images, masks_by_image, values_of
from glasshouse.plugins.analyzers.space_models import encoder_of, sae_of
from glasshouse.plugins.segmentation.patches import Contributions, best_class, decoded, probabilities
from glasshouse.plugins.segmentation.pixels import (
    Classes,
    Counts,
    agreement,
    classes_of_pixels,
    confusion,
    shuffled_miou,
    truth_of_pixels,
)
from glasshouse.schema.errors import GlasshouseError, ModelError, UsageError
from glasshouse.schema.texts import read_sql

if TYPE_CHECKING:
    import scipy.sparse

    from glasshouse.plugins.segmentation.picture import Segmenter
    from glasshouse.plugins.view import AnalysisView

MAX_ACTIVATIONS = 1 << 23
"""Activations of patches in memory at once, 12 bytes each."""

MASKS_AT_ONCE = 32
"""Images whose masks are read together."""

N_SHUFFLES = 20
SCHEMA = pa.schema(
    [
        ("feature_id", pa.int32()),
        ("class_name", pa.string()),
        ("contribution", pa.float64()),
        ("share", pa.float64()),
        ("n_patches", pa.int64()),
        ("n_class_patches", pa.int64()),
    ]
)


class SegmentParameters(Parameters):
    """Parameters of `segment`."""

    classes: tuple[str, ...] = Field((), description="Texts of the classes; else the labels of the masks.")
    attribute: str = Field("category", description="What labels masks: category, supercategory or an attribute's name.")
    templates: tuple[str, ...] = Field(("a {}",), description="Texts with {} for the class, averaged.")
    background: tuple[str, ...] = Field((), description="Texts of what is no class: where they win is background.")
    threshold: float = Field(0, ge=0, lt=1, description="Where no class is as probable as this is background too.")
    images: int = Field(1000, ge=0, description="At most so many images, drawn at random; 0: all of them.")
    windows: bool = Field(False, description="Cut pictures into overlapping windows and run the encoder on each.")
    features: bool = Field(True, description="Segment by the encoder's features too: a pass over the images.")
    seed: int = Field(0, description="Of drawing images and of the shuffled texts.")


class Segment(Analyzer[SegmentParameters]):
    """Which concepts make a patch one of a class."""

    summary: ClassVar[str] = "Segmentation by texts: what each concept contributes to each class, mIoU with masks."
    parameters: ClassVar[type[Parameters]] = SegmentParameters
    schema: ClassVar[pa.Schema] = SCHEMA
    facets: ClassVar[tuple[str, ...]] = ("attribute", "windows")
    in_features: ClassVar[tuple[str, ...]] = ("class_name", "share")
    strongest: ClassVar[str | None] = "share"

    def resolve(self, view: AnalysisView, parameters: SegmentParameters) -> SegmentParameters:
        """Refuse spaces that are not in CLIP's space; take the labels of the masks as classes."""
        require_clip_space(view, "segment")
        if parameters.classes:
            return parameters
        labels = labels_of_masks(view, parameters.attribute)
        if not labels:
            what = "masks" if parameters.attribute == "category" else f"masks with '{parameters.attribute}'"
            raise UsageError(
                f"No image of the space '{view.space}' has {what} to take classes from. Name them with --classes, or "
                "add masks with `glasshouse add --annotations FILE`."
            )
        return parameters.model_copy(update={"classes": tuple(labels)})

    def run(self, view: AnalysisView, parameters: SegmentParameters) -> Rows:
        """Segment the images patch by patch, sum what concepts contribute, and compare with the masks."""
        job = Job.of(view, parameters)
        for image_id, found in job.segmented():
            job.compare(image_id, found)
        job.check_unreadable()
        view.note(**job.figures())
        return table_of(job.sums, len(parameters.classes), parameters.classes)


@dataclass
class Found:
    """Probabilities of classes over the patches of one image; `features_rlc` where they were asked for."""

    concepts_rlc: npt.NDArray[np.float32]
    features_rlc: npt.NDArray[np.float32] | None
    framing: Mapping[str, Any] | None


@dataclass
class Job:
    """One run: the images, the classes, and what is counted."""

    view: AnalysisView
    parameters: SegmentParameters
    segmenter: Segmenter
    image_ids: list[int]
    has_masks: bool
    sums: Contributions
    counts: dict[str, Counts] = field(default_factory=dict)
    unreadable: int = 0
    _masks: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def of(cls, view: AnalysisView, parameters: SegmentParameters) -> Job:
        """Load what is needed and choose the images: those with masks, or any where there are none."""
        from glasshouse.plugins.segmentation.picture import Segmenter  # late: with the models
        from glasshouse.plugins.segmentation.texts import class_vectors

        found = decoder(view)
        if found is None:  # `resolve` has refused it
            raise UsageError(f"The space '{view.space}' is not in CLIP's space.")
        encoder = encoder_of(view)
        names = (*parameters.classes, *parameters.background)
        classes_ce = class_vectors(encoder, names, parameters.templates)
        masked = masked_images(view, parameters.attribute)["image_id"].to_numpy()
        chosen = drawn(masked if len(masked) else view.image_ids, parameters.images, parameters.seed)
        segmenter = Segmenter(encoder, sae_of(view), found, classes_ce, parameters.threshold)
        return cls(view, parameters, segmenter, chosen, bool(len(masked)), Contributions(found, classes_ce))

    @property
    def has_background(self) -> bool:
        """Whether pixels outside of all masks count."""
        return bool(self.parameters.background) or self.parameters.threshold > 0

    def segmented(self) -> Iterator[tuple[int, Found]]:
        """Yield each image with its probabilities."""
        found = self._in_windows() if self.parameters.windows else self._stored()
        for done, one in enumerate(found, 1):
            yield one
            self.view.progress(done, len(self.image_ids))

    def _in_windows(self) -> Iterator[tuple[int, Found]]:
        for image_id, picture in readable(self, self.image_ids):
            mosaic = self.segmenter.windows(picture, self.sums)
            yield image_id, Found(mosaic.concepts_rlc, mosaic.features_rlc, mosaic.framing)

    def _stored(self) -> Iterator[tuple[int, Found]]:
        """Take codes from the space; run the encoder only for the features."""
        grid = self.view.grid or (1, 1)
        framing = self.view.warehouse.space(self.view.space).framing
        shape = (*grid, len(self.sums.classes_ce))
        for ids in blocks(self.view, self.image_ids):
            codes_nf = codes_of(self.view, ids, grid[0] * grid[1])
            vectors_ne = decoded(codes_nf, self.segmenter.decoder)
            chances_nc = probabilities(vectors_ne, self.sums.classes_ce)
            self.sums.add(codes_nf, vectors_ne, best_class(chances_nc, self.parameters.threshold))
            by_image = dict(zip(ids, chances_nc.reshape(len(ids), *shape), strict=True))
            if not (self.parameters.features and self.has_masks):
                for image_id, chances_rlc in by_image.items():
                    yield image_id, Found(chances_rlc, None, framing)
                continue
            for image_id, picture in readable(self, ids):
                yield image_id, Found(by_image[image_id], self.segmenter.features(picture), framing)

    def compare(self, image_id: int, found: Found) -> None:
        """Count the pixels of one image."""
        if not self.has_masks:
            return
        rows = self._masks_of(image_id)
        names = self.parameters.classes
        truth_hw = truth_of_pixels(rows, {name: number for number, name in enumerate(names)})
        for kind, chances_rlc in (("concepts", found.concepts_rlc), ("features", found.features_rlc)):
            if chances_rlc is None or (kind == "features" and not self.parameters.features):
                continue
            seen_hw = self._pixels(chances_rlc, found.framing, truth_hw)
            counted = confusion(truth_hw, seen_hw, len(names), background=self.has_background)
            self.counts[kind] = self.counts.get(kind, 0) + counted

    def _masks_of(self, image_id: int) -> list[dict[str, Any]]:
        """Return the rows about masks of an image; those of the next images are read with them."""
        if image_id not in self._masks:
            first = self.image_ids.index(image_id)
            last = self.image_ids[min(first + MASKS_AT_ONCE, len(self.image_ids)) - 1]
            self._masks = masks_by_image(self.view, image_id, last, self.parameters.attribute)
        return self._masks[image_id]

    def _pixels(
        self, chances_rlc: npt.NDArray[np.float32], framing: Mapping[str, Any] | None, truth_hw: Classes
    ) -> Classes:
        height, width = truth_hw.shape
        names, threshold = self.parameters.classes, self.parameters.threshold
        return classes_of_pixels(chances_rlc, framing, (width, height), len(names), threshold)

    def check_unreadable(self) -> None:
        """Note how many pictures could not be read, so that the same request goes on once they are back.

        Raises:
            ModelError: more than half of them.
        """
        if not self.unreadable:
            return
        found = f"{self.unreadable:,} of {len(self.image_ids):,} pictures could not be read"
        if 2 * self.unreadable > len(self.image_ids):
            raise ModelError(
                f"{found}: too many to measure a segmentation, so nothing was stored. Put the pictures back where they "
                "were added from."
            )
        self.view.note(incomplete=found)

    def figures(self) -> dict[str, Any]:
        """What is noted of the run: mean IoU by concepts, by features and with shuffled texts, IoU of each class."""
        notes: dict[str, Any] = {"n_images": len(self.image_ids) - self.unreadable, "n_unreadable": self.unreadable}
        names = [*self.parameters.classes, "background"]
        by_class: dict[str, dict[str, Any]] = {}
        for kind, counts_cc in self.counts.items():
            found = agreement(counts_cc)
            if found is None:
                continue
            notes |= {f"miou_{kind}": found.miou, f"accuracy_{kind}": found.accuracy}
            for name, iou, n_pixels in zip(names, found.iou_c, counts_cc.sum(axis=1), strict=True):
                if n_pixels:
                    by_class.setdefault(name, {"n_pixels": int(n_pixels)})[f"iou_{kind}"] = float(iou)
        if "concepts" in self.counts:
            notes["miou_shuffled"] = shuffled_miou(self.counts["concepts"], N_SHUFFLES, self.parameters.seed)
            notes["classes"] = by_class
        if "miou_concepts" in notes:
            notes["summary"] = headline(notes)
        return notes


def headline(notes: Mapping[str, Any]) -> str:
    """Return the mean IoU in a line, with what it is to be compared with."""
    beside = {"by features": notes.get("miou_features"), "texts shuffled": notes["miou_shuffled"]}
    known = ", ".join(f"{name} {value:.3f}" for name, value in beside.items() if value is not None)
    more = f" ({known})" if known else ""
    return f"mean IoU {notes['miou_concepts']:.3f} by concepts{more}, {len(notes['classes'])} classes on masks of " + (
        f"{notes['n_images']:,} image{'' if notes['n_images'] == 1 else 's'}"
    )


def labels_of_masks(view: AnalysisView, attribute: str) -> list[str]:
    """Return the labels that masks of the space's images have, in order."""
    images = masked_images(view, attribute)["image_id"].to_numpy()
    if not len(images):
        return []
    found = view.sql(read_sql("queries/labels_of_masks.sql"), values_of(attribute))
    return [str(label) for label in found["label"].to_pylist()]


def drawn(image_ids: npt.NDArray[np.integer], most: int, seed: int) -> list[int]:
    """Return at most so many of the images, in order; all where that is 0."""
    if most == 0 or len(image_ids) <= most:
        return [int(image) for image in image_ids]
    chosen = np.random.default_rng(seed).choice(image_ids, most, replace=False)
    return [int(image) for image in np.sort(chosen)]


def readable(job: Job, image_ids: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Yield the pictures of images; those that are gone are counted."""
    from glasshouse.warehouse.showing.pictures import pictures

    for image_id, picture in pictures(job.view.warehouse, image_ids):
        if isinstance(picture, GlasshouseError):
            job.unreadable += 1
        else:
            yield image_id, picture


def blocks(view: AnalysisView, image_ids: Sequence[int]) -> Iterator[list[int]]:
    """Yield some images at a time, as many as have `MAX_ACTIVATIONS` active patches on average."""
    n_active = int(view.statistics()["n_tokens"].sum())
    at_once = max(1, int(MAX_ACTIVATIONS * len(view.image_ids) / max(n_active, 1)))
    for start in range(0, len(image_ids), at_once):
        yield list(image_ids[start : start + at_once])


def codes_of(view: AnalysisView, image_ids: Sequence[int], n_tokens: int) -> scipy.sparse.csr_array:
    """Return the activations of images, patch by patch, float32 CSR [images × tokens, F]."""
    import polars as pl
    import scipy.sparse

    places = pl.DataFrame({"image_id": image_ids}, schema={"image_id": pl.Int32}).with_row_index("place")
    with view.connection() as connection:
        connection.register("chosen", places.to_arrow())
        found = connection.sql(read_sql("queries/codes_of_images.sql")).fetchnumpy()
    row_n = found["place"].astype(np.int64) * n_tokens + found["token"]
    shape = (len(image_ids) * n_tokens, view.n_features)
    return scipy.sparse.csr_array((found["value"], (row_n, found["feature_id"])), shape=shape)


def table_of(sums: Contributions, n_named: int, names: Sequence[str]) -> pa.Table:
    """Return a row for each feature and class on whose patches it is active; background texts have none."""
    class_n, feature_n = np.nonzero(sums.n_active_cf[:n_named])
    order = np.lexsort((class_n, feature_n))
    class_n, feature_n = class_n[order], feature_n[order]
    columns = {
        "feature_id": feature_n.astype(np.int32),
        "class_name": np.array(names, dtype=object)[class_n],
        "contribution": sums.mean_cf()[class_n, feature_n],
        "share": sums.share_cf()[class_n, feature_n],
        "n_patches": sums.n_active_cf[class_n, feature_n],
        "n_class_patches": sums.n_patches_c[class_n],
    }
    return pa.table({name: pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()})
