"""Analyzer `hierarchy`: which feature is a part or a kind of which.

Rule `published` (Insight, later CFM, arXiv 2601.13798): j is the parent of i where D̂_ij is above a threshold. Rule
`tested`, ours: the child is strong only where the parent is, more than chance explains and not the other way round; a
part is told from a kind by how much of the parent's regions it fills. docs/analyses.md has the definitions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers.cooccurrence import require_patches
from glasshouse.plugins.analyzers.hierarchy_controls import Controls, dealt_anew
from glasshouse.plugins.analyzers.hierarchy_evidence import Evidence, Limits, PairEvidence
from glasshouse.plugins.analyzers.hierarchy_graph import Edge, arranged
from glasshouse.plugins.analyzers.hierarchy_maps import read_maps
from glasshouse.plugins.analyzers.significance import benjamini_hochberg

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

CANDIDATE = 0.5
"""Pairs with a smaller D̂ are not looked at by the rule `tested`."""

PICTURE_LIFT = 2.0
"""A part's pictures hold the whole so many times as often as all pictures do."""

ELSEWHERE = 0.5
"""Moved to another picture with the whole, a part lies on the whole at most so many times as often."""

ONE_WAY = 1.5
"""A part or a kind implies its parent so many times as often as the parent implies it, or oftener."""

SCHEMA = pa.schema(
    [
        ("feature_id", pa.int32()),
        ("parent_feature_id", pa.int32()),
        ("rule", pa.string()),
        ("kind", pa.string()),
        ("is_direct", pa.bool_()),
        ("is_tree_edge", pa.bool_()),
        ("d_hat", pa.float64()),
        ("n_both", pa.int64()),
        ("lift", pa.float64()),
        ("n_patches", pa.int64()),
        ("n_images", pa.int64()),
        ("n_parent_images", pa.int64()),
        ("implied", pa.float64()),
        ("both_strong", pa.float64()),
        ("implies_back", pa.float64()),
        ("fills", pa.float64()),
        ("recurs", pa.float64()),
        ("picture_lift", pa.float64()),
        ("expected", pa.float64()),
        ("p", pa.float64()),
        ("q", pa.float64()),
        ("expected_among_shared", pa.float64()),
        ("p_among_shared", pa.float64()),
        ("q_among_shared", pa.float64()),
        ("p_pictures", pa.float64()),
        ("q_pictures", pa.float64()),
    ]
)


class HierarchyParameters(Parameters):
    """Parameters of `hierarchy`."""

    published: float = Field(0.75, ge=0, le=1, description="Rule published: the parent's D̂ is above this.")
    implied: float = Field(0.9, gt=0, le=1, description="Share of the child's strong patches that the parent reaches.")
    kind_implied: float = Field(0.7, gt=0, le=1, description="The same, for a kind that fills the parent's regions.")
    both_strong: float = Field(0.3, ge=0, le=1, description="Share on which the parent of a part or kind is strong.")
    fills: float = Field(0.5, ge=0, le=1, description="A kind fills this share of the parent's regions, a part less.")
    recurs: float = Field(0.25, ge=0, le=1, description="A part is on this share of the images of its whole.")
    min_patches: int = Field(50, ge=1, description="Children that are strong on fewer patches are left out.")
    min_images: int = Field(20, ge=1, description="Children that are strong on fewer images are left out.")
    alpha: float = Field(0.05, gt=0, lt=1, description="Largest q of a control at which a pair counts.")
    permutations: int = Field(199, ge=19, description="How often maps are moved in each control.")
    seed: int = Field(0, ge=0, description="Of the controls.")


class Hierarchy(Analyzer[HierarchyParameters]):
    """Children and parents among the features of a patch space, by two rules."""

    version: ClassVar[str] = "2"
    summary: ClassVar[str] = (
        "Which feature is a part or a kind of which, as published and tested; a graph and a forest."
    )
    parameters: ClassVar[type[Parameters]] = HierarchyParameters
    schema: ClassVar[pa.Schema] = SCHEMA
    requires: ClassVar[tuple[str, ...]] = ("cooccurrence",)

    def resolve(self, view: AnalysisView, parameters: HierarchyParameters) -> HierarchyParameters:
        """Refuse spaces without patches."""
        require_patches(view, "hierarchy")
        return parameters

    def run(self, view: AnalysisView, parameters: HierarchyParameters) -> Rows:
        """Take the published edges from `cooccurrence`, and test its pairs."""
        pairs = view.result("cooccurrence", {"radius": 0})
        published = published_rows(pairs, parameters.published)
        tested = tested_rows(view, pairs, parameters)
        for rule, rows in (("published", published), ("tested", tested)):
            counts = dict(rows["kind"].fill_null("edges").value_counts().iter_rows())
            view.note(**{f"n_{rule}": {str(kind): int(n) for kind, n in sorted(counts.items())}})
        rows = pl.concat([published, tested], how="diagonal")
        rows = rows.with_columns(pl.lit(None, pl.Float64).alias(n) for n in SCHEMA.names if n not in rows.columns)
        return rows.select(SCHEMA.names).sort("rule", "feature_id", "parent_feature_id").to_arrow().cast(SCHEMA)


def published_rows(pairs: pl.DataFrame, above: float) -> pl.DataFrame:
    """Return the edges of the published rule, each with its place in the graph; evidence of `tested` is not there."""
    edges = pairs.filter(pl.col("d_hat") > above).select(
        "feature_id", "d_hat", "n_both", "lift", "n_feature", "n_other", parent_feature_id="other_feature_id"
    )
    sizes = dict(edges.select("feature_id", "n_feature").iter_rows())
    sizes |= dict(edges.select("parent_feature_id", "n_other").iter_rows())
    graph = [Edge(child, parent, True, d_hat) for child, parent, d_hat in edges.select(*PAIR, "d_hat").iter_rows()]
    standing = arranged(graph, sizes)
    return edges.drop("n_feature", "n_other").with_columns(
        rule=pl.lit("published"),
        kind=pl.lit(None, pl.String),
        is_direct=pl.Series(standing.is_direct, dtype=pl.Boolean),
        is_tree_edge=pl.Series(standing.is_tree_edge, dtype=pl.Boolean),
    )


PAIR = ("feature_id", "parent_feature_id")


def tested_rows(view: AnalysisView, pairs: pl.DataFrame, parameters: HierarchyParameters) -> pl.DataFrame:
    """Return the pairs that pass, told apart, each with its place in the graph."""
    candidates = pairs.filter(pl.col("d_hat") >= CANDIDATE).sort("other_feature_id", "feature_id")
    known = candidates.select("d_hat", "n_both", feature_id="feature_id", parent_feature_id="other_feature_id")
    rows, sizes = evidence_of(view, known, parameters)
    view.note(n_candidates=known.height, n_frequent=rows.height)
    rows = rows.join(known, on=PAIR, how="left", maintain_order="left")
    passed = told_apart(with_q(rows, len(view.image_ids)), parameters)
    view.note(n_passed=passed.height)
    passed = without_mirrored(passed, sizes)
    edges = [
        Edge(child, parent, kind != "implied", lift)
        for child, parent, kind, lift in passed.select(*PAIR, "kind", "lift").iter_rows()
        if kind != "same"
    ]
    standing = arranged(edges, sizes)
    placed = pl.DataFrame(
        {
            "feature_id": pl.Series([edge.child for edge in edges], dtype=pl.Int32),
            "parent_feature_id": pl.Series([edge.parent for edge in edges], dtype=pl.Int32),
            "is_direct": pl.Series(standing.is_direct, dtype=pl.Boolean),
            "is_tree_edge": pl.Series(standing.is_tree_edge, dtype=pl.Boolean),
        }
    )
    passed = passed.join(placed, on=PAIR, how="left", maintain_order="left")
    return passed.with_columns(pl.col("is_direct", "is_tree_edge").fill_null(value=False), rule=pl.lit("tested"))


def evidence_of(
    view: AnalysisView, known: pl.DataFrame, parameters: HierarchyParameters
) -> tuple[pl.DataFrame, dict[int, int]]:
    """Return the evidence of pairs whose child is frequent enough, and of each feature how many patches it reaches."""
    features = np.unique(known.select(PAIR).to_numpy().ravel()).astype(np.int32)
    maps = read_maps(view, features)
    tested_from = min(parameters.implied, parameters.kind_implied)
    limits = Limits(parameters.min_patches, parameters.min_images, tested_from)
    controls = Controls(maps.n_images, maps.n_tokens, parameters.permutations, parameters.seed)
    rows: list[dict[str, Any]] = []
    n_parents = known["parent_feature_id"].n_unique()
    for number, found in enumerate(PairEvidence(maps, controls, limits).of(known.select(PAIR).rows()), start=1):
        rows += map(_row, found)
        view.progress(number, n_parents)
    sizes = dict(zip(features.tolist(), np.diff(maps.bounds).tolist(), strict=True))
    return pl.DataFrame(rows, schema=_EVIDENCE), sizes


_EVIDENCE: dict[str, pl.DataType | type[pl.DataType]] = {
    "feature_id": pl.Int32, "parent_feature_id": pl.Int32, "n_patches": pl.Int64, "n_images": pl.Int64,
    "n_shared": pl.Int64, "n_parent_images": pl.Int64, "implied": pl.Float64, "both_strong": pl.Float64,
    "implies_back": pl.Float64, "fills": pl.Float64, "recurs": pl.Float64, "lift": pl.Float64,
    "expected": pl.Float64, "p": pl.Float64,
    "expected_among_shared": pl.Float64, "p_among_shared": pl.Float64,
}  # fmt: skip


def _row(evidence: Evidence) -> dict[str, Any]:
    row = evidence._asdict()
    anywhere, among_shared = row.pop("anywhere"), row.pop("among_shared")
    return {
        "feature_id": row.pop("child"),
        "parent_feature_id": row.pop("parent"),
        **row,
        "expected": anywhere.expected,
        "p": anywhere.p,
        "expected_among_shared": among_shared.expected,
        "p_among_shared": among_shared.p,
    }


def with_q(rows: pl.DataFrame, n_images: int) -> pl.DataFrame:
    """Add the control of pictures, and the q of each control over all pairs that were looked at, tested or not."""
    counted = [rows[name].to_numpy() for name in ("n_parent_images", "n_images", "n_shared")]
    p_pictures = dealt_anew(n_images, *counted)
    return rows.with_columns(
        picture_lift=pl.col("n_shared") / pl.col("n_images") * n_images / pl.col("n_parent_images"),
        p_pictures=pl.Series(p_pictures, dtype=pl.Float64),
        q_pictures=pl.Series(benjamini_hochberg(p_pictures), dtype=pl.Float64),
        q=pl.Series(benjamini_hochberg(rows["p"].to_numpy()), dtype=pl.Float64),
        q_among_shared=pl.Series(benjamini_hochberg(rows["p_among_shared"].to_numpy()), dtype=pl.Float64),
    )


def told_apart(rows: pl.DataFrame, parameters: HierarchyParameters) -> pl.DataFrame:
    """Keep the pairs that are implied beyond chance; say of each what it is.

    `same`: each implies the other, or the child fills the parent's regions in nearly all of its pictures; `kind_of`: it
    fills them in some; `part_of`: it does not, and has its place in pictures of the whole, which are few; `implied`:
    neither can be said. A kind need not be implied quite as often: features of general things are silent here and there
    where a feature of a special one speaks for them.
    """
    fills, is_everywhere = pl.col("fills") >= parameters.fills, pl.col("recurs") >= parameters.implied
    is_implied = pl.col("implied") >= parameters.implied
    is_below = (pl.col("implied") >= ONE_WAY * pl.col("implies_back")) & (
        pl.col("both_strong") >= parameters.both_strong
    )
    kind = (
        pl.when(is_implied & ((pl.col("implies_back") >= parameters.implied) | (fills & is_everywhere)))
        .then(pl.lit("same"))
        .when(is_below & fills & ~is_everywhere & (pl.col("implied") >= parameters.kind_implied))
        .then(pl.lit("kind_of"))
        .when(is_below & ~fills & is_implied & _has_its_place(parameters))
        .then(pl.lit("part_of"))
        .when(is_implied)
        .then(pl.lit("implied"))
    )
    return rows.filter(pl.col("q") <= parameters.alpha).with_columns(kind=kind).filter(pl.col("kind").is_not_null())


def _has_its_place(parameters: HierarchyParameters) -> pl.Expr:
    """Whether the child is on pictures of the parent, in its place there, and on enough of them."""
    return (
        (pl.col("q_pictures") <= parameters.alpha)
        & (pl.col("q_among_shared") <= parameters.alpha)
        & (pl.col("picture_lift") >= PICTURE_LIFT)
        & (pl.col("expected_among_shared") <= ELSEWHERE * pl.col("implied"))
        & (pl.col("recurs") >= parameters.recurs)
    )


def without_mirrored(rows: pl.DataFrame, sizes: dict[int, int]) -> pl.DataFrame:
    """Leave out pairs whose child reaches more patches than the parent, or as many and has the lower id."""
    is_kept = [(sizes[parent], -parent) > (sizes[child], -child) for child, parent in rows.select(PAIR).iter_rows()]
    return rows.filter(pl.Series(is_kept, dtype=pl.Boolean))
