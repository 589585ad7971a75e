"""Analyzer `clarity`: how alike a feature's concept examples are (SemanticLens, arXiv 2501.05398).

The formula is in `clarity_scores`; which images are examples, and what is embedded of them, in `example_vectors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers.clarity_scores import Floats, clarities
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


class ClarityParameters(ExampleParameters):
    """Parameters of `clarity`: those of the examples."""


class Clarity(Analyzer[ClarityParameters]):
    """Mean cosine of the embeddings of a feature's concept examples with each other.

    A feature with fewer than two examples that have an embedding has none; one without any has no row.
    """

    summary: ClassVar[str] = "How alike each feature's examples are: the mean cosine of their embeddings."
    parameters: ClassVar[type[Parameters]] = ClarityParameters
    schema: ClassVar[pa.Schema] = pa.schema(
        [("feature_id", pa.int32()), *EXAMPLE_FIELDS, ("n_images", pa.int32()), ("clarity", pa.float64())]
    )
    facets: ClassVar[tuple[str, ...]] = FACETS
    in_features: ClassVar[tuple[str, ...]] = ("clarity",)

    def resolve(self, view: AnalysisView, parameters: ClarityParameters) -> ClarityParameters:
        """Choose the embedding; as for `concepts`."""
        return resolve_examples(view, parameters)

    def requires_with(
        self, view: AnalysisView, parameters: ClarityParameters
    ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Ask for cut-outs or relevance where they are needed."""
        return required_examples(view, parameters)

    def run(self, view: AnalysisView, parameters: ClarityParameters) -> Rows:
        """Score every feature that has examples, and note the mean over all that have a score."""
        return scored_table(view, parameters, self.schema, lambda block: clarities(block.n_f, block.vectors_pe))


def scored_table(
    view: AnalysisView, parameters: ExampleParameters, schema: pa.Schema, score: Callable[[VectorBlock], Floats]
) -> pa.Table:
    """Return a row for each feature with examples; notes the mean score, the overall figure of SemanticLens.

    Args:
        view: of the space.
        parameters: which examples.
        schema: `feature_id`, the facets, `n_images`, and a column for the score, whose name the note has too.
        score: of a block's features, float64 [f]; NaN where there is none, which becomes NULL.
    """
    tables, scores = [], [np.zeros(0)]
    for block in example_blocks(view, parameters):
        scores.append(score(block))
        columns = [
            pa.array(block.feature_ids, pa.int32()),
            *facet_columns(parameters, len(block.feature_ids)),
            pa.array(block.n_f, pa.int32()),
            pa.array(scores[-1], pa.float64(), from_pandas=True),
        ]
        tables.append(pa.Table.from_arrays(columns, schema=schema))
    note_mean(view, schema.names[-1], np.concatenate(scores))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def note_mean(view: AnalysisView, what: str, score_f: Floats) -> None:
    """Note the mean of the scores there are, how many, and both in the line that the command prints."""
    found_f = score_f[np.isfinite(score_f)]
    n_features = len(found_f)
    said = f"{n_features:,} feature{'' if n_features == 1 else 's'}"
    if not n_features:
        view.note(n_scored=0, summary=f"{what}: no feature has a score")
        return
    mean = float(found_f.mean())
    view.note(n_scored=n_features, summary=f"{what} {mean:.3f} on average of {said}", **{f"mean_{what}": mean})
