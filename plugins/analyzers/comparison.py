"""Analyzer `comparison`: which feature of another space means the same (SemanticLens, arXiv 2501.05398).

For every feature of the space the one of the other space whose concept vector has the largest cosine with its own; it
is known there where that cosine reaches a threshold. The control that the threshold comes from is in `chance_matches`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers.chance_matches import chance_cosines
from glasshouse.plugins.analyzers.concept_vectors import (
    ConceptVectors,
    VectorParameters,
    centre_of,
    common_embedding,
    concept_run,
    options_of,
    read_concepts,
    required_vectors,
)
from glasshouse.plugins.analyzers.example_vectors import EXAMPLE_FIELDS, FACETS
from glasshouse.plugins.analyzers.nearest import Nearest, directions, nearest
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.search.questions import MIN_IMAGES

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

KNOWN_BY_CHANCE = 0.05
"""Share of vectors of random images that reach the threshold where none is given."""

SCHEMA = pa.schema(
    [
        ("feature_id", pa.int32()),
        ("other", pa.string()),
        *EXAMPLE_FIELDS,
        ("rank", pa.int32()),
        ("other_feature_id", pa.int32()),
        ("cosine", pa.float64()),
        ("is_known", pa.bool_()),
    ]
)


class ComparisonParameters(VectorParameters):
    """Parameters of `comparison`."""

    other: str | None = Field(None, description="The space that is compared with; of the same images' embedding.")
    threshold: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Cosine from which a feature is known there; by default one that chance seldom reaches.",
    )
    k: int = Field(1, ge=1, le=100, description="Matches that are kept of each feature, the best first.")
    min_images: int = Field(MIN_IMAGES, ge=1, description="Features with fewer examples are left out, in both spaces.")
    seed: int = Field(0, ge=0, description="Of the random images.")


class Comparison(Analyzer[ComparisonParameters]):
    """The best match of each feature among those of another space, and whether it is known there.

    Both spaces need concept vectors in one embedding. Features with fewer than `min_images` examples have no row.
    """

    summary: ClassVar[str] = "Which features another space knows too: best matches by concept vectors."
    parameters: ClassVar[type[Parameters]] = ComparisonParameters
    schema: ClassVar[pa.Schema] = SCHEMA
    facets: ClassVar[tuple[str, ...]] = ("other", *FACETS)

    def resolve(self, view: AnalysisView, parameters: ComparisonParameters) -> ComparisonParameters:
        """Choose the embedding: the newest in which both spaces have such concept vectors.

        Raises:
            UsageError: no other space is named, there is no such embedding, or the other's vectors are stale.
        """
        if parameters.other is None:
            raise UsageError("Name the space to compare with: --other SPACE.")
        view.warehouse.space(parameters.other)
        if parameters.other == view.space:
            raise UsageError(
                f"'{view.space}' cannot be compared with itself; `glasshouse analyze redundancy --space {view.space}` "
                "looks for features that mean the same within a space."
            )
        embedding = common_embedding(view.warehouse, parameters, [view.space, parameters.other])
        chosen = parameters.model_copy(update={"embedding": embedding})
        run = concept_run(view, chosen, parameters.other)
        if run is not None and run.is_stale:
            raise UsageError(
                f"The concept vectors of '{parameters.other}' in '{embedding}' are stale. Renew them with `glasshouse "
                f"analyze concepts --space {parameters.other} --embedding {embedding}{options_of(parameters)}`."
            )
        return chosen

    def requires_with(
        self, view: AnalysisView, parameters: ComparisonParameters
    ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Have the space's own concept vectors renewed where they are stale."""
        return required_vectors(view, parameters)

    def run(self, view: AnalysisView, parameters: ComparisonParameters) -> Rows:
        """Match every feature; notes how many are known, and how many vectors of random images would be."""
        own, other = (_enough(read_concepts(view, parameters, space), parameters) for space in (None, parameters.other))
        centre_e = centre_of(view, parameters)
        others_le = directions(other.vectors_ke, centre_e)
        found = nearest(directions(own.vectors_ke, centre_e), others_le, parameters.k, view.progress)
        chance_c = chance_cosines(view, parameters, own.n_images_k, others_le, centre_e)
        threshold = parameters.threshold
        if threshold is None and len(chance_c):
            threshold = float(np.quantile(chance_c, 1 - KNOWN_BY_CHANCE))
        _note(view, parameters, found, chance_c, threshold)
        return _table(own, other, found, parameters, threshold)


def _enough(vectors: ConceptVectors, parameters: ComparisonParameters) -> ConceptVectors:
    is_there_k = vectors.n_images_k >= parameters.min_images
    return ConceptVectors(
        vectors.feature_ids[is_there_k], vectors.vectors_ke[is_there_k], vectors.n_images_k[is_there_k]
    )


def _note(
    view: AnalysisView, parameters: ComparisonParameters, found: Nearest, chance_c: Any, threshold: float | None
) -> None:
    cosine_n = found.cosine_nk[np.isfinite(found.cosine_nk[:, 0]), 0]
    if threshold is None or not len(cosine_n):
        view.note(n_features=len(cosine_n), n_known=0, summary=f"no feature can be compared with '{parameters.other}'")
        return
    n_known, share_by_chance = int((cosine_n >= threshold).sum()), None
    said = f"{n_known:,} of {len(cosine_n):,} features known in '{parameters.other}' (cosine from {threshold:.3f} on"
    if len(chance_c):
        share_by_chance = float(np.mean(chance_c >= threshold))
        said += f"; of vectors of random images {100 * share_by_chance:.0f} %"
    view.note(
        n_features=len(cosine_n),
        n_known=n_known,
        share_known=n_known / len(cosine_n),
        share_by_chance=share_by_chance,
        threshold=threshold,
        mean_cosine=float(cosine_n.mean()),
        summary=f"{said})",
    )


def _table(
    own: ConceptVectors,
    other: ConceptVectors,
    found: Nearest,
    parameters: ComparisonParameters,
    threshold: float | None,
) -> pa.Table:
    """Return a row for each match that there is."""
    feature, rank = np.nonzero(found.row_nk >= 0)
    cosine = found.cosine_nk[feature, rank]
    columns = {
        "feature_id": own.feature_ids[feature],
        "other": [parameters.other] * len(feature),
        **{field.name: [getattr(parameters, field.name)] * len(feature) for field in EXAMPLE_FIELDS},
        "rank": rank,
        "other_feature_id": other.feature_ids[found.row_nk[feature, rank]],
        "cosine": cosine,
        "is_known": [None] * len(feature) if threshold is None else cosine >= threshold,
    }
    return pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)
