"""Analyzer `ablate`: what a concept does inside the encoder. It is taken out of the pass, and what changes is recorded.

The other analyses say with what a feature goes together; this one says what it causes. Two controls stand beside each
feature: another one that is as frequent, and a random direction of the same length on the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers.ablation import Ablator, Model, load_model
from glasshouse.plugins.analyzers.ablation_edits import Change
from glasshouse.plugins.analyzers.ablation_run import Sums, Totals, control_features, jobs_of, run_jobs
from glasshouse.plugins.analyzers.ablation_targets import (
    Scored,
    nothing_but_the_embedding,
    probe_scored,
    texts_scored,
    values_of,
)
from glasshouse.plugins.analyzers.label_questions import choose_features
from glasshouse.plugins.analyzers.probe_targets import choose_attribute
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

SCHEMA = pa.schema(
    [
        ("feature_id", pa.int32()),
        ("output", pa.string()),
        ("to", pa.string()),
        ("attribute", pa.string()),
        ("target", pa.string()),
        ("effect", pa.float64()),
        ("effect_per_unit", pa.float64()),
        ("margin", pa.float64()),
        ("rank", pa.int32()),
        ("effect_feature", pa.float64()),
        ("margin_feature", pa.float64()),
        ("effect_direction", pa.float64()),
        ("margin_direction", pa.float64()),
        ("embedding_change", pa.float64()),
        ("embedding_change_feature", pa.float64()),
        ("embedding_change_direction", pa.float64()),
        ("control_feature_id", pa.int32()),
        ("removed", pa.float64()),
        ("n_images", pa.int32()),
    ]
)


class AblateParameters(Parameters):
    """Parameters of `ablate`."""

    features: tuple[int, ...] = Field((), description="A feature to take out; by default the best `n` are chosen.")
    n: int = Field(50, ge=1, description="How many features are chosen: by tier, then by MS, then by activity.")
    k: int = Field(20, ge=1, description="Strongest images of each feature on which it is taken out.")
    to: Literal["zero", "mean", "scale"] = Field(
        "zero", description="What its activation becomes: 0, its mean over all tokens, or `scale` times itself."
    )
    scale: float = Field(0.0, ge=0, description="The factor of `--to scale`.")
    reconstruction: bool = Field(False, description="Run on with the SAE's reconstruction, without its error.")
    output: Literal["texts", "probe", "embedding"] | None = Field(
        None, description="What is measured; by default texts where the encoder reads them, else embedding."
    )
    attributes: tuple[str, ...] = Field((), description="Its values are the texts; for `probe`, the probe's attribute.")
    texts: tuple[str, ...] = Field((), description="A text to measure by.")
    template: str = Field("{}", description="Sentence into which the attributes' values are put, e.g. a photo of {}.")
    batch_size: int = Field(16, ge=1, description="Images per forward pass.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the encoder runs.")
    seed: int = Field(0, ge=0, description="Of the control features and random directions.")


class Ablate(Analyzer[AblateParameters]):
    """Take features out of the encoder's pass and record what it changes: the causal check of what they stand for.

    Measured are the embedding, its similarity to texts, or the logits of its probe, on the strongest images of each
    feature, beside another feature that is as frequent and a random direction of the same length.
    """

    summary: ClassVar[str] = "What features cause: they are taken out of the pass, and texts, probe or embedding change"
    parameters: ClassVar[type[Parameters]] = AblateParameters
    schema: ClassVar[pa.Schema] = SCHEMA
    facets: ClassVar[tuple[str, ...]] = ("output", "to")
    in_features: ClassVar[tuple[str, ...]] = ("target", "margin", "embedding_change")
    strongest: ClassVar[str | None] = "margin"

    def resolve(self, view: AnalysisView, parameters: AblateParameters) -> AblateParameters:
        """See that the encoder can be edited where the space reads it, and choose what is measured."""
        if parameters.scale and parameters.to != "scale":
            raise UsageError("--scale counts with --to scale only.")
        model = load_model(view, _device(parameters.device))
        reads = model.encoder.embed_text(["a"]) is not None
        output = parameters.output or ("texts" if reads else "embedding")
        chosen: dict[str, Any] = {"output": output}
        if output == "probe" and len(parameters.attributes) > 1:
            raise UsageError("A probe has one attribute. Give --attributes once, or leave it away.")
        if output == "texts" and not parameters.texts and not parameters.attributes:
            try:
                chosen["attributes"] = (choose_attribute(view, None),)
            except UsageError:
                if parameters.output:
                    raise UsageError(
                        "There are no texts to measure by: nothing is labelled. Give some with --texts."
                    ) from None
                chosen["output"] = "embedding"
        return parameters.model_copy(update=chosen)

    def run(self, view: AnalysisView, parameters: AblateParameters) -> Rows:
        """Take every feature out of its strongest images."""
        model = load_model(view, _device(parameters.device))
        scored = _scored(view, model, parameters)
        features = choose_features(view, parameters.features, parameters.n)
        statistics = view.statistics()
        n_active_f = np.zeros(view.n_features, dtype=int)
        n_active_f[statistics["feature_id"].to_numpy()] = statistics["n_active"].to_numpy()
        active = [feature for feature in features.features if n_active_f[feature] > 0]
        control = control_features(n_active_f, active, parameters.seed)
        jobs = jobs_of(view, active, control, parameters.k)
        ablator = Ablator(
            model,
            change_of(view, parameters),
            reconstruction=parameters.reconstruction,
            seed=parameters.seed,
        )
        sums = run_jobs(view, ablator, jobs, scored, parameters.batch_size)
        rows = _rows(active, control, sums, scored, parameters)
        _note(view, rows, features.by, ablator.shares)
        return rows


def _device(name: str) -> str:
    import torch  # late: it takes a second to import

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _scored(view: AnalysisView, model: Model, parameters: AblateParameters) -> Scored:
    if parameters.output == "texts":
        named = values_of(view, parameters.attributes)
        return texts_scored(model, list(dict.fromkeys(parameters.texts)), named, parameters.template)
    if parameters.output == "probe":
        return probe_scored(view, next(iter(parameters.attributes), None))
    return nothing_but_the_embedding()


def change_of(view: AnalysisView, parameters: AblateParameters) -> Change:
    """Return what activations become. The mean is over all tokens that are rows of the space, zeros included."""
    value_f = np.zeros(view.n_features)
    if parameters.to == "mean":
        n_tokens = view.grid[0] * view.grid[1] if view.grid else 1
        query = "SELECT feature_id, sum_value AS total FROM feature_stats"
        if view.grid:
            query = "SELECT feature_id, sum(value::DOUBLE) AS total FROM token_activations GROUP BY ALL"
        with view.connection(strongest=None if view.grid else 0) as connection:
            found = connection.sql(query).fetchnumpy()
        value_f[found["feature_id"]] = found["total"] / (len(view.image_ids) * n_tokens)
    return Change(parameters.scale if parameters.to == "scale" else 0.0, value_f)


def _rows(
    features: list[int], control: dict[int, int], totals: Totals, scored: Scored, parameters: AblateParameters
) -> pa.Table:
    """Return a row for each feature and target, by feature, the largest fall of the margin first."""
    rows: list[dict[str, Any]] = []
    for feature in sorted(features):
        own = totals.of(feature, is_random=False)
        if not own.n:
            continue
        others = Sums(np.zeros(0)) if feature not in control else totals.of(control[feature], is_random=False)
        rows += list(_feature_rows(feature, control.get(feature), own, others, totals, scored, parameters))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _feature_rows(
    feature: int,
    control: int | None,
    own: Sums,
    other: Sums,
    totals: Totals,
    scored: Scored,
    parameters: AblateParameters,
) -> Iterator[dict[str, Any]]:
    chance = totals.of(feature, is_random=True)
    constant = {
        "feature_id": feature,
        "output": parameters.output,
        "to": parameters.to,
        "embedding_change": own.embedding_mean(),
        "embedding_change_feature": other.embedding_mean(),
        "embedding_change_direction": chance.embedding_mean(),
        "control_feature_id": control,
        "removed": own.removed / own.n,
        "n_images": own.n,
    }
    if not scored.names:
        yield constant
        return
    effects = [
        sums.mean() if len(sums.effect_t) else np.full(len(scored.names), np.nan) for sums in (own, other, chance)
    ]
    margins = [scored.margins(effect_t[None])[0] for effect_t in effects]
    for rank, t in enumerate(np.lexsort((np.arange(len(scored.names)), margins[0]))):
        yield {
            **constant,
            "attribute": scored.groups[t] or None,
            "target": scored.names[t],
            "effect": float(effects[0][t]),
            "effect_per_unit": float(own.effect_t[t] / own.removed) if own.removed else None,
            "margin": float(margins[0][t]),
            "rank": rank,
            "effect_feature": _known(effects[1][t]),
            "margin_feature": _known(margins[1][t]),
            "effect_direction": _known(effects[2][t]),
            "margin_direction": _known(margins[2][t]),
        }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _note(view: AnalysisView, rows: pa.Table, chosen_by: str, shares: bool) -> None:
    columns = ("embedding_change", "embedding_change_feature", "embedding_change_direction")
    frame = pl.DataFrame(rows.select(["feature_id", *columns])).unique("feature_id")
    means = {column: _mean(frame[column]) for column in columns}
    n = frame.height
    own, other, chance = (means[column] or 0 for column in columns)
    moves = f", the embedding moves by {own:.3f} (another feature {other:.3f}, a random direction {chance:.3f})"
    view.note(
        chosen_by=chosen_by,
        n_features=n,
        shares_passes=shares,
        **means,
        summary=f"{n} feature{'' if n == 1 else 's'}" + (moves if n else ""),
    )


def _mean(values: pl.Series) -> float | None:
    known = values.drop_nulls()
    return float(known.sum()) / len(known) if len(known) else None
