"""One picture, segmented: what each class covers, and the concepts that say so. Behind `glasshouse segment`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from glasshouse.plugins.analyzers.clip_space import HOOK, HOW, decoder, require_clip_space
from glasshouse.plugins.analyzers.space_models import encoder_of, sae_of
from glasshouse.plugins.segmentation.patches import Contributions
from glasshouse.plugins.segmentation.picture import Segmenter
from glasshouse.plugins.segmentation.pixels import NOWHERE, UNKNOWN, Classes, classes_of_pixels
from glasshouse.plugins.segmentation.texts import class_vectors
from glasshouse.plugins.view import AnalysisView
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from glasshouse.warehouse.warehouse import Warehouse

BACKGROUND = "background"


class Ask(NamedTuple):
    """What is asked of a picture; the fields as those of the analysis `segment`."""

    classes: Sequence[str]
    templates: Sequence[str] = ("a {}",)
    background: Sequence[str] = ()
    threshold: float = 0.0
    windows: bool = False
    k: int = 5


class Concept(NamedTuple):
    """A feature's part in a class: mean contribution to the cosine, and share of all that speaks for the class."""

    feature_id: int
    label: str | None
    contribution: float
    share: float


class ClassPart(NamedTuple):
    """What is said of one class; `area` is its share of the pixels that the encoder sees."""

    name: str
    area: float
    n_patches: int
    concepts: Sequence[Concept]


@dataclass(frozen=True)
class Segmented:
    """A picture with a class for each pixel [height, width], the number of a part or `NOWHERE` or `UNKNOWN`."""

    picture: Image.Image
    space: str
    class_hw: Classes
    parts: Sequence[ClassPart]
    background_area: float
    seen: float

    def as_dict(self) -> dict[str, Any]:
        """Return what was found, JSON-able."""
        return {
            "space": self.space,
            "width": self.picture.width,
            "height": self.picture.height,
            "seen": self.seen,
            "background": self.background_area,
            "classes": [
                {**part._asdict(), "concepts": [concept._asdict() for concept in part.concepts]} for part in self.parts
            ],
        }


def segmented(warehouse: Warehouse, picture: Image.Image, space: str, ask: Ask) -> Segmented:
    """Segment a picture by the concepts of a space.

    Raises:
        UsageError: the space is not in CLIP's space, or the classes cannot be asked for.
        ModelError: encoder or SAE cannot be loaded, or have changed.
    """
    if not 0 <= ask.threshold < 1:  # NaN too
        raise UsageError(f"--threshold must be a number from 0 to below 1, not {ask.threshold}.")
    view = AnalysisView(warehouse, space)
    require_clip_space(view, "segment")
    found = decoder(view)
    if found is None:  # refused above
        raise UsageError(f"The space '{space}' is not in CLIP's space. {HOW}")
    encoder = encoder_of(view)
    classes_ce = class_vectors(encoder, [*ask.classes, *ask.background], ask.templates)
    sums = Contributions(found, classes_ce)
    segmenter = Segmenter(encoder, sae_of(view), found, classes_ce, ask.threshold)
    mosaic = segmenter.windows(picture, sums) if ask.windows else segmenter.view(picture, sums)
    class_hw = classes_of_pixels(mosaic.concepts_rlc, mosaic.framing, picture.size, len(ask.classes), ask.threshold)
    seen_hw = class_hw != UNKNOWN
    n_seen = max(int(seen_hw.sum()), 1)
    labels = labels_of(warehouse, space)
    areas = [float((class_hw == number).sum() / n_seen) for number in range(len(ask.classes))]
    parts = [
        ClassPart(name, area, int(sums.n_patches_c[number]), strongest(sums, number, ask.k, labels))
        for number, (name, area) in enumerate(zip(ask.classes, areas, strict=True))
    ]
    background = float((class_hw == NOWHERE).sum() / n_seen)
    return Segmented(picture, space, class_hw, parts, background, float(seen_hw.mean()))


def strongest(sums: Contributions, number: int, k: int, labels: dict[int, str]) -> list[Concept]:
    """Return the k features that speak most for a class."""
    share_f, mean_f = sums.share_cf()[number], sums.mean_cf()[number]
    order = [int(feature) for feature in np.argsort(-share_f, kind="stable")[:k] if share_f[feature] > 0]
    return [Concept(f, labels.get(f), float(mean_f[f]), float(share_f[f])) for f in order]


def labels_of(warehouse: Warehouse, space: str) -> dict[int, str]:
    """Return what features are called, where an analysis has named them: a label before a name."""
    columns = warehouse.sql("SELECT * FROM features LIMIT 0").columns
    named = [column for column in ("name", "label") if column in columns]
    labels: dict[int, str] = {}
    for column in named:
        rows = warehouse.sql("SELECT * FROM features WHERE space = $space", {"space": space})
        labels |= {int(f): str(text) for f, text in rows.select("feature_id", column).iter_rows() if text}
    return labels


def chosen_space(warehouse: Warehouse, name: str | None) -> str:
    """Return the space that is meant: the one named, or the only one in CLIP's space.

    Raises:
        UsageError: there is none, or there are several.
    """
    if name is not None:
        return name
    found = warehouse.spaces().filter(state="ready", hook=HOOK)["name"].to_list()
    if len(found) == 1:
        return str(found[0])
    if found:
        raise UsageError(f"Several spaces are in CLIP's space: {', '.join(sorted(found))}. Choose one with --space.")
    raise UsageError(f"No space of this warehouse is in CLIP's space, which segmentation needs. {HOW}")
