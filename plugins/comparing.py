"""Two models, or layers, compared both ways: what both know, and what only one knows. Behind `glasshouse compare`.

Each side is one space or several, the layers of a model. Every space of one side is compared with every space of the
other by the analyzer `comparison`, so that the matches are stored; over several spaces the best match counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from glasshouse.plugins.analyzers.comparison import ComparisonParameters
from glasshouse.plugins.analyzers.concept_vectors import common_embedding, concept_runs
from glasshouse.plugins.runner import Runner, parse_parameters
from glasshouse.schema.errors import UsageError
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.showing.gather import labels_of

if TYPE_CHECKING:
    import polars as pl

    from glasshouse.warehouse.results.records import Run
    from glasshouse.warehouse.warehouse import Warehouse

FIGURES = ("n_features", "n_known", "share_known", "share_by_chance", "threshold", "mean_cosine")
"""What is told of each pair of spaces, from the notes of its run."""


@dataclass(frozen=True)
class Side:
    """What came of the features of one side.

    Attributes:
        spaces: its spaces.
        others: those of the other side.
        n_features: with enough examples, in all its spaces.
        n_known: of them known in any space of the other side.
        best: the k features of largest cosine with a feature of the other side, as rows.
        lacking: the k features of least cosine among those that are known nowhere there, as rows.
    """

    spaces: Sequence[str]
    others: Sequence[str]
    n_features: int
    n_known: int
    best: Sequence[Mapping[str, Any]]
    lacking: Sequence[Mapping[str, Any]]

    @property
    def share_known(self) -> float | None:
        """n_known / n_features; None without features."""
        return self.n_known / self.n_features if self.n_features else None


@dataclass(frozen=True)
class Compared:
    """Both sides, and a row for each pair of spaces and direction: space, other, run_id and `FIGURES`.

    `cuts` are the kinds of examples behind the vectors: `whole`, cut-outs by `map` or `crp`; one, unless they differ.
    """

    embedding: str
    pairs: Sequence[Mapping[str, Any]]
    sides: tuple[Side, Side]
    cuts: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        sides = [
            {
                "spaces": list(side.spaces),
                "others": list(side.others),
                "n_features": side.n_features,
                "n_known": side.n_known,
                "share_known": side.share_known,
                "best": list(side.best),
                "lacking": list(side.lacking),
            }
            for side in self.sides
        ]
        return {"embedding": self.embedding, "pairs": list(self.pairs), "sides": sides}


def compare(
    runner: Runner, ours: Sequence[str], theirs: Sequence[str], given: Mapping[str, Any] | None = None, k: int = 10
) -> Compared:
    """Compare the spaces of one side with those of the other, both ways; what was compared before is not computed anew.

    Args:
        runner: of the warehouse.
        ours: spaces of one side.
        theirs: spaces of the other.
        given: parameters of `comparison`, without `other`.
        k: best matches, and features without a match, that are told of each side.

    Raises:
        UsageError: unknown spaces, one on both sides, or no concept vectors in one embedding; says what to run.
    """
    warehouse = runner.warehouse
    spaces = list(dict.fromkeys([*ours, *theirs]))
    for space in spaces:
        warehouse.space(space)
    if both := [space for space in ours if space in theirs]:
        raise UsageError(f"The space '{both[0]}' is on both sides. Compare different spaces.")
    asked = cast("ComparisonParameters", parse_parameters("comparison", ComparisonParameters, given or {}))
    embedding = common_embedding(warehouse, asked, spaces)
    cuts = set()
    for run in concept_runs(warehouse, asked.model_copy(update={"embedding": embedding})):
        if run.space in spaces:
            cuts.add(run.parameters.get("attribution", "map") if run.facets["crop"] else "whole")
            if run.is_stale:
                list(runner.run("concepts", run.space, run.parameters))
    wanted = {**(given or {}), "embedding": embedding}
    there, back = (list(_runs(runner, one, other, wanted)) for one, other in ((ours, theirs), (theirs, ours)))
    pairs = [
        {"space": run.space, "other": run.facets["other"], "run_id": run.run_id}
        | {name: run.notes.get(name) for name in FIGURES}
        for run in (*there, *back)
    ]
    sides = _side(warehouse, ours, theirs, there, k), _side(warehouse, theirs, ours, back, k)
    empty = next((side for side in sides if not side.n_features), None)
    if empty is not None:
        raise UsageError(
            f"No feature of {', '.join(empty.spaces)} has a concept vector of {asked.min_images} examples or more. Ask "
            "for fewer with --min-images."
        )
    return Compared(embedding, pairs, sides, sorted(cuts))


def _runs(runner: Runner, spaces: Sequence[str], others: Sequence[str], given: Mapping[str, Any]) -> Iterator[Run]:
    for space in dict.fromkeys(spaces):
        for other in dict.fromkeys(others):
            *_, report = runner.run("comparison", space, {**given, "other": other})
            if report.run is not None:
                yield report.run


def _side(warehouse: Warehouse, spaces: Sequence[str], others: Sequence[str], runs: Sequence[Run], k: int) -> Side:
    import polars as pl  # late: a fifth of a second that `glasshouse compare --help` need not wait

    found = warehouse.sql(read_sql("queries/compared_features.sql"), {"runs": [run.run_id for run in runs]})
    is_known = pl.col("is_known").fill_null(value=False)
    lacking = found.filter(~is_known).sort("cosine", "space", "feature_id")
    n_known = found.filter(is_known).height
    best, least = (_labelled(warehouse, frame.head(k)) for frame in (found, lacking))
    return Side(spaces, others, found.height, n_known, best, least)


def _labelled(warehouse: Warehouse, frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return rows with the label, or else the name, of both features where there is one."""
    rows = frame.to_dicts()
    features = {(row["space"], row["feature_id"]) for row in rows}
    features |= {(row["other"], row["other_feature_id"]) for row in rows}
    labels: dict[tuple[str, int], str] = {}
    with warehouse.reading() as connection:
        for space in {space for space, _ in features}:
            own = labels_of(connection, space, [feature for place, feature in features if place == space])
            labels |= {(space, feature): label for feature, label in own.items()}
    for row in rows:
        row["label"] = labels.get((row["space"], row["feature_id"]))
        row["other_label"] = labels.get((row["other"], row["other_feature_id"]))
    return rows
