"""Analyzer `probe`: which concepts tell the classes of images apart, and how well they do.

As published (Insight / CFM, arXiv 2601.13798): a linear probe without bias on each image's activations, in spaces of
patches their maximum over the patches. The L1 penalty, one class against the rest, and everything else are our
reading, explained in docs/analyses.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers.embedding_choice import candidates
from glasshouse.plugins.analyzers.probe_fit import GRID, Floats, Probe, Scores, fit, scores_on_test, shuffled
from glasshouse.plugins.analyzers.probe_targets import Targets, choose_attribute, targets_of
from glasshouse.schema.errors import unknown_name
from glasshouse.warehouse.splits import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    import scipy.sparse

    from glasshouse.plugins.view import AnalysisView

SCHEMA = pa.schema(
    [
        ("feature_id", pa.int32()),
        ("attribute", pa.string()),
        ("class", pa.string()),
        ("weight", pa.float64()),
        ("rank", pa.int32()),
        ("mean_contribution", pa.float64()),
        ("share", pa.float64()),
        ("n_active", pa.int32()),
        ("n_images", pa.int32()),
        ("n_nonzero", pa.int32()),
        ("ap", pa.float64()),
        ("ap_embedding", pa.float64()),
        ("accuracy", pa.float64()),
        ("accuracy_embedding", pa.float64()),
        ("accuracy_majority", pa.float64()),
        ("accuracy_shuffled", pa.float64()),
    ]
)


class ProbeParameters(Parameters):
    """Parameters of `probe`."""

    attribute: str | None = Field(
        None, description="What is to be told: a label's attribute, category or supercategory; by default class."
    )
    slack: float = Field(
        0.01, ge=0, le=1, description="Score on the validation images that may be given up for fewer concepts."
    )
    c: float | None = Field(None, gt=0, description="Inverse strength of the L1 penalty, instead of choosing it.")
    min_images: int = Field(5, ge=1, description="Classes with fewer training images are left out.")
    raw: bool = Field(True, description="Also probe the encoder's own image embedding.")
    embeddings: tuple[str, ...] = Field((), description="Another image embedding to probe beside it.")
    seed: int = Field(0, ge=0, description="Of the split where no labels say it, and of the shuffled control.")


class Raw(NamedTuple):
    """A probe of an image embedding, and how many test images have a vector."""

    name: str
    probe: Probe
    scores: Scores
    n_test: int


class ProbeAnalyzer(Analyzer[ProbeParameters]):
    """Tell the classes of images apart by few concepts, linearly, and say which concepts decide each class.

    The accuracy on the test images stands beside that of the same probe on the encoder's own embedding, of always
    naming the most frequent class, and of a probe that learned from shuffled classes.
    """

    summary: ClassVar[str] = "Which concepts tell classes apart: a sparse linear probe, beside one on the embedding"
    parameters: ClassVar[type[Parameters]] = ProbeParameters
    schema: ClassVar[pa.Schema] = SCHEMA
    facets: ClassVar[tuple[str, ...]] = ("attribute",)
    in_features: ClassVar[tuple[str, ...]] = ("class", "weight", "share")
    strongest: ClassVar[str | None] = "share"

    def resolve(self, view: AnalysisView, parameters: ProbeParameters) -> ProbeParameters:
        """Choose the attribute, and see that the embeddings are there."""
        known = [str(record["name"]) for record in view.embedding_records()]
        for name in parameters.embeddings:
            if name not in known:
                raise unknown_name("embedding", name, known, "Make one with `glasshouse embed`.")
        return parameters.model_copy(update={"attribute": choose_attribute(view, parameters.attribute)})

    def run(self, view: AnalysisView, parameters: ProbeParameters) -> Rows:
        """Fit the probe of the concepts, its control, and those of the embeddings."""
        targets = targets_of(view, str(parameters.attribute), parameters.min_images, parameters.seed)
        own = candidates(view, circular=True)[:1] if parameters.raw else []
        names = list(dict.fromkeys([*own, *parameters.embeddings]))
        step = _Steps(view, len(targets.classes), 1 + len(names))
        acts_nf = activations(view, targets)
        inputs_nf, scale_f = scaled(acts_nf, targets)
        probe = fit(inputs_nf, targets, "l1", slack=parameters.slack, c=parameters.c, step=step)
        scores = scores_on_test(probe, inputs_nf, targets)
        step.finish(1)
        control = scores_on_test(
            fit(inputs_nf, shuffled(targets, parameters.seed), "l1", c=probe.c), inputs_nf, targets
        )
        raws = []
        for number, name in enumerate(names):
            raws.append(raw_probe(view, name, targets, step))
            step.finish(2 + number)
        first = raws[0] if own else None
        majority = float(targets.true_nc[targets.rows(TEST), 0].mean())
        self._note(view, parameters, targets, probe, scores, control, raws, majority)
        figures = {
            "attribute": parameters.attribute,
            "accuracy": scores.accuracy,
            "accuracy_embedding": first.scores.accuracy if first else None,
            "accuracy_majority": majority,
            "accuracy_shuffled": control.accuracy,
        }
        ap_embedding_c = first.scores.ap_c if first else np.full(len(targets.classes), np.nan)
        return _table(acts_nf, targets, probe.weights_fc / scale_f[:, None], scores.ap_c, ap_embedding_c, figures)

    def _note(
        self,
        view: AnalysisView,
        parameters: ProbeParameters,
        targets: Targets,
        probe: Probe,
        scores: Scores,
        control: Scores,
        raws: list[Raw],
        majority: float,
    ) -> None:
        n_used = int((probe.weights_fc != 0).any(axis=1).sum())
        own = f", embedding {raws[0].scores.accuracy:.3f}" if raws else ""
        view.note(
            summary=f"{parameters.attribute}: accuracy {scores.accuracy:.3f} with {n_used} concepts{own}, "
            f"most frequent {majority:.3f}, shuffled {control.accuracy:.3f}, on {len(targets.rows(TEST))} images",
            classes=targets.classes,
            multilabel=targets.is_multilabel,
            split=targets.split,
            n_train=len(targets.rows(TRAIN)),
            n_validation=len(targets.rows(VALIDATION)),
            n_test=len(targets.rows(TEST)),
            classes_left_out=targets.left_out,
            c=probe.c,
            tried={str(c): score for c, score in probe.tried.items()},
            n_concepts=n_used,
            n_unfinished=probe.n_unfinished,
            accuracy=scores.accuracy,
            mean_ap=scores.mean_ap,
            accuracy_majority=majority,
            accuracy_shuffled=control.accuracy,
            mean_ap_shuffled=control.mean_ap,
            embeddings={
                raw.name: {
                    "accuracy": raw.scores.accuracy, "mean_ap": raw.scores.mean_ap, "c": raw.probe.c,
                    "n_test": raw.n_test,
                }
                for raw in raws
            },
        )  # fmt: skip


class _Steps:
    """Counts fits for the progress: one for each class and value of C; what an early end leaves out is skipped."""

    def __init__(self, view: AnalysisView, n_classes: int, n_probes: int) -> None:
        self._view = view
        self._per_probe = n_classes * (len(GRID) + 1)
        self._total = self._per_probe * n_probes
        self._done = 0

    def __call__(self) -> None:
        self._done += 1
        self._view.progress(self._done, self._total)

    def finish(self, n_probes: int) -> None:
        """Say that so many probes are done."""
        self._done = self._per_probe * n_probes
        self._view.progress(self._done, self._total)


def activations(view: AnalysisView, targets: Targets) -> scipy.sparse.csr_matrix:
    """Return the activations of the targets' images, CSR float64 [n, F] with the 32-bit indices that solvers take."""
    import scipy.sparse

    rows_nf = view.sparse_matrix()[targets.image_n]
    parts = (rows_nf.data.astype(np.float64), rows_nf.indices.astype(np.int32), rows_nf.indptr.astype(np.int32))
    return scipy.sparse.csr_matrix(parts, shape=rows_nf.shape)


def scaled(acts_nf: scipy.sparse.csr_matrix, targets: Targets) -> tuple[scipy.sparse.csr_matrix, Floats]:
    """Divide each feature by its maximum on the training images, so that the penalty treats rare and loud ones alike.

    Zero stays zero, so that what is sparse stays so. Returns the inputs and the divisors [F], 1 for silent features.
    """
    import scipy.sparse

    top_f = np.asarray(acts_nf[targets.rows(TRAIN)].max(axis=0).todense()).ravel()
    top_f = np.where(top_f > 0, top_f, 1.0)
    inputs = scipy.sparse.csr_matrix(
        (acts_nf.data / top_f[acts_nf.indices], acts_nf.indices, acts_nf.indptr), shape=acts_nf.shape
    )
    return inputs, top_f


def raw_inputs(vectors_ne: Floats, train: Any) -> Floats:
    """Return vectors of unit length, times one number that makes the mean square of the training rows' entries 1."""
    unit_ne = vectors_ne.astype(np.float64)
    unit_ne /= np.maximum(np.linalg.norm(unit_ne, axis=1, keepdims=True), 1e-30)
    return np.asarray(unit_ne / max(float(np.sqrt(np.mean(unit_ne[train] ** 2))), 1e-30))


def raw_probe(view: AnalysisView, name: str, targets: Targets, step: Any) -> Raw:
    """Fit the same kind of probe, with an L2 penalty, on an image embedding; images without a vector are left out."""
    image_n, vectors_ne = view.embedding(name)
    whole_n = np.isfinite(vectors_ne).all(axis=1)
    image_n, vectors_ne = image_n[whole_n], vectors_ne[whole_n]
    kept = np.isin(targets.image_n, image_n)
    some = targets._replace(image_n=targets.image_n[kept], true_nc=targets.true_nc[kept], part_n=targets.part_n[kept])
    rows = np.searchsorted(image_n, some.image_n)
    inputs_ne = raw_inputs(vectors_ne[rows], some.rows(TRAIN))
    probe = fit(inputs_ne, some, "l2", step=step)
    return Raw(name, probe, scores_on_test(probe, inputs_ne, some), len(some.rows(TEST)))


def _table(
    acts_nf: scipy.sparse.csr_matrix,
    targets: Targets,
    weights_fc: Floats,
    ap_c: Floats,
    ap_embedding_c: Floats,
    figures: dict[str, Any],
) -> pa.Table:
    """Return a row for each feature and class with a weight, by class, the largest share first.

    mean_contribution is weight × mean activation over all images of the class; share is its absolute value over the
    sum of these of all features.
    """
    tables = []
    for number, name in enumerate(targets.classes):
        features = np.flatnonzero(weights_fc[:, number])
        of_class = acts_nf[np.flatnonzero(targets.true_nc[:, number])]
        mean_k = np.asarray(of_class.mean(axis=0)).ravel()[features]
        active_k = np.asarray((of_class > 0).sum(axis=0)).ravel()[features]
        contribution_k = weights_fc[features, number] * mean_k
        total = np.abs(contribution_k).sum()
        share_k = np.abs(contribution_k) / total if total > 0 else np.zeros(len(features))
        order = np.lexsort((features, -share_k))
        constant = {**figures, "class": name, "n_images": of_class.shape[0], "n_nonzero": len(features)}
        constant |= {"ap": _known(ap_c[number]), "ap_embedding": _known(ap_embedding_c[number])}
        columns = {
            "feature_id": features[order],
            "weight": weights_fc[features, number][order],
            "rank": np.arange(len(features)),
            "mean_contribution": contribution_k[order],
            "share": share_k[order],
            "n_active": active_k[order],
        }
        arrays = [
            pa.array(columns[field.name], field.type)
            if field.name in columns
            else pa.array([constant[field.name]] * len(features), field.type)
            for field in SCHEMA
        ]
        tables.append(pa.Table.from_arrays(arrays, schema=SCHEMA))
    return pa.concat_tables(tables)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
