"""Which features to look at first: elite, good and diverse, from monosemanticity and correlation with ratings."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

    from glasshouse.plugins.view import AnalysisView

Floats = npt.NDArray[np.float64]

TIER_NAMES = ("elite", "good", "diverse")
"""Tiers 1, 2 and 3."""


class TiersParameters(Parameters):
    """Parameters of `tiers`."""

    n: int = Field(50, ge=1, description="Features per tier, at most.")
    r_elite: float = Field(0.25, ge=0, le=1, description="|r| that tier 1 needs.")
    r_good: float = Field(0.15, ge=0, le=1, description="|r| that is enough for tier 2.")


class Thresholds(NamedTuple):
    """What the tiers need of MS and of |r|."""

    monosemantic: float
    moderate: float
    r_elite: float
    r_good: float


class Tiers(Analyzer[TiersParameters]):
    """Elite, good and diverse features, from monosemanticity and correlation with ratings; each in one tier at most."""

    version = "1"
    summary = "which features to look at first: elite, good, diverse"
    parameters = TiersParameters
    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("feature_id", pa.int32()),
            ("tier", pa.int32()),  # 1, 2, 3
            ("tier_name", pa.string()),
            ("rank", pa.int32()),  # within the tier, from 0
            ("ms", pa.float64()),
            ("r", pa.float64()),  # the strongest over the dimensions, with its sign
            ("dimension", pa.string()),  # of that r
        ]
    )
    requires = ("monosemanticity", "correlation")
    in_features = ("tier",)

    def run(self, view: AnalysisView, parameters: TiersParameters) -> pa.Table:
        """Join the newest scores and correlations and fill the tiers.

        Raises:
            UsageError: the scores come without thresholds.
        """
        notes = view.notes_of("monosemanticity")
        if "no_classes_because" in notes:
            raise UsageError(
                f"The scores of '{view.space}' have no thresholds for tiers: {notes['no_classes_because']}. Score it "
                f"in another embedding with `glasshouse analyze monosemanticity --space {view.space} --embedding NAME`."
            )
        if notes.get("monosemantic_from") is None or notes.get("moderate_from") is None:
            raise UsageError(
                "The newest result of 'monosemanticity' has no thresholds in its notes. Run `glasshouse analyze "
                f"monosemanticity --space {view.space} --force`."
            )
        monosemantic, moderate = float(notes["monosemantic_from"]), float(notes["moderate_from"])
        thresholds = Thresholds(monosemantic, moderate, parameters.r_elite, parameters.r_good)
        scores, correlations = view.result("monosemanticity"), view.result("correlation")
        frame = joined(scores, correlations, view.n_features)
        feature_k, tier_k, rank_k = fill(frame["ms"].to_numpy(), frame["r"].to_numpy(), thresholds, parameters.n)
        view.note(
            thresholds=thresholds._asdict(),
            n_by_tier={name: int((tier_k == tier).sum()) for tier, name in enumerate(TIER_NAMES, start=1)},
            variant=_only(scores, "variant"),
            embedding=_only(scores, "embedding"),
            method=_only(correlations, "method"),
            covariates=_only(correlations, "covariates"),
        )
        chosen = frame[feature_k]
        return pa.Table.from_arrays(
            [
                pa.array(feature_k, pa.int32()),
                pa.array(tier_k, pa.int32()),
                pa.array([TIER_NAMES[tier - 1] for tier in tier_k], pa.string()),
                pa.array(rank_k, pa.int32()),
                pa.array(chosen["ms"].to_numpy(), from_pandas=True),  # NaN is NULL
                pa.array(chosen["r"].to_numpy(), from_pandas=True),
                pa.array(chosen["dimension"].to_list(), pa.string()),
            ],
            schema=Tiers.schema,
        )


def joined(scores: pl.DataFrame, correlations: pl.DataFrame, n_features: int) -> pl.DataFrame:
    """Return `ms`, `r` (the strongest, with its sign; NaN where there is none) and `dimension` of every feature."""
    import polars as pl

    strongest = (
        correlations.select("feature_id", "r", "dimension")
        .sort(pl.col("r").abs(), "dimension", descending=[True, False])
        .unique("feature_id", keep="first", maintain_order=True)
    )
    every = pl.DataFrame({"feature_id": pl.Series(range(n_features), dtype=pl.Int32)})
    frame = every.join(scores.select("feature_id", "ms"), on="feature_id", how="left")
    frame = frame.join(strongest, on="feature_id", how="left").sort("feature_id")
    return frame.with_columns(pl.col("ms", "r").cast(pl.Float64).fill_null(float("nan")))


def fill(
    ms_f: Floats, r_f: Floats, thresholds: Thresholds, n: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return (feature, tier 1..3, rank from 0) of the features that are in a tier, tier by tier.

    Tiers 1 and 2 are filled by |r|, equal ones by MS; tier 3 by MS. What finds no place in a tier is tried in the next
    one. A missing MS or r meets no condition; without MS a feature cannot be in tier 3.

    Args:
        ms_f: [F], NaN where there is none.
        r_f: [F], the strongest over the dimensions, NaN where there is none.
        thresholds: that the tiers need.
        n: features per tier, at most.
    """
    size_f = np.abs(np.nan_to_num(r_f))
    score_f = np.where(np.isnan(ms_f), -np.inf, ms_f)
    by_r = np.lexsort((np.arange(len(ms_f)), -score_f, -size_f))
    by_ms = np.lexsort((np.arange(len(ms_f)), -size_f, -score_f))
    has_r_f = ~np.isnan(r_f)
    conditions = (
        (by_r, (score_f >= thresholds.monosemantic) & has_r_f & (size_f >= thresholds.r_elite)),
        (by_r, (score_f >= thresholds.moderate) | (has_r_f & (size_f >= thresholds.r_good))),
        (by_ms, ~np.isnan(ms_f)),
    )
    free_f = np.ones(len(ms_f), dtype=bool)
    found = []
    for tier, (order, fits_f) in enumerate(conditions, start=1):
        members = order[(fits_f & free_f)[order]][:n]
        free_f[members] = False
        found.append(np.stack([members, np.full(len(members), tier), np.arange(len(members))]))
    features, tiers, ranks = np.concatenate(found, axis=1)
    return features, tiers, ranks


def _only(frame: pl.DataFrame, column: str) -> str | None:
    """Return the value that all rows share; None without rows."""
    values = frame[column].unique().to_list()
    return str(values[0]) if len(values) == 1 else None
