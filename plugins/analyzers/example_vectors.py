"""Concept examples of features: which images they are, and the embeddings of these, whole or cut to what is relevant.

Definition (SemanticLens, arXiv 2501.05398): V = embeddings [n, E] of a component's n = 30 concept examples, the images
on which it is strongest, or most relevant, cropped to what is relevant there. What scores a feature by its examples
(`concepts`, `clarity`, `polysemanticity`) takes them from here, so that all speak of the same V.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Parameters
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.results.store import latest_run
from glasshouse.warehouse.search.encoders import embedding_record
from glasshouse.warehouse.search.texts import text_capable_embeddings

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

BLOCK: Final = 2048
"""Features whose vectors are gathered at once: 30 examples of width 512 take 126 MB."""

FACETS: Final = ("embedding", "crop", "by", "class_name")
EXAMPLE_FIELDS: Final = (
    pa.field("embedding", pa.string()),
    pa.field("crop", pa.bool_()),
    pa.field("by", pa.string()),
    pa.field("class_name", pa.string()),
)
"""The facets as columns of a result."""


class ExampleParameters(Parameters):
    """Which images are a feature's examples, and what is embedded of them."""

    embedding: str | None = Field(
        None, description="Image embedding; by default one that texts can be compared with, the space's own first."
    )
    n: int = Field(30, ge=1, description="Examples of each feature.")
    by: Literal["activation", "relevance"] = Field(
        "activation", description="Images on which it is strongest, or where it counts most for the class."
    )
    class_name: str = Field(
        "", description="With --by relevance: the class; by default each image's own, as `relevance` took it."
    )
    crop: bool = Field(False, description="Cut each image to where the feature is active and embed the cut-outs.")
    attribution: Literal["map", "crp"] = Field(
        "map", description="Where that is: the up-sampled map of its activations, or pixels found by CRP (CNNs)."
    )
    crop_threshold: float = Field(
        0.01, ge=0, lt=1, description="Pixels below this share of the map's largest value are cut off."
    )
    crop_margin: float = Field(
        0.0, ge=0, le=1, description="The cut is widened on every side by this share of the picture's longer side."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where cut-outs are embedded.")


ParametersT = TypeVar("ParametersT", bound=ExampleParameters)
CROP_DEFAULTS: Final = {
    name: ExampleParameters.model_fields[name].default for name in ("attribution", "crop_threshold", "crop_margin")
}


class Examples(NamedTuple):
    """Examples of features: `feature_p` int32 ascending, and within a feature the best `image_p` int32 first."""

    feature_p: npt.NDArray[np.int32]
    image_p: npt.NDArray[np.int32]
    value_p: npt.NDArray[np.float64]
    """Activation, or relevance."""


class VectorBlock(NamedTuple):
    """Examples' embeddings of some features.

    Attributes:
        feature_ids: int32 [f], ascending; each has at least one example.
        n_f: int64 [f], how many.
        vectors_pe: float32 [p, E], not normalised, in the order of features and ranks; p = Σ n_f.
    """

    feature_ids: npt.NDArray[np.int32]
    n_f: npt.NDArray[np.int64]
    vectors_pe: npt.NDArray[np.float32]


def resolve_examples(view: AnalysisView, parameters: ParametersT) -> ParametersT:
    """Choose the embedding, and see that crops are possible.

    Raises:
        UsageError: no embedding fits, crops that are not possible are asked for, or a class without relevance.
    """
    name = parameters.embedding or default_embedding(view)
    record = embedding_record(view.warehouse, name)
    if parameters.class_name and parameters.by != "relevance":
        raise UsageError("--class-name counts with --by relevance only.")
    if not parameters.crop and any(getattr(parameters, name) != value for name, value in CROP_DEFAULTS.items()):
        raise UsageError("--attribution, --crop-threshold and --crop-margin count with --crop only.")
    if view.keep is not None and "n" not in parameters.model_fields_set:
        # The default, where nobody asked for so many: a space that keeps fewer has fewer examples.
        parameters = parameters.model_copy(update={"n": min(parameters.n, view.keep)})
    if parameters.crop:
        _check_crops(view, parameters.attribution)
        if record.encoder_fingerprint is None:
            raise UsageError(
                f"The embedding '{name}' was imported: its encoder is not known, so crops cannot be embedded. Leave "
                "--crop away, or name an embedding made by `glasshouse embed`."
            )
    return parameters.model_copy(update={"embedding": name})


def _check_crops(view: AnalysisView, attribution: str) -> None:
    record = view.record
    neurons = record["sae_spec"] == "neurons" and record["encoder_spec"] is not None
    if attribution == "crp" and not neurons:
        raise UsageError(
            f"CRP finds the pixels of neurons, and the features of '{view.space}' are none of a known encoder. Leave "
            "--attribution away."
        )
    if view.grid is None and not (neurons and record["tokens"] != "cls"):
        raise UsageError(
            f"The space '{view.space}' has no token maps to crop to: it holds one vector per image. Leave --crop "
            "away, or use a space of patches, or of neurons pooled over them."
        )


def default_embedding(view: AnalysisView) -> str:
    """Return the embedding that concept vectors are made from when none is named.

    The one of the space's own encoder if texts can be compared with it, else the first with which they can.

    Raises:
        UsageError: there is none.
    """
    capable = text_capable_embeddings(view.warehouse)
    if not capable:
        raise UsageError(
            "No embedding here can be compared with texts. Make one with `glasshouse embed --encoder open_clip:… "
            "--name clip`, or name any embedding with --embedding to search by pictures and features only."
        )
    own = view.record["encoder_fingerprint"]
    fits = [name for name in capable if embedding_record(view.warehouse, name).encoder_fingerprint == own]
    return (fits or capable)[0]


def chosen_examples(view: AnalysisView, parameters: ExampleParameters) -> Examples:
    """Return the examples of every feature that has any: its strongest or most relevant images.

    Raises:
        UsageError: relevance is asked for and was never computed, or of another class.
    """
    if parameters.by == "relevance":
        from glasshouse.plugins.analyzers.relevance_lists import relevant_images  # late: only this needs them

        frame = relevant_images(view, parameters.class_name, parameters.n)
    else:
        frame = view.top_images(parameters.n)
    return Examples(
        frame["feature_id"].to_numpy(), frame["image_id"].to_numpy(), frame["value"].to_numpy().astype(np.float64)
    )


def facets_of(parameters: ExampleParameters) -> dict[str, Any]:
    """Return the facets of a run with these parameters."""
    return {facet: getattr(parameters, facet) for facet in FACETS}


def facet_columns(parameters: ExampleParameters, n_rows: int) -> list[pa.Array]:
    """Return the columns of `EXAMPLE_FIELDS`."""
    return [pa.array([getattr(parameters, field.name)] * n_rows, field.type) for field in EXAMPLE_FIELDS]


def required_examples(view: AnalysisView, parameters: ExampleParameters) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """Return what an analysis of examples reads: their cut-outs where it crops; and relevance, however it was taken."""
    if parameters.crop:
        return (("examples", {name: getattr(parameters, name) for name in ExampleParameters.model_fields}),)
    return required_relevance(view, parameters)


def required_relevance(view: AnalysisView, parameters: ExampleParameters) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """Return `relevance` with its defaults where it is needed and was never run."""
    is_there = parameters.by == "activation" or latest_run(view.warehouse.catalogue, "relevance", view.space)
    return () if is_there else (("relevance", {}),)


def example_blocks(view: AnalysisView, parameters: ExampleParameters) -> Iterator[VectorBlock]:
    """Yield the examples' embeddings of all features, some features at a time.

    Args:
        view: of the space.
        parameters: as `resolve_examples` returned them. Of cut-outs the newest run of `examples` with the same facets
            is read.

    Raises:
        UsageError: cut-outs are asked for and there are none.
    """
    if parameters.crop:
        yield from _stored_blocks(view, parameters)
        return
    examples = chosen_examples(view, parameters)
    images, vectors_ne = view.embedding(str(parameters.embedding))
    is_whole_n = np.isfinite(vectors_ne).all(axis=1)
    row_of_image = np.full(int(max(images.max(initial=-1), examples.image_p.max(initial=-1))) + 1, -1)
    row_of_image[images[is_whole_n]] = np.flatnonzero(is_whole_n)
    row_p = row_of_image[examples.image_p]
    view.note(n_examples_without_embedding=int((row_p < 0).sum()))
    yield from _blocks(view, examples.feature_p[row_p >= 0], vectors_ne, row_p[row_p >= 0])


def _stored_blocks(view: AnalysisView, parameters: ExampleParameters) -> Iterator[VectorBlock]:
    facets = facets_of(parameters)
    run = latest_run(view.warehouse.catalogue, "examples", view.space, facets)
    if run is None:
        raise UsageError(
            f"There are no cut-outs of the space '{view.space}' in the embedding '{parameters.embedding}'. Run "
            f"`glasshouse analyze examples --crop --space {view.space} --embedding {parameters.embedding}`."
        )
    frame = view.result("examples", facets).sort("feature_id", "rank")
    view.note(**{key: run.notes[key] for key in ("incomplete", "n_examples_unreadable") if key in run.notes})
    if run.vectors is None:
        return
    _, vectors_pe = view.warehouse.result_vectors(run)
    yield from _blocks(view, frame["feature_id"].to_numpy(), vectors_pe, np.arange(len(vectors_pe)))


def _blocks(
    view: AnalysisView,
    feature_p: npt.NDArray[np.int32],
    vectors_ne: npt.NDArray[np.float32],
    row_p: npt.NDArray[np.integer],
) -> Iterator[VectorBlock]:
    """Yield the rows of vectors that belong to each example, some features at a time."""
    feature_ids, first_f, n_f = np.unique(feature_p, return_index=True, return_counts=True)
    for start in range(0, len(feature_ids), BLOCK):
        stop = min(start + BLOCK, len(feature_ids))
        first, last = first_f[start], first_f[stop - 1] + n_f[stop - 1]
        yield VectorBlock(feature_ids[start:stop].astype(np.int32), n_f[start:stop], vectors_ne[row_p[first:last]])
        view.progress(stop, len(feature_ids))


def examples_table(examples: pl.DataFrame, parameters: ExampleParameters, schema: pa.Schema) -> pa.Table:
    """Return the rows of `examples`, with the facets as columns; ranks count anew where examples were left out."""
    frame = examples.sort("feature_id", "rank").with_columns(
        rank=pl.int_range(pl.len(), dtype=pl.Int32).over("feature_id")
    )
    columns = dict(zip((f.name for f in EXAMPLE_FIELDS), facet_columns(parameters, frame.height), strict=True))
    table = frame.to_arrow()
    return pa.table({name: columns[name] if name in columns else table[name] for name in schema.names}).cast(schema)
