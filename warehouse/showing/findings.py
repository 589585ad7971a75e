"""What there is to report about a space: best-scored features, what predicts each rating, tiers, thresholds, labels.

Plain data, read through the newest results. Each part is empty where its analysis was never run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from glasshouse.warehouse.results.records import Run
from glasshouse.warehouse.showing.plain import figure

if TYPE_CHECKING:
    import polars as pl

    from glasshouse.warehouse.reads import WarehouseReads

SIGNIFICANT = 0.05
"""q below this counts as a finding."""


class Scored(NamedTuple):
    """A feature and the figure by which it was chosen."""

    feature_id: int
    value: float


@dataclass(frozen=True)
class Predictor:
    """A feature that moves with a rating; `partial_r` by the covariates that were held constant."""

    feature_id: int
    r: float
    q: float | None
    n: int | None
    partial_r: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class RatingFindings:
    """The features that are most correlated with one rating, either sign; and how many are at all."""

    dimension: str
    n_significant: int
    n_tested: int
    predictors: list[Predictor]


@dataclass(frozen=True)
class SpaceFindings:
    """What was found in one space.

    Attributes:
        space: its name.
        runs: the newest run of each analysis, in the order of running.
        best: by monosemanticity, highest first; without scores: the most often active ones.
        best_by: what `best` is ordered by: `ms` or `frequency`.
        thresholds: notes of the run that scored: mu, sigma, moderate_from, monosemantic_from, n_pairs, seed.
        ratings: what predicts each rating, by dimension.
        covariates: what partial correlations held constant, each as the run's facet says; empty without such a run.
        tiers: (tier, name, features), in order.
        n_labels: features with a label.
    """

    space: str
    runs: list[Run]
    best: list[Scored]
    best_by: str
    thresholds: dict[str, Any]
    ratings: list[RatingFindings]
    covariates: list[str]
    tiers: list[tuple[int, str, int]]
    n_labels: int


def findings_of(warehouse: WarehouseReads, space: str, n: int) -> SpaceFindings:
    """Read the findings of a space, with the `n` best features of each kind."""
    runs = [run for run in warehouse.runs() if run.space == space and run.is_latest]
    best, best_by, thresholds = _best(warehouse, space, runs, n)
    partial = {
        figure(run.facets["covariates"]): _by_feature(warehouse.result_rows(run))
        for run in runs
        if run.analyzer == "correlation" and run.facets.get("covariates")
    }
    plain_runs = [run for run in runs if run.analyzer == "correlation" and not run.facets.get("covariates")]
    tiers = _newest(runs, "tiers")
    labels = [run for run in runs if run.analyzer == "labels"]
    return SpaceFindings(
        space,
        runs,
        best,
        best_by,
        thresholds,
        _ratings(warehouse.result_rows(plain_runs[-1]), partial, n) if plain_runs else [],
        list(partial),
        _tiers(warehouse.result_rows(tiers)) if tiers else [],
        len({feature for run in labels for feature in _labelled(warehouse.result_rows(run))}),
    )


def _newest(runs: Sequence[Run], analyzer: str, **facets: Any) -> Run | None:
    fitting = [run for run in runs if run.analyzer == analyzer and facets.items() <= run.facets.items()]
    return fitting[-1] if fitting else None


def _best(
    warehouse: WarehouseReads, space: str, runs: Sequence[Run], n: int
) -> tuple[list[Scored], str, dict[str, Any]]:
    """Return the features with the highest MS (variant `top` before others), or the most active ones if none has."""
    import polars as pl

    run = _newest(runs, "monosemanticity", variant="top") or _newest(runs, "monosemanticity")
    scored = None if run is None else warehouse.result_rows(run).filter(pl.col("ms").is_finite())
    if run is None or scored is None or scored.is_empty():
        frame = warehouse.feature_statistics(space).filter(pl.col("n_active") > 0)
        return _first(frame, "frequency", n), "frequency", {}
    return _first(scored, "ms", n), "ms", {"variant": run.facets.get("variant"), **run.parameters, **run.notes}


def _first(frame: pl.DataFrame, column: str, n: int) -> list[Scored]:
    top = frame.sort([column, "feature_id"], descending=[True, False]).head(n)
    return [Scored(int(f), float(v)) for f, v in zip(top["feature_id"], top[column], strict=True)]


def _by_feature(frame: pl.DataFrame) -> dict[tuple[int, str], float | None]:
    return {(int(f), str(d)): r for f, d, r in zip(frame["feature_id"], frame["dimension"], frame["r"], strict=True)}


def _ratings(
    frame: pl.DataFrame, partial: Mapping[str, Mapping[tuple[int, str], float | None]], n: int
) -> list[RatingFindings]:
    import polars as pl

    found = []
    tested = frame.filter(pl.col("r").is_finite())
    for dimension in sorted(frame["dimension"].unique().to_list()):
        rows = tested.filter(pl.col("dimension") == dimension)
        top = rows.sort([pl.col("r").abs(), pl.col("feature_id")], descending=[True, False]).head(n)
        predictors = [
            Predictor(
                row["feature_id"],
                row["r"],
                row["q"],
                row["n"],
                {given: values.get((row["feature_id"], dimension)) for given, values in partial.items()},
            )
            for row in top.iter_rows(named=True)
        ]
        n_significant = rows.filter(pl.col("q") < SIGNIFICANT).height
        found.append(RatingFindings(str(dimension), n_significant, rows.height, predictors))
    return found


def _tiers(frame: pl.DataFrame) -> list[tuple[int, str, int]]:
    counted = frame.group_by("tier", "tier_name").len().sort("tier")
    return [(int(t), str(name), int(count)) for t, name, count in counted.iter_rows()]


def _labelled(frame: pl.DataFrame) -> list[int]:
    import polars as pl

    return frame.filter(pl.col("label").is_not_null())["feature_id"].to_list()
