"""Concept vectors: where a feature lies in the space of an embedding, as the mean over its strongest images.

Definition (SemanticLens, arXiv 2501.05398): V = embeddings [n, E] of a component's n = 30 concept examples, ϑ = mean V.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.search.encoders import EmbeddingRecord, embedding_record
from glasshouse.warehouse.search.texts import text_capable_embeddings

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

BLOCK = 2048
"""Features whose vectors are gathered at once: 30 examples of width 512 take 126 MB."""


class ConceptParameters(Parameters):
    """Parameters of `concepts`."""

    embedding: str | None = Field(
        None, description="Image embedding; by default one that texts can be compared with, the space's own first."
    )
    n: int = Field(30, ge=1, description="Strongest images of each feature that are averaged.")
    crop: bool = Field(
        False, description="Cut each image to where the feature is active and embed the cut-outs (patch spaces)."
    )
    crop_threshold: float = Field(
        0.01, ge=0, lt=1, description="Pixels below this share of the map's largest value are cut off."
    )
    crop_margin: float = Field(
        0.0, ge=0, le=1, description="The cut is widened on every side by this share of the picture's longer side."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where cut-outs are embedded.")


class Examples(NamedTuple):
    """The strongest images of features: `feature_p` int32 ascending and `image_p` int32, one row per pair."""

    feature_p: npt.NDArray[np.int32]
    image_p: npt.NDArray[np.int32]


class ConceptSums(NamedTuple):
    """Sums over examples: `feature_ids` [f] ascending, `sums_fe` float64 [f, E], `n_f` examples in each sum."""

    feature_ids: npt.NDArray[np.int32]
    sums_fe: npt.NDArray[np.float64]
    n_f: npt.NDArray[np.int64]


class Concepts(Analyzer[ConceptParameters]):
    """A concept vector for every feature: the mean raw embedding of its strongest images.

    With it, features are found by words and pictures: `glasshouse search "striped"`. Features that are never active,
    and those none of whose strongest images has an embedding, get none.
    """

    summary = "Concept vectors: the mean embedding of each feature's strongest images, for search and labels"
    parameters = ConceptParameters
    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("feature_id", pa.int32()),
            ("embedding", pa.string()),
            ("crop", pa.bool_()),
            ("n_images", pa.int32()),
            ("vector", pa.list_(pa.float32())),
        ]
    )
    facets = ("embedding", "crop")

    def resolve(self, view: AnalysisView, parameters: ConceptParameters) -> ConceptParameters:
        """Choose the embedding, and see that crops are possible.

        Raises:
            UsageError: no embedding fits, or crops of a space without token maps are asked for.
        """
        name = parameters.embedding or default_embedding(view)
        record = embedding_record(view.warehouse, name)
        if parameters.crop and view.grid is None:
            raise UsageError(
                f"The space '{view.space}' has no token maps to crop to: it holds one vector per image. Leave --crop "
                "away, or use a patch space."
            )
        if parameters.crop and record.encoder_fingerprint is None:
            raise UsageError(
                f"The embedding '{name}' was imported: its encoder is not known, so crops cannot be embedded. Leave "
                "--crop away, or name an embedding made by `glasshouse embed`."
            )
        return parameters.model_copy(update={"embedding": name})

    def run(self, view: AnalysisView, parameters: ConceptParameters) -> pa.Table:
        """Average the embeddings of each feature's strongest images, whole or cropped."""
        frame = view.top_images(parameters.n)
        examples = Examples(frame["feature_id"].to_numpy(), frame["image_id"].to_numpy())
        record = embedding_record(view.warehouse, str(parameters.embedding))
        if parameters.crop:
            from glasshouse.plugins.analyzers.crops import cropped_sums  # late: only crops need torch and Pillow

            sums = cropped_sums(view, record, examples, parameters)
        else:
            sums = whole_sums(view, record, examples)
        return _table(sums, parameters)


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


def whole_sums(view: AnalysisView, record: EmbeddingRecord, examples: Examples) -> ConceptSums:
    """Sum the stored embeddings of each feature's examples; images without one are left out, and counted."""
    images, vectors_ne = view.embedding(record.name)
    is_whole_n = np.isfinite(vectors_ne).all(axis=1)
    row_of_image = np.full(int(max(images.max(initial=-1), examples.image_p.max(initial=-1))) + 1, -1)
    row_of_image[images[is_whole_n]] = np.flatnonzero(is_whole_n)
    row_p = row_of_image[examples.image_p]
    view.note(n_examples_without_embedding=int((row_p < 0).sum()))
    feature_p, row_p = examples.feature_p[row_p >= 0], row_p[row_p >= 0]
    feature_ids, first_f, n_f = np.unique(feature_p, return_index=True, return_counts=True)
    sums_fe = np.empty((len(feature_ids), record.width))
    for start in range(0, len(feature_ids), BLOCK):
        stop = min(start + BLOCK, len(feature_ids))
        first, last = first_f[start], first_f[stop - 1] + n_f[stop - 1]
        gathered_pe = vectors_ne[row_p[first:last]]
        np.add.reduceat(gathered_pe, first_f[start:stop] - first, axis=0, dtype=np.float64, out=sums_fe[start:stop])
        view.progress(stop, len(feature_ids))
    return ConceptSums(feature_ids.astype(np.int32), sums_fe, n_f)


def _table(sums: ConceptSums, parameters: ConceptParameters) -> pa.Table:
    n_features = len(sums.feature_ids)
    vectors_fe = (sums.sums_fe / np.maximum(sums.n_f, 1)[:, None]).astype(np.float32)
    ends = np.arange(n_features + 1, dtype=np.int32) * vectors_fe.shape[1]
    columns = [
        pa.array(sums.feature_ids, pa.int32()),
        pa.array([parameters.embedding] * n_features, pa.string()),
        pa.array([parameters.crop] * n_features, pa.bool_()),
        pa.array(sums.n_f.astype(np.int32), pa.int32()),
        pa.ListArray.from_arrays(pa.array(ends), pa.array(vectors_fe.ravel())),
    ]
    return pa.Table.from_arrays(columns, schema=Concepts.schema)
