"""What becomes of a classifier when components are switched off: accuracy before and after, and two controls.

The means that components are set to come from one set of images, accuracy is measured on another. Beside what is asked
for stand the other constant (zero beside mean), and as many random components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.attribution_maps import batches_of
from glasshouse.plugins.analyzers.relevance_classes import (
    PREDICTED,
    Asked,
    Classifier,
    labelled,
    labels_that_are_no_class,
)
from glasshouse.plugins.analyzers.relevance_methods import Place, place_of
from glasshouse.plugins.encoders.hooked import HookedEncoder
from glasshouse.plugins.pruning.accuracy import Edit, Outcomes, mean_of, outcomes
from glasshouse.plugins.pruning.hook import Pruning
from glasshouse.schema.errors import UsageError, unknown_name
from glasshouse.warehouse.splits import TEST, TRAIN, VALIDATION, parts_of

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

AS_IS, PRUNED, OTHER, RANDOM = "as is", "pruned", "other", "random"
N_DRAWS = 3
"""Random sets of components; their accuracies are averaged."""

Constant = Literal["mean", "zero"]


class Cue(NamedTuple):
    """What may be on a picture and should not count: a label and its value, e.g. `watermark=present`."""

    attribute: str
    value: str


@dataclass(frozen=True)
class Row:
    """Accuracy of one class, or of a group of them, in one group of images.

    `cue` is whether the cue is on the images; None for all. `random` is the mean over draws.
    """

    name: str
    cue: bool | None
    n: int
    as_is: float | None
    pruned: float | None
    other: float | None
    random: float | None


@dataclass(frozen=True)
class PruneReport:
    """What pruning does.

    Attributes:
        pruning: what was switched off, and to what.
        rows: accuracies: the class asked about first, the other classes together, then every class.
        other: the constant of the control `other`.
        no_class: values of the label that are no class of the model, and on how many images; these are left out.
        n_reference: images that the means are from.
        split: where reference and measured images come from, in words.
        n_unreadable: pictures that could not be read.
    """

    pruning: Pruning
    rows: list[Row]
    other: Constant
    no_class: dict[str, int]
    n_reference: int
    split: str
    n_unreadable: int

    def given_back(self) -> float | None:
        """Share of what the cue costs the first row's class that pruning gives back on images without it.

        (accuracy without the cue, pruned − as is) / (accuracy with the cue − without it, as is); None where the cue
        costs nothing.
        """
        first = self.rows[0].name
        found = {row.cue: row for row in self.rows if row.name == first}
        with_cue, without = found.get(True), found.get(False)
        if with_cue is None or without is None or None in (with_cue.as_is, without.as_is, without.pruned):
            return None
        cost = float(with_cue.as_is or 0) - float(without.as_is or 0)
        return (float(without.pruned or 0) - float(without.as_is or 0)) / cost if cost > 0 else None


def parse_cue(text: str) -> Cue:
    """Read `ATTRIBUTE=VALUE`.

    Raises:
        UsageError: it is not of that form.
    """
    attribute, equals, value = text.partition("=")
    if not (attribute and equals and value):
        raise UsageError(f"--cue reads ATTRIBUTE=VALUE, e.g. watermark=present, not '{text}'.")
    return Cue(attribute, value)


def prune(
    view: AnalysisView,
    model: Classifier,
    components: Sequence[int],
    *,
    to: Constant,
    attribute: str,
    class_name: str | None,
    cue: Cue | None,
    seed: int,
) -> PruneReport:
    """Switch components off and measure what that does.

    Args:
        view: of the space whose features the components are.
        model: its encoder as a classifier.
        components: feature ids.
        to: what they become.
        attribute: the label that says the images' classes.
        class_name: the class that is told apart from the others; None for none.
        cue: images are told apart by; None for none.
        seed: of the split where no label `split` says it, and of the random components.

    Raises:
        UsageError: unknown components or labels, or a part without images.
    """
    chosen = _checked(view, components)
    place = place_of(view, model)
    asked, reference_n, split = _parts(view, model, attribute, seed)
    mean_f = mean_activations(view, model, place, reference_n)
    pruning = _pruning(view, model, place, chosen, to, mean_f)
    other: Constant = "zero" if to == "mean" else "mean"
    beside = _pruning(view, model, place, chosen, other, mean_f)
    rng = np.random.default_rng(seed)
    rest = np.setdiff1d(np.arange(view.n_features), chosen)
    draws = [
        _pruning(
            view,
            model,
            place,
            sorted(rng.choice(rest, min(len(chosen), len(rest)), replace=False).tolist()),
            to,
            mean_f,
        )
        for _ in range(N_DRAWS if len(rest) >= len(chosen) else 0)
    ]
    edits: dict[str, Edit | None] = {
        AS_IS: None,
        PRUNED: pruning.edit(place.sae),
        OTHER: beside.edit(place.sae),
        **{f"{RANDOM} {draw}": one.edit(place.sae) for draw, one in enumerate(draws)},
    }
    has_cue = None if cue is None else _with_cue(view, cue)
    found = outcomes(view, model, asked, has_cue, place.point.name, edits)
    rows = _rows(found, model, None if class_name is None else model.number(class_name))
    no_class = labels_that_are_no_class(view, model, attribute)
    return PruneReport(pruning, rows, other, no_class, len(reference_n), split, found.n_unreadable)


def _checked(view: AnalysisView, components: Sequence[int]) -> list[int]:
    if not components:
        raise UsageError("There is nothing to switch off: name components with --features, or flag some with an audit.")
    wrong = next((feature for feature in components if not 0 <= feature < view.n_features), None)
    if wrong is not None:
        raise UsageError(f"The space '{view.space}' has no feature {wrong}: they run from 0 to {view.n_features - 1}.")
    return sorted(set(components))


def _parts(
    view: AnalysisView, model: Classifier, attribute: str, seed: int
) -> tuple[Asked, npt.NDArray[np.integer], str]:
    """Return the images that are measured and their classes, the images of the means, and how they were told apart."""
    if attribute == PREDICTED:
        raise UsageError(
            "Accuracy needs the true classes, and there is no label all of whose values are classes. Add one with "
            "`glasshouse add --labels FILE`, or name one with --attribute."
        )
    label_of = labelled(view, attribute)
    number_of = {name: number for number, name in enumerate(model.names)}
    image_n = view.image_ids
    hashes = view.images()["sha256"].gather(image_n).to_list()
    splits = labelled(view, "split")
    part_n, words = parts_of(splits, image_n, hashes, seed)
    reference_n = image_n[(part_n == TRAIN) | (part_n == VALIDATION)]
    measured = [int(i) for i in image_n[part_n == TEST] if label_of.get(int(i)) in number_of]
    if not len(reference_n) or not measured:
        raise UsageError(
            f"Of {len(image_n)} images {len(reference_n)} are for the means and {len(measured)} with a class by the "
            f"label '{attribute}' are measured ({words}). Both need some: add images, or labels `split`."
        )
    classes = np.array([number_of[label_of[image]] for image in measured])
    return Asked(np.array(measured), classes), reference_n, words


def mean_activations(
    view: AnalysisView, model: Classifier, place: Place, image_n: npt.NDArray[np.integer]
) -> npt.NDArray[np.float64]:
    """Return each component's mean over all tokens of the space on some images, silent ones included: float64 [F]."""
    neurons = view.record["sae_spec"] == "neurons"
    sum_f, n_tokens = np.zeros(view.n_features), 0
    for batch in batches_of(view, model.encoder, image_n, 64):
        if batch.batch_bchw is None:
            continue
        hook = place.point.name
        acts_btd = model.encoder.forward(batch.batch_bchw, [hook], embedding=False).activations[hook][:, place.tokens]
        acts_nd = acts_btd.reshape(-1, acts_btd.shape[-1])
        n_tokens += len(acts_nd)
        if neurons:
            sum_f += acts_nd.double().sum(dim=0).cpu().numpy()
        else:
            codes = place.sae.encode(acts_nd)
            sum_f += np.bincount(codes.feature.numpy(), codes.value.numpy(), view.n_features)
    if not n_tokens:
        raise UsageError("None of the pictures that the means are from can be read. Put them back where they were.")
    return sum_f / n_tokens


def _pruning(
    view: AnalysisView, model: Classifier, place: Place, components: Sequence[int], to: Constant, mean_f: Any
) -> Pruning:
    module, side, layout = _module(model.encoder, place.point.name)
    return Pruning(
        encoder=model.encoder.spec,
        fingerprint=model.encoder.fingerprint,
        hook=place.point.name,
        module=module,
        side=side,
        layout=layout,
        first=place.point.n_prefix if place.tokens.stop is None else 0,
        only_first=place.tokens.stop is not None,
        sae=str(view.record["sae_spec"]),
        to=to,
        components=tuple(int(component) for component in components),
        values=tuple(float(mean_f[component]) if to == "mean" else 0.0 for component in components),
    )


def _module(encoder: Any, hook: str) -> tuple[str | None, Any, Any]:
    """Return the path of the module behind a hook point, which side of it, and the layout of what is there."""
    if not isinstance(encoder, HookedEncoder):
        return None, "output", "tokens"
    tap = encoder.tower.taps[hook]
    paths = [path for path, module in encoder.tower.model.named_modules() if module is tap.module]
    return paths[0] if paths else None, tap.side, tap.layout


def _with_cue(view: AnalysisView, cue: Cue) -> set[int]:
    query = "SELECT DISTINCT image_id, value FROM image_labels WHERE attribute = $attribute"
    rows = view.sql(query, {"attribute": cue.attribute})
    values = sorted(set(rows["value"].to_pylist()))
    if cue.value not in values:
        if not values:
            known = view.sql("SELECT DISTINCT attribute FROM image_labels ORDER BY 1")["attribute"].to_pylist()
            raise unknown_name("label", cue.attribute, known)
        raise UsageError(
            f"No image has the label '{cue.attribute}' with the value '{cue.value}'. Its values: "
            f"{', '.join(values[:20])}."
        )
    pairs = zip(rows["image_id"].to_pylist(), rows["value"].to_pylist(), strict=True)
    return {int(image) for image, value in pairs if value == cue.value}


def _rows(found: Outcomes, model: Classifier, number: int | None) -> list[Row]:
    cues = (None,) if found.cue_n is None else (None, True, False)
    groups: list[tuple[str, dict[str, int | None]]] = []
    if number is not None:
        groups += [(model.names[number], {"of": number}), ("other classes", {"besides": number})]
    groups.append(("all classes", {}))
    present = [c for c in np.unique(found.class_n).tolist() if c != number]
    groups += [(model.names[c], {"of": c}) for c in present]
    return [_row(found, name, which, cue) for name, which in groups for cue in cues]


def _row(found: Outcomes, name: str, which: dict[str, Any], cue: bool | None) -> Row:
    by = {edit: found.accuracy(edit, cue=cue, **which) for edit in found.right}
    draws = [accuracy for edit, accuracy in by.items() if edit.startswith(RANDOM)]
    return Row(name, cue, by[AS_IS].n, by[AS_IS].value, by[PRUNED].value, by[OTHER].value, mean_of(draws))
