"""Whether the rows of an analyzer are as it declares them; nothing else is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from glasshouse.plugins.analyzer import Analyzer
from glasshouse.schema.errors import PluginError
from glasshouse.warehouse.results.vectors import RANK_COLUMN, VECTOR_COLUMN


def conforming(name: str, analyzer: Analyzer[Any], table: pa.Table, n_features: int) -> pa.Table:
    """Return the rows with exactly the declared columns and types.

    Raises:
        PluginError: columns or types differ, a feature does not exist, or a feature has two rows where one is due.
    """
    declared = analyzer.schema
    if table.column_names != declared.names:
        raise PluginError(
            f"The analyzer '{name}' declares the columns {', '.join(declared.names)} but gave "
            f"{', '.join(table.column_names)}. Nothing of it was stored."
        )
    try:
        table = table.cast(declared)
    except (pa.ArrowException, ValueError) as error:
        raise PluginError(f"The analyzer '{name}' gave other types than it declares: {error}.") from error
    if "feature_id" in declared.names and table.num_rows:
        _check_features(name, analyzer, table, n_features)
    return table


def _check_features(name: str, analyzer: Analyzer[Any], table: pa.Table, n_features: int) -> None:
    import pyarrow.compute as pc

    features = table["feature_id"]
    bounds = pc.min_max(features).as_py()
    if features.null_count or bounds["min"] < 0 or bounds["max"] >= n_features:
        raise PluginError(
            f"The analyzer '{name}' gave rows for features from {bounds['min']} to {bounds['max']}"
            f"{', some without one' if features.null_count else ''}; the space has 0 to {n_features - 1}."
        )
    has_vector, is_ranked = VECTOR_COLUMN in table.column_names, RANK_COLUMN in table.column_names
    if has_vector and is_ranked:
        _check_ranks(name, table)
    needs_one_row = (has_vector and not is_ranked) or (analyzer.in_features and analyzer.strongest is None)
    if needs_one_row and pc.count_distinct(features).as_py() != len(features):
        raise PluginError(f"The analyzer '{name}' gave several rows for one feature, but shows one in `features`.")


def _check_ranks(name: str, table: pa.Table) -> None:
    """See that the rows of each feature are together, in the order of their ranks: so vectors find their rows again."""
    feature_p, rank_p = (table[column].to_numpy() for column in ("feature_id", RANK_COLUMN))
    step_p, goes_on_p = np.diff(feature_p), np.diff(rank_p) == 1
    begins_p = (step_p > 0) & (rank_p[1:] == 0)
    if rank_p[0] != 0 or not np.all(np.where(step_p == 0, goes_on_p, begins_p)):
        raise PluginError(
            f"The analyzer '{name}' gave rows with vectors out of order: they come by feature_id, and within a "
            "feature by rank from 0 on. Nothing of it was stored."
        )
