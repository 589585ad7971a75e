"""What an ablation is measured by: similarity to texts, logits of the embedding's probe, or the embedding alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from glasshouse.plugins.analyzers.ablation import Model
from glasshouse.plugins.analyzers.ablation_edits import Floats
from glasshouse.schema.errors import UsageError
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.search.templates import check_queries, check_templates, filled

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView


class Scored(NamedTuple):
    """Targets by name, the group that each is compared within, and their scores [n, T] of embeddings [n, E]."""

    names: list[str]
    groups: list[str]
    score: Callable[[Floats], Floats]

    def margins(self, changes_nt: Floats) -> Floats:
        """Return each target's change less the mean change of the others of its group; alone in it, of all others."""
        groups_t = np.array(self.groups, dtype=object)
        margins_nt = np.zeros_like(changes_nt)
        for number in range(len(self.names)):
            others = np.flatnonzero(groups_t == groups_t[number])
            others = others[others != number]
            if not len(others):
                others = np.flatnonzero(np.arange(len(self.names)) != number)
            mean_n = changes_nt[:, others].mean(axis=1) if len(others) else 0.0
            margins_nt[:, number] = changes_nt[:, number] - mean_n
        return margins_nt


def nothing_but_the_embedding() -> Scored:
    """No targets: the change of the embedding is all that is measured."""
    return Scored([], [], lambda embedding_ne: np.zeros((len(embedding_ne), 0)))


def values_of(view: AnalysisView, attributes: Sequence[str]) -> list[tuple[str, str]]:
    """Return (attribute, value) of all values of some attributes of labels, or of the annotations' categories.

    Raises:
        UsageError: an attribute has none.
    """
    found = []
    for attribute in attributes:
        rows = view.sql(read_sql("queries/probe_labels.sql"), {"attribute": attribute})
        values = sorted(set(rows["value"].to_pylist()))
        if not values:
            raise UsageError(
                f"Nothing is labelled with '{attribute}'. Name an attribute of `image_labels`, category or "
                "supercategory, or give the texts themselves with --texts."
            )
        found += [(attribute, value) for value in values]
    return found


def texts_scored(model: Model, texts: Sequence[str], named: Sequence[tuple[str, str]], template: str) -> Scored:
    """Cosine with texts: those that are given, a group of their own, and values of attributes put into a template.

    Raises:
        UsageError: the encoder has no text tower, or a text is empty.
    """
    check_templates([template])
    check_queries([*texts, *(value for _, value in named)])
    prompts = [*texts, *(filled(template, value) for _, value in named)]
    vectors_te = model.encoder.embed_text(prompts)
    if vectors_te is None:
        raise UsageError(
            f"{model.encoder.spec} has no text tower, so its embedding cannot be compared with words. Take --output "
            "probe or --output embedding."
        )
    units_te = unit(vectors_te.double().cpu().numpy())
    groups = ["" for _ in texts] + [attribute for attribute, _ in named]
    return Scored([*texts, *(value for _, value in named)], groups, lambda e_ne: unit(e_ne) @ units_te.T)


def probe_scored(view: AnalysisView, attribute: str | None) -> Scored:
    """Logits of the linear probe of the encoder's own embedding, fitted as the newest run of `probe` did.

    Raises:
        UsageError: there is no such run, or it has no probe of the embedding.
    """
    # Late: fitting needs scikit-learn, which takes a second to import.
    from glasshouse.plugins.analyzers.embedding_choice import candidates
    from glasshouse.plugins.analyzers.probe_fit import fit
    from glasshouse.plugins.analyzers.probe_targets import targets_of
    from glasshouse.warehouse.results.store import latest_run
    from glasshouse.warehouse.splits import TRAIN

    facets = {} if attribute is None else {"attribute": attribute}
    run = latest_run(view.warehouse.catalogue, "probe", view.space, facets)
    own = candidates(view, circular=True)[:1]
    if run is None or not own or own[0] not in run.notes["embeddings"]:
        named = "" if attribute is None else f" --attribute {attribute}"
        raise UsageError(
            "There is no probe of the encoder's own embedding to measure by. Run `glasshouse analyze probe --space "
            f"{view.space}{named}`; it takes the stored embedding of {view.record['encoder_spec']}."
        )
    view.result("probe", run.facets)  # noted as an input: another probe makes this result stale
    name = str(run.facets["attribute"])
    targets = targets_of(view, name, run.parameters["min_images"], run.parameters["seed"])
    image_n, vectors_ne = view.embedding(own[0])
    kept = np.isin(targets.image_n, image_n[np.isfinite(vectors_ne).all(axis=1)])
    some = targets._replace(image_n=targets.image_n[kept], true_nc=targets.true_nc[kept], part_n=targets.part_n[kept])
    units_ne = unit(vectors_ne[np.searchsorted(image_n, some.image_n)].astype(np.float64))
    scale = 1 / max(float(np.sqrt(np.mean(units_ne[some.rows(TRAIN)] ** 2))), 1e-30)
    weights_ec = scale * fit(units_ne * scale, some, "l2", c=run.notes["embeddings"][own[0]]["c"]).weights_fc
    return Scored(targets.classes, [name] * len(targets.classes), lambda e_ne: unit(e_ne) @ weights_ec)


def unit(vectors_ne: Floats) -> Floats:
    """Return vectors of length 1; zero stays zero."""
    return np.asarray(vectors_ne / np.maximum(np.linalg.norm(vectors_ne, axis=1, keepdims=True), 1e-30))
