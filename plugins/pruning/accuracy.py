"""Accuracy of a classifier as it is and edited, class by class, with and without a cue on the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.attribution_maps import batches_of
from glasshouse.plugins.analyzers.relevance_classes import Asked, Classifier

if TYPE_CHECKING:
    import torch

    from glasshouse.plugins.view import AnalysisView

Edit = Callable[["torch.Tensor"], "torch.Tensor"]
BATCH = 64


class Accuracy(NamedTuple):
    """Share of images whose class has the largest logit; None of no images."""

    n: int
    n_right: int

    @property
    def value(self) -> float | None:
        """The share."""
        return self.n_right / self.n if self.n else None


@dataclass
class Outcomes:
    """What was right and wrong under each edit: parallel over the images that could be read.

    Attributes:
        class_n: the class of each image.
        cue_n: whether the cue is on it; None where no cue is asked about.
        right: by name of an edit, whether each image was right.
        n_unreadable: pictures that could not be read.
    """

    class_n: npt.NDArray[np.integer]
    cue_n: npt.NDArray[np.bool_] | None
    right: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    n_unreadable: int = 0

    def accuracy(
        self, edit: str, *, of: int | None = None, besides: int | None = None, cue: bool | None = None
    ) -> Accuracy:
        """Return the accuracy under an edit: of one class, or of all but one; with or without the cue."""
        kept = np.ones(len(self.class_n), dtype=bool)
        if of is not None:
            kept &= self.class_n == of
        if besides is not None:
            kept &= self.class_n != besides
        if cue is not None and self.cue_n is not None:
            kept &= self.cue_n == cue
        return Accuracy(int(kept.sum()), int(self.right[edit][kept].sum()))


def outcomes(
    view: AnalysisView,
    model: Classifier,
    asked: Asked,
    has_cue: set[int] | None,
    hook: str,
    edits: Mapping[str, Edit | None],
) -> Outcomes:
    """Run every image through every edit.

    Args:
        view: of the space; told the progress.
        model: the classifier.
        asked: images and their true classes.
        has_cue: images with the cue; None where none is asked about.
        hook: where the edits are made.
        edits: by name; None for the pass as it is.
    """
    images: list[int] = []
    right: dict[str, list[npt.NDArray[np.bool_]]] = {name: [] for name in edits}
    class_of = dict(zip(asked.image_n.tolist(), asked.class_n.tolist(), strict=True))
    for batch in batches_of(view, model.encoder, asked.image_n, BATCH):
        if batch.batch_bchw is None:
            continue
        true_b = np.array([class_of[image] for image in batch.image_ids])
        for name, edit in edits.items():
            logits_bc = model.outputs.forward_logits(batch.batch_bchw, None if edit is None else hook, edit)
            right[name].append(logits_bc.argmax(dim=1).cpu().numpy() == true_b)
        images += batch.image_ids
        view.progress(len(images), len(asked.image_n))
    return Outcomes(
        np.array([class_of[image] for image in images], dtype=int),
        None if has_cue is None else np.array([image in has_cue for image in images], dtype=bool),
        {name: np.concatenate(parts) if parts else np.zeros(0, dtype=bool) for name, parts in right.items()},
        len(asked.image_n) - len(images),
    )


def mean_of(found: Sequence[Accuracy]) -> float | None:
    """Return the mean of accuracies over repeated draws; None of no images."""
    known = [accuracy.value for accuracy in found if accuracy.value is not None]
    return sum(known) / len(known) if known else None
