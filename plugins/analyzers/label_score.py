"""Is a label right? How well it tells the images on which a feature is active from those on which it is silent.

With p scores of n⁺ active images and q scores of n⁻ silent ones,

    AUC = P(p > q) + ½ P(p = q)

over all n⁺·n⁻ pairs: 1 for a label that is always truer of the active images, ½ for one that says nothing.
Detection score after "delphi" (EleutherAI), there for language models: texts that activate a feature or do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer
from glasshouse.plugins.analyzers.label_parameters import CallParameters, labeler_loader, labeler_options
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.results.store import latest_run

if TYPE_CHECKING:
    from glasshouse.plugins.labelers.calls import Calls
    from glasshouse.plugins.labeling import LabelerOptions
    from glasshouse.plugins.view import AnalysisView
    from glasshouse.warehouse.results.records import Run

N_IMAGES = {"clip": 100, "vlm": 20}
"""Images per side when none is given: for `vlm` each five cost a call."""

NAMES = "names"
"""Stands in place of a labeler for the rows of the analyzer `names`; its method stands in place of the model."""
DISTINGUISHING = "distinguishing"
"""Stands in place of a method: the distinguishing names of the newest run, `parent: difference`."""


class LabelScoreParameters(CallParameters):
    """Parameters of `label_score`."""

    labeler: str | None = Field(
        None,
        description="Whose labels; by default those of the newest run of `labels`. `names`: those of that analysis.",
    )
    model: str | None = Field(
        None, description="Of which model, by default of its newest run; of `names` the method, or `distinguishing`."
    )
    scorer: Literal["clip", "vlm"] = Field(
        "clip", description="What compares label and images: CLIP's similarity, or a model's yes or no."
    )
    embedding: str | None = Field(
        None, description="Image embedding for `clip`; by default the first that texts can be compared with."
    )
    n_positive: int | None = Field(
        None, ge=1, description="Strongest images of each feature; by default 100 for `clip`, 20 for `vlm`."
    )
    n_negative: int | None = Field(
        None, ge=1, description="Random images on which it is silent; by default 100 for `clip`, 20 for `vlm`."
    )
    judge: str = Field("openai", description="For `vlm`: the labeler that is asked.")
    judge_model: str | None = Field(None, description="For `vlm`: its model.")
    base_url: str | None = Field(None, description="For `vlm`: address of the service.")
    seed: int = Field(0, ge=0, description="Of the random images.")


class LabelScore(Analyzer[LabelScoreParameters]):
    """Score labels: does a label tell the images that activate its feature from those that do not?

    `auc` and `balanced_accuracy` are 1 for a perfect label and about ½ for a random one. `auc_random` is the mean AUC
    of other features' labels on the same images, `beats_random` the share of them that the label beats.
    """

    # It does not require `labels`: that would have stale ones made anew by a service, which costs money.
    summary = "Whether labels are right: they tell active from silent images, by CLIP or by a model's yes and no"
    parameters = LabelScoreParameters
    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("feature_id", pa.int32()),
            ("labeler", pa.string()),
            ("model", pa.string()),
            ("label", pa.string()),
            ("scorer", pa.string()),
            ("auc", pa.float64()),
            ("balanced_accuracy", pa.float64()),
            ("auc_random", pa.float64()),
            ("beats_random", pa.float64()),
            ("n_positive", pa.int32()),
            ("n_negative", pa.int32()),
            ("n_parse_failures", pa.int32()),
        ]
    )
    facets = ("labeler", "model", "scorer")

    def resolve(self, view: AnalysisView, parameters: LabelScoreParameters) -> LabelScoreParameters:
        """Choose the labels, the embedding or the judge, and how many images.

        Raises:
            UsageError: there are no such labels, or nothing to compare them with.
        """
        labeler, model = whose_labels(view, parameters)
        default = N_IMAGES[parameters.scorer]
        chosen: dict[str, Any] = {
            "labeler": labeler,
            "model": model,
            "n_positive": parameters.n_positive or default,
            "n_negative": parameters.n_negative or default,
        }
        if parameters.scorer == "clip":
            chosen["embedding"] = _embedding(view, parameters.embedding)
        else:
            options = judge_options(view, parameters)
            loader = labeler_loader(view, parameters.judge)
            if not loader.sees_pictures:
                raise UsageError(f"The labeler '{parameters.judge}' sees no pictures. Name another with --judge.")
            resolved = loader.resolve(options)
            chosen |= {"judge_model": resolved.model, "base_url": resolved.base_url}
        return parameters.model_copy(update=chosen)

    def asks_a_service(self, view: AnalysisView, parameters: LabelScoreParameters) -> bool:
        """Whether the judge is somebody else's."""
        return parameters.scorer == "vlm" and labeler_loader(view, parameters.judge).is_remote

    def preview(self, view: AnalysisView, parameters: LabelScoreParameters) -> str:
        """Say how many labels are scored, and how many calls that takes."""
        labels = labels_of(view, parameters)
        head = f"{view.space}: {len(labels)} labels of {parameters.labeler} ({parameters.model})"
        if parameters.scorer == "clip":
            return f"{head}, scored by the similarity of '{parameters.embedding}': no calls."
        from glasshouse.plugins.analyzers.label_votes import calls_per_label

        n_images = (parameters.n_positive or 0) + (parameters.n_negative or 0)
        return (
            f"{head}, scored by {parameters.judge} ({parameters.judge_model}): up to "
            f"{len(labels) * calls_per_label(n_images)} calls, with {n_images} images for each label."
        )

    def run(self, view: AnalysisView, parameters: LabelScoreParameters) -> pa.Table:
        """Score every label that there is."""
        labels = labels_of(view, parameters)
        if parameters.scorer == "clip":
            from glasshouse.plugins.analyzers.label_similarity import clip_scores

            rows = clip_scores(view, parameters, labels)
        else:
            from glasshouse.plugins.analyzers.label_votes import vlm_scores

            rows = vlm_scores(view, parameters, labels)
        named = {"labeler": parameters.labeler, "model": parameters.model, "scorer": parameters.scorer}
        return pa.Table.from_pylist([{**named, **row} for row in rows], schema=self.schema)


def judge_options(view: AnalysisView, parameters: LabelScoreParameters, calls: Calls | None = None) -> LabelerOptions:
    """Return what the judge of `vlm` is told."""
    return labeler_options(
        view,
        parameters,
        model=parameters.judge_model,
        base_url=parameters.base_url,
        calls=calls,
        model_option="--judge-model",
    )


def whose_labels(view: AnalysisView, parameters: LabelScoreParameters) -> tuple[str, str]:
    """Return the labeler and model whose labels are scored; of names, `names` and their method.

    Raises:
        UsageError: there are no such labels or names.
    """
    if parameters.labeler != NAMES:
        run = labels_run(view, parameters.labeler, parameters.model)
        return str(run.facets["labeler"]), str(run.facets["model"])
    method = None if parameters.model in (None, DISTINGUISHING) else {"method": parameters.model}
    run_of_names = latest_run(view.warehouse.catalogue, "names", view.space, method)
    if run_of_names is None:
        option = f" --method {parameters.model}" if method else ""
        raise UsageError(
            f"There are no names{f' by the method {parameters.model}' if method else ''} of the space '{view.space}'. "
            f"Run `glasshouse analyze names --space {view.space}{option}`."
        )
    return NAMES, parameters.model or str(run_of_names.facets["method"])


def labels_run(view: AnalysisView, labeler: str | None, model: str | None) -> Run:
    """Return the newest run of `labels` on the space by a labeler and model, None standing for any.

    Raises:
        UsageError: there is none.
    """
    wanted = {name: value for name, value in (("labeler", labeler), ("model", model)) if value is not None}
    run = latest_run(view.warehouse.catalogue, "labels", view.space, wanted)
    if run is None:
        options = "".join(f" --{name} {value}" for name, value in wanted.items())
        by = f" by {' '.join(wanted.values())}" if wanted else ""
        raise UsageError(
            f"There are no labels{by} of the space '{view.space}'. Run "
            f"`glasshouse analyze labels --space {view.space}{options}`."
        )
    return run


def labels_of(view: AnalysisView, parameters: LabelScoreParameters) -> dict[int, str]:
    """Return the label of each feature that has one, by feature; failures are left out."""
    if parameters.labeler == NAMES:
        is_full = parameters.model == DISTINGUISHING
        frame = view.result("names", None if is_full else {"method": parameters.model})
        frame = frame.select("feature_id", label="distinguishing_name" if is_full else "name")
    else:
        frame = view.result("labels", {"labeler": parameters.labeler, "model": parameters.model})
    named = frame.drop_nulls("label").sort("feature_id")
    return {int(feature): str(label) for feature, label in named.select("feature_id", "label").iter_rows()}


def _embedding(view: AnalysisView, name: str | None) -> str:
    from glasshouse.warehouse.search.texts import text_capable_embeddings

    capable = text_capable_embeddings(view.warehouse)
    if name is None and capable:
        return capable[0]
    if name is None or name not in capable:
        known = f" Those that can: {', '.join(capable)}." if capable else ""
        what = f"the embedding '{name}'" if name else "any embedding here"
        raise UsageError(
            f"Texts cannot be compared with {what}.{known} Make one with `glasshouse embed --encoder open_clip:… "
            "--name clip`, or score with --scorer vlm."
        )
    return name
