"""Which class each image is asked about: the one that it is labelled with, or the one that the encoder predicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.attribution_maps import batches_of
from glasshouse.plugins.analyzers.space_models import encoder_of
from glasshouse.schema.errors import UsageError, unknown_name
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.contracts import ClassifyingEncoder, Encoder

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

PREDICTED: Final = "predicted"
"""The name of an attribute that stands for what the encoder says."""


class Classifier(NamedTuple):
    """The encoder of a space, and the names of its classes."""

    encoder: Encoder
    outputs: ClassifyingEncoder
    names: Sequence[str]

    def number(self, name: str) -> int:
        """Return the place of a class among the outputs.

        Raises:
            UsageError: no such class; known ones are listed.
        """
        if name not in self.names:
            raise unknown_name("class", name, self.names[:50], f"The classifier is {self.encoder.spec}.")
        return list(self.names).index(name)


class Asked(NamedTuple):
    """Images [n], ascending, and the class that each is asked about."""

    image_n: npt.NDArray[np.integer]
    class_n: npt.NDArray[np.integer]

    def by_class(self) -> Iterator[tuple[int, npt.NDArray[np.integer]]]:
        """Yield each class and its images."""
        for number in np.unique(self.class_n):
            yield int(number), self.image_n[self.class_n == number]


def classifier_of(view: AnalysisView, device: str = "cpu") -> Classifier:
    """Load the encoder of a space as a classifier.

    Raises:
        UsageError: the space was imported, or its encoder has no classifier.
        ModelError: it cannot be loaded, or has other weights now.
    """
    if view.record["encoder_spec"] is None:
        raise UsageError(
            f"The space '{view.space}' was imported: its encoder is not known, so it has no classes to ask about."
        )
    encoder = encoder_of(view, device)
    names = encoder.class_names if isinstance(encoder, ClassifyingEncoder) else None
    if names is None or not isinstance(encoder, ClassifyingEncoder):
        raise UsageError(
            f"{encoder.spec}, the encoder of the space '{view.space}', has no classifier, so nothing counts for a "
            "class. Extract a space of a model that has one, e.g. timm:resnet50.a1_in1k or starter:classifier."
        )
    return Classifier(encoder, encoder, names)


def labelled(view: AnalysisView, attribute: str) -> dict[int, str]:
    """Return the value of an attribute of each image that has one; of several the first in the alphabet."""
    rows = view.sql(read_sql("queries/probe_labels.sql"), {"attribute": attribute}).to_pydict()
    found: dict[int, str] = {}
    for image, value in zip(rows["image_id"], rows["value"], strict=True):
        found.setdefault(int(image), str(value))
    return found


def labels_that_are_no_class(view: AnalysisView, model: Classifier, attribute: str) -> dict[str, int]:
    """Return the values of a label that are no class of the model, and on how many images of the space each is."""
    if attribute == PREDICTED:
        return {}
    inside = set(view.image_ids.tolist())
    counts = Counter(value for image, value in labelled(view, attribute).items() if image in inside)
    return {value: counts[value] for value in sorted(set(counts) - set(model.names))}


def counted(values: dict[str, int]) -> str:
    """Return values with their counts in words, the first few of many."""
    words = [f"{value} ({n:,})" for value, n in list(values.items())[:5]]
    return ", ".join([*words, *(["…"] if len(values) > 5 else [])])


def choose_class_attribute(view: AnalysisView, attribute: str | None, names: Sequence[str]) -> str:
    """Return the attribute that says the images' classes, or `predicted`.

    When none is named: one all of whose values are classes of the encoder, `class` before others, then the one with
    most images; of an encoder that numbers its classes only `class`, `label` or `target`. Without one, what the encoder
    predicts.

    Raises:
        UsageError: an attribute is named that no image has, or none of whose values is a class.
    """
    if attribute == PREDICTED:
        return PREDICTED
    if attribute is None:
        query = (
            "SELECT attribute, count(*) AS n FROM image_labels WHERE NOT $numbered OR attribute IN ('class', 'label', "
            "'target') GROUP BY attribute HAVING bool_and(list_contains($names, value)) "
            "ORDER BY attribute <> 'class', n DESC, attribute"
        )
        # Numbers are values of many labels: where classes have no names, only a label that says so holds them.
        given = {"names": list(map(str, names)), "numbered": all(str(name).isdigit() for name in names)}
        known = view.sql(query, given)["attribute"].to_pylist()
        return str(known[0]) if known else PREDICTED
    values = set(labelled(view, attribute).values())
    if not values & set(names):
        has = f"has {', '.join(sorted(values)[:8])}" if values else "is on no image"
        raise UsageError(
            f"The label '{attribute}' {has}; the classes are {', '.join(names[:8])}{', …' if len(names) > 8 else ''}. "
            "Name a label whose values are classes, or --attribute predicted."
        )
    return attribute


def asked_classes(
    view: AnalysisView, model: Classifier, attribute: str, only: Sequence[str], most: int | None, seed: int
) -> Asked:
    """Return the images that are asked about, each with its class.

    Args:
        view: of the space; images that it does not cover are left out.
        model: of the space.
        attribute: as `choose_class_attribute` returned it.
        only: names of classes; all when empty.
        most: images of each class, drawn at random; None for all.
        seed: of the draw.

    Raises:
        UsageError: no image is of a class that is asked about.
    """
    wanted = {model.number(name) for name in only} or set(range(len(model.names)))
    number_of = {name: number for number, name in enumerate(model.names)}
    if attribute == PREDICTED:
        found = predicted(view, model)
    else:
        label_of = labelled(view, attribute)
        inside = set(view.image_ids.tolist())
        found = {i: number_of[name] for i, name in label_of.items() if name in number_of and i in inside}
    chosen = sorted((image, number) for image, number in found.items() if number in wanted)
    if not chosen:
        raise UsageError(
            f"No image of the space '{view.space}' is of the class {' or '.join(only)} by the label '{attribute}'."
            if only
            else f"No image of the space '{view.space}' has a class by the label '{attribute}'."
        )
    asked = Asked(*(np.array(column, dtype=np.int64) for column in zip(*chosen, strict=True)))
    return asked if most is None else _drawn(asked, most, seed)


def _drawn(asked: Asked, most: int, seed: int) -> Asked:
    rng = np.random.default_rng(seed)
    kept = [
        images if len(images) <= most else rng.choice(images, most, replace=False) for _, images in asked.by_class()
    ]
    is_kept_n = np.isin(asked.image_n, np.concatenate(kept))
    return Asked(asked.image_n[is_kept_n], asked.class_n[is_kept_n])


def predicted(view: AnalysisView, model: Classifier, batch_size: int = 64) -> dict[int, int]:
    """Return the class of largest logit of each image of the space whose picture can be read."""
    found: dict[int, int] = {}
    for batch in batches_of(view, model.encoder, view.image_ids, batch_size):
        if batch.batch_bchw is not None:
            best: Any = model.outputs.forward_logits(batch.batch_bchw).argmax(dim=1).cpu()
            found |= dict(zip(batch.image_ids, best.tolist(), strict=True))
    return found
