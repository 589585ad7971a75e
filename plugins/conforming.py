"""Whether the rows of an analyzer are as it declares them; nothing else is stored."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from glasshouse.plugins.analyzer import Analyzer
from glasshouse.schema.errors import PluginError
from glasshouse.warehouse.results.vectors import VECTOR_COLUMN


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
        _check_features(name, analyzer, table["feature_id"], n_features)
    return table


def _check_features(name: str, analyzer: Analyzer[Any], features: pa.ChunkedArray, n_features: int) -> None:
    import pyarrow.compute as pc

    bounds = pc.min_max(features).as_py()
    if features.null_count or bounds["min"] < 0 or bounds["max"] >= n_features:
        raise PluginError(
            f"The analyzer '{name}' gave rows for features from {bounds['min']} to {bounds['max']}"
            f"{', some without one' if features.null_count else ''}; the space has 0 to {n_features - 1}."
        )
    needs_one_row = VECTOR_COLUMN in analyzer.schema.names or (analyzer.in_features and analyzer.strongest is None)
    if needs_one_row and pc.count_distinct(features).as_py() != len(features):
        raise PluginError(f"The analyzer '{name}' gave several rows for one feature, but shows one in `features`.")
