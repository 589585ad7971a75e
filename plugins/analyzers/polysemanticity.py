"""Analyzer `polysemanticity`: how far apart two clusters of a feature's examples are (SemanticLens, arXiv 2501.05398).

The formula is in `clarity_scores`, the clustering in `two_means`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers.clarity import scored_table
from glasshouse.plugins.analyzers.clarity_scores import Floats, polysemanticities
from glasshouse.plugins.analyzers.example_vectors import (
    EXAMPLE_FIELDS,
    FACETS,
    ExampleParameters,
    VectorBlock,
    required_examples,
    resolve_examples,
)

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView


class PolysemanticityParameters(ExampleParameters):
    """Parameters of `polysemanticity`: those of the examples, and the seed of k-means."""

    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of k-means.")


class Polysemanticity(Analyzer[PolysemanticityParameters]):
    """One minus the cosine of the centres of two clusters of a feature's examples: from 0, one thing, to 2.

    A feature with fewer than two examples that have an embedding has none; one without any has no row.
    """

    summary: ClassVar[str] = "Whether each feature's examples are two things: the distance of their two clusters."
    parameters: ClassVar[type[Parameters]] = PolysemanticityParameters
    schema: ClassVar[pa.Schema] = pa.schema(
        [("feature_id", pa.int32()), *EXAMPLE_FIELDS, ("n_images", pa.int32()), ("polysemanticity", pa.float64())]
    )
    facets: ClassVar[tuple[str, ...]] = FACETS
    in_features: ClassVar[tuple[str, ...]] = ("polysemanticity",)

    def resolve(self, view: AnalysisView, parameters: PolysemanticityParameters) -> PolysemanticityParameters:
        """Choose the embedding; as for `concepts`."""
        return resolve_examples(view, parameters)

    def requires_with(
        self, view: AnalysisView, parameters: PolysemanticityParameters
    ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Ask for cut-outs or relevance where they are needed."""
        return required_examples(view, parameters)

    def run(self, view: AnalysisView, parameters: PolysemanticityParameters) -> Rows:
        """Score every feature that has examples; notes the mean, and how many sets scikit-learn clustered itself."""
        n_by_scikit_learn = 0

        def score(block: VectorBlock) -> Floats:
            nonlocal n_by_scikit_learn
            score_f, n_asked = polysemanticities(block.n_f, block.vectors_pe, parameters.seed)
            n_by_scikit_learn += n_asked
            return score_f

        table = scored_table(view, parameters, self.schema, score)
        view.note(n_by_scikit_learn=n_by_scikit_learn)
        return table
