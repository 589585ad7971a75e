"""Which concept vectors an analysis reads, and the vectors: for what compares features by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from glasshouse.plugins.analyzer import Parameters
from glasshouse.plugins.analyzers.example_vectors import FACETS, ExampleParameters, resolve_examples
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.results.store import all_runs
from glasshouse.warehouse.search.encoders import embedding_record, embedding_records

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView
    from glasshouse.warehouse.results.records import Run
    from glasshouse.warehouse.warehouse import Warehouse


class VectorParameters(Parameters):
    """Which concept vectors are compared, and how: the facets of `concepts`."""

    embedding: str | None = Field(
        None, description="Of the concept vectors; by default that of the newest, as `concepts` chose it."
    )
    by: Literal["activation", "relevance"] = Field("activation", description="As for `concepts`.")
    class_name: str = Field("", description="As for `concepts`.")
    crop: bool = Field(False, description="Concept vectors of cut-outs instead of whole images.")
    centre: bool = Field(
        False, description="Subtract the mean image embedding first: what all images share does not count."
    )


VectorsT = TypeVar("VectorsT", bound=VectorParameters)


class ConceptVectors(NamedTuple):
    """Vectors of a run of `concepts`: ids int32 [k] ascending, float32 [k, E], images behind each int32 [k]."""

    feature_ids: npt.NDArray[np.int32]
    vectors_ke: npt.NDArray[np.float32]
    n_images_k: npt.NDArray[np.int32]


def facets_of(parameters: VectorParameters) -> dict[str, Any]:
    """Return the facets of the concept vectors that are meant; without the embedding where none is named."""
    values = {facet: getattr(parameters, facet) for facet in FACETS}
    return {facet: value for facet, value in values.items() if value is not None}


def concept_runs(warehouse: Warehouse, parameters: VectorParameters) -> list[Run]:
    """Return the runs of `concepts` that count and have the facets that are meant, the newest last."""
    wanted = facets_of(parameters).items()
    runs = [run for run in all_runs(warehouse.catalogue) if run.analyzer == "concepts" and run.is_latest]
    return [run for run in runs if wanted <= run.facets.items()]


def concept_run(view: AnalysisView, parameters: VectorParameters, space: str | None = None) -> Run | None:
    """Return the newest run of `concepts` on the view's space, or on another one, that fits; None if there is none."""
    fitting = [run for run in concept_runs(view.warehouse, parameters) if run.space == (space or view.space)]
    return fitting[-1] if fitting else None


def resolve_vectors(view: AnalysisView, parameters: VectorsT) -> VectorsT:
    """Choose the embedding: that of the newest fitting concept vectors, else what `concepts` would choose.

    Raises:
        UsageError: there are no such concept vectors, and `concepts` cannot make any.
    """
    run = concept_run(view, parameters)
    if run is not None:
        return parameters.model_copy(update={"embedding": run.facets["embedding"]})
    chosen = resolve_examples(view, ExampleParameters(**facets_of(parameters)))
    return parameters.model_copy(update={"embedding": chosen.embedding})


def required_vectors(view: AnalysisView, parameters: VectorParameters) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """Return `concepts` with the parameters of the run that is there, or with these facets and its defaults."""
    run = concept_run(view, parameters)
    return (("concepts", facets_of(parameters) if run is None else run.parameters),)


def read_concepts(view: AnalysisView, parameters: VectorParameters, space: str | None = None) -> ConceptVectors:
    """Read the vectors of the view's space, or of another one; notes them as an input.

    Raises:
        UsageError: there are none.
    """
    rows = view.result("concepts", facets_of(parameters), space=space).sort("feature_id")
    run = concept_run(view, parameters, space)
    if run is None or run.vectors is None:
        return ConceptVectors(np.zeros(0, np.int32), np.zeros((0, 1), np.float32), np.zeros(0, np.int32))
    feature_ids, vectors_ke = view.warehouse.result_vectors(run)
    return ConceptVectors(feature_ids, vectors_ke, rows["n_images"].to_numpy().astype(np.int32))


def centre_of(view: AnalysisView, parameters: VectorParameters) -> npt.NDArray[np.float64]:
    """Return what is subtracted from the vectors, float64 [E] or [1]: the mean image embedding, or 0.

    Images whose vector is not finite are left out.
    """
    if not parameters.centre:
        return np.zeros(1)
    vectors_ne = view.embedding(str(parameters.embedding)).vectors_ne
    mean_e: npt.NDArray[np.float64] = vectors_ne[np.isfinite(vectors_ne).all(axis=1)].mean(axis=0, dtype=np.float64)
    return mean_e


def common_embedding(warehouse: Warehouse, parameters: VectorParameters, spaces: Sequence[str]) -> str:
    """Return the embedding of the first space's newest such concept vectors that the other spaces have some in, too.

    Raises:
        UsageError: there is none, or not the one that is named; says which command makes it.
    """
    runs = concept_runs(warehouse, parameters)
    found = {space: [str(run.facets["embedding"]) for run in runs if run.space == space] for space in spaces}
    candidates = found[spaces[0]][::-1]
    common = [name for name in candidates if all(name in names for names in found.values())]
    if common:
        return common[0]
    if parameters.embedding is not None:
        embedding_record(warehouse, parameters.embedding)
    anywhere = [name for names in found.values() for name in names]
    name = parameters.embedding or next(iter([*candidates, *anywhere, *embedding_records(warehouse)]), "NAME")
    lacking = "".join(f" --space {space}" for space, names in found.items() if name not in names)
    raise UsageError(
        f"There is no embedding in which {' and '.join(repr(space) for space in spaces)} all have concept vectors"
        f"{' of this kind' if options_of(parameters) else ''}: "
        f"{'; '.join(_listed(space, names) for space, names in found.items())}. Run `glasshouse analyze "
        f"concepts{lacking} --embedding {name}{options_of(parameters)}`."
    )


def _listed(space: str, names: Sequence[str]) -> str:
    return f"'{space}' in {', '.join(dict.fromkeys(names))}" if names else f"'{space}' in none"


def options_of(parameters: VectorParameters) -> str:
    """Return the options of `concepts` that make the kind of vectors that is asked for."""
    crop = " --crop" if parameters.crop else ""
    by = "" if parameters.by == "activation" else f" --by {parameters.by}"
    return crop + by + (f" --class-name {parameters.class_name}" if parameters.class_name else "")
