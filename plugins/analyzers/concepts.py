"""Concept vectors: where a feature lies in the space of an embedding, as the mean over its examples.

Definition (SemanticLens, arXiv 2501.05398): V = embeddings [n, E] of a component's n = 30 concept examples, ϑ = mean V.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from glasshouse.plugins.analyzer import Analyzer
from glasshouse.plugins.analyzers.example_vectors import (
    EXAMPLE_FIELDS,
    FACETS,
    ExampleParameters,
    VectorBlock,
    example_blocks,
    facet_columns,
    required_examples,
    resolve_examples,
)

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView


class Concepts(Analyzer[ExampleParameters]):
    """A concept vector for every feature: the mean raw embedding of its examples.

    With it, features are found by words and pictures: `glasshouse search "striped"`. Features that are never active,
    and those none of whose examples has an embedding, get none.
    """

    version = "2"
    summary = "Concept vectors: the mean embedding of each feature's examples, for search and labels"
    parameters = ExampleParameters
    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("feature_id", pa.int32()),
            *EXAMPLE_FIELDS[:2],
            ("n_images", pa.int32()),
            *EXAMPLE_FIELDS[2:],  # columns that came later come last, so that older tables can grow
            ("vector", pa.list_(pa.float32())),
        ]
    )
    facets = FACETS

    def resolve(self, view: AnalysisView, parameters: ExampleParameters) -> ExampleParameters:
        """Choose the embedding, and see that crops are possible."""
        return resolve_examples(view, parameters)

    def requires_with(
        self, view: AnalysisView, parameters: ExampleParameters
    ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """The cut-outs of `examples`, with --crop."""
        return required_examples(view, parameters)

    def run(self, view: AnalysisView, parameters: ExampleParameters) -> pa.Table:
        """Average the embeddings of each feature's examples."""
        tables = [_table(block, parameters) for block in example_blocks(view, parameters)]
        return pa.concat_tables(tables) if tables else self.schema.empty_table()


def mean_vectors(block: VectorBlock) -> np.ndarray:
    """Return the mean vector of each feature's examples, float64 [f, E]."""
    first_f = np.cumsum(block.n_f) - block.n_f
    means_fe: np.ndarray = np.add.reduceat(block.vectors_pe, first_f, axis=0, dtype=np.float64)
    means_fe /= block.n_f[:, None]
    return means_fe


def _table(block: VectorBlock, parameters: ExampleParameters) -> pa.Table:
    n_features = len(block.feature_ids)
    vectors_fe = mean_vectors(block).astype(np.float32)
    ends = np.arange(n_features + 1, dtype=np.int32) * vectors_fe.shape[1]
    facets = facet_columns(parameters, n_features)
    columns = [
        pa.array(block.feature_ids, pa.int32()),
        *facets[:2],
        pa.array(block.n_f.astype(np.int32), pa.int32()),
        *facets[2:],
        pa.ListArray.from_arrays(pa.array(ends), pa.array(vectors_fe.ravel())),
    ]
    return pa.Table.from_arrays(columns, schema=Concepts.schema)
