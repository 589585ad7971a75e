"""Analyzer `cooccurrence`: which features are active on the same patches (Insight / CFM, arXiv 2601.13798).

D̂_ij = activation of i on patches where j is active / activation of i on all patches where i is active: the share of
feature i that falls where j is. As published, active means an activation above 0.001, on the same patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers.patch_pairs import PairCounts, PatchActivations
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

SCHEMA = pa.schema(
    [
        ("feature_id", pa.int32()),
        ("other_feature_id", pa.int32()),
        ("radius", pa.int32()),
        ("n_both", pa.int64()),
        ("n_feature", pa.int64()),
        ("n_other", pa.int64()),
        ("p_other_given_feature", pa.float64()),
        ("p_feature_given_other", pa.float64()),
        ("d_hat", pa.float64()),
        ("lift", pa.float64()),
        ("npmi", pa.float64()),
    ]
)


class CooccurrenceParameters(Parameters):
    """Parameters of `cooccurrence`."""

    threshold: float = Field(0.001, ge=0, description="A feature is active on a patch where it is above this.")
    radius: int = Field(0, ge=0, description="0: on the same patch; else within so many patches, also diagonally.")
    features: int | None = Field(None, ge=1, description="Only so many features, those active on most patches.")
    min_support: int = Field(5, ge=1, description="Pairs that meet on fewer patches are left out.")
    min_d_hat: float = Field(0, ge=0, description="Pairs with a smaller d_hat are left out.")
    max_pairs: int = Field(100, ge=1, description="Of each feature only so many pairs, those of largest d_hat.")


class Cooccurrence(Analyzer[CooccurrenceParameters]):
    """Which features are active on the same patches as a feature, or near them."""

    summary: ClassVar[str] = "Which features share patches: D̂, conditional probabilities, lift and NPMI of pairs."
    parameters: ClassVar[type[Parameters]] = CooccurrenceParameters
    schema: ClassVar[pa.Schema] = SCHEMA
    facets: ClassVar[tuple[str, ...]] = ("radius",)

    def resolve(self, view: AnalysisView, parameters: CooccurrenceParameters) -> CooccurrenceParameters:
        """Refuse spaces without patches."""
        require_patches(view, "cooccurrence")
        return parameters

    def run(self, view: AnalysisView, parameters: CooccurrenceParameters) -> Rows:
        """Count all pairs of the chosen features, block by block; keep the strongest."""
        feature_ids = most_frequent(view, parameters.features)
        grid = view.grid or (1, 1)
        n_patches = len(view.image_ids) * grid[0] * grid[1]
        view.note(n_patches=n_patches, n_features=len(feature_ids))
        patches = PatchActivations(view, feature_ids, parameters.threshold, parameters.radius)
        tables, n_pairs = [], 0
        for block in patches.pair_counts():
            rows_kf = supported(block, patches, parameters)
            n_pairs += int(np.count_nonzero(rows_kf))
            kept = strongest(block, patches, rows_kf, parameters.max_pairs)
            tables.append(table_of(block, patches, kept, n_patches, feature_ids, parameters.radius))
            view.progress(block.end, len(feature_ids))
        view.note(n_pairs=n_pairs, n_stored=sum(table.num_rows for table in tables))
        return pa.concat_tables(tables) if tables else SCHEMA.empty_table()


def require_patches(view: AnalysisView, name: str) -> None:
    """Refuse a space that has one vector per image.

    Raises:
        UsageError: it has.
    """
    if view.grid is None:
        raise UsageError(
            f"'{name}' needs patches, and the space '{view.space}' holds one vector per image. Name another with "
            "--space, or extract one with `glasshouse extract … --tokens patches`."
        )


def most_frequent(view: AnalysisView, n_features: int | None) -> npt.NDArray[np.int32]:
    """Return the features that are active on most patches, ascending; all that are ever active when None."""
    statistics = view.statistics()
    tokens_f = statistics["n_tokens"].fill_null(0).to_numpy()
    feature_ids = statistics["feature_id"].to_numpy()[tokens_f > 0]
    order = np.lexsort((feature_ids, -tokens_f[tokens_f > 0]))
    return np.sort(feature_ids[order[:n_features]]).astype(np.int32)


def supported(
    block: PairCounts, patches: PatchActivations, parameters: CooccurrenceParameters
) -> npt.NDArray[np.bool_]:
    """Say which pairs are frequent and strong enough, bool [k, F]; a feature is no pair with itself."""
    rows_kf = block.both_kf >= parameters.min_support
    rows_kf &= block.sum_kf >= parameters.min_d_hat * patches.sum_f[block.first : block.end, None]
    rows_kf[np.arange(block.end - block.first), np.arange(block.first, block.end)] = False
    return rows_kf


def strongest(
    block: PairCounts, patches: PatchActivations, rows_kf: npt.NDArray[np.bool_], max_pairs: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return (row, column) of the `max_pairs` pairs of largest D̂ of each feature; the lower feature of equal ones."""
    row_m, other_m = np.nonzero(rows_kf)
    order = np.lexsort((other_m, -block.sum_kf[row_m, other_m], row_m))
    row_m, other_m = row_m[order], other_m[order]
    starts = np.searchsorted(row_m, np.arange(len(rows_kf)))
    is_kept = np.arange(len(row_m)) - starts[row_m] < max_pairs
    return row_m[is_kept], other_m[is_kept]


def table_of(
    block: PairCounts,
    patches: PatchActivations,
    kept: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    n_patches: int,
    feature_ids: npt.NDArray[np.int32],
    radius: int,
) -> pa.Table:
    """Return the rows of the pairs that are kept, with everything that follows from counts and sums."""
    row_m, other_m = kept
    feature_m = row_m + block.first
    both_m, reverse_m = block.both_kf[kept], block.reverse_kf[kept]
    n_feature_m, n_other_m = patches.active_f[feature_m], patches.active_f[other_m]
    lift_m = both_m * n_patches / (n_feature_m * patches.near_f[other_m].astype(np.float64))
    columns = [
        feature_ids[feature_m],
        feature_ids[other_m],
        np.full(len(row_m), radius, dtype=np.int32),
        both_m,
        n_feature_m,
        n_other_m,
        both_m / n_feature_m,
        reverse_m / n_other_m,
        block.sum_kf[kept] / patches.sum_f[feature_m],
        lift_m,
        npmi(lift_m, both_m / n_patches),
    ]
    return pa.Table.from_arrays([pa.array(column) for column in columns], schema=SCHEMA)


def npmi(lift_m: npt.NDArray[np.float64], p_both_m: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return log lift / −log P(both), in −1 … 1; 1 where both are active everywhere, the limit of such pairs."""
    everywhere_m = p_both_m >= 1
    safe_m = np.where(everywhere_m, 0.5, p_both_m)
    return np.where(everywhere_m, 1.0, np.log(lift_m) / -np.log(safe_m))
