"""Analyzer `redundancy`: whether another feature means the same (SemanticLens, arXiv 2501.05398).

Of a feature it is the largest cosine of its concept vector with another feature's; of a space, the mean of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers.clarity import note_mean
from glasshouse.plugins.analyzers.concept_vectors import (
    VectorParameters,
    centre_of,
    read_concepts,
    required_vectors,
    resolve_vectors,
)
from glasshouse.plugins.analyzers.example_vectors import EXAMPLE_FIELDS, FACETS
from glasshouse.plugins.analyzers.nearest import directions, nearest

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView


class RedundancyParameters(VectorParameters):
    """Parameters of `redundancy`: those of the concept vectors."""


class Redundancy(Analyzer[RedundancyParameters]):
    """The largest cosine of a feature's concept vector with another feature's, and which one that is.

    Features without a concept vector have no row; one whose vector has no length has no score.
    """

    summary: ClassVar[str] = "Whether another feature has the same concept vector: the nearest one and its cosine."
    parameters: ClassVar[type[Parameters]] = RedundancyParameters
    schema: ClassVar[pa.Schema] = pa.schema(
        [("feature_id", pa.int32()), *EXAMPLE_FIELDS, ("twin", pa.int32()), ("redundancy", pa.float64())]
    )
    facets: ClassVar[tuple[str, ...]] = FACETS
    in_features: ClassVar[tuple[str, ...]] = ("redundancy",)

    def resolve(self, view: AnalysisView, parameters: RedundancyParameters) -> RedundancyParameters:
        """Choose the embedding."""
        return resolve_vectors(view, parameters)

    def requires_with(
        self, view: AnalysisView, parameters: RedundancyParameters
    ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Ask for the concept vectors."""
        return required_vectors(view, parameters)

    def run(self, view: AnalysisView, parameters: RedundancyParameters) -> Rows:
        """Compare every concept vector with all others; notes the mean."""
        found = read_concepts(view, parameters)
        unit_ke = directions(found.vectors_ke, centre_of(view, parameters))
        twins = nearest(unit_ke, None, 1, view.progress)
        row_k, cosine_k = twins.row_nk[:, 0], twins.cosine_nk[:, 0]
        note_mean(view, "redundancy", cosine_k)
        n_rows = len(row_k)
        facets = [pa.array([getattr(parameters, field.name)] * n_rows, field.type) for field in EXAMPLE_FIELDS]
        twin_k = found.feature_ids[row_k] if n_rows else np.zeros(0, np.int32)
        columns = [
            pa.array(found.feature_ids, pa.int32()),
            *facets,
            pa.array(twin_k, pa.int32(), mask=row_k < 0),
            pa.array(cosine_k, pa.float64(), from_pandas=True),
        ]
        return pa.Table.from_arrays(columns, schema=self.schema)
