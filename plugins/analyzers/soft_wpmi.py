"""Words for features without a labeler: which words of a vocabulary its strongest images have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters
from glasshouse.plugins.analyzers.directions import Directions, directions_of
from glasshouse.plugins.analyzers.feature_rows import feature_rows
from glasshouse.plugins.analyzers.wpmi import best_words
from glasshouse.plugins.vocabulary import read_vocabulary
from glasshouse.schema.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView


class SoftWpmiParameters(Parameters):
    """Parameters of `soft_wpmi`."""

    embedding: str | None = Field(
        None, description="Image embedding of an encoder with a text tower; by default the first there is."
    )
    vocabulary: Path | None = Field(
        None, description="File of words, one per line; by default the words that ship with glasshouse."
    )
    k: int = Field(100, ge=1, description="How many of a feature's strongest images count.")
    n_words: int = Field(3, ge=1, description="Words per feature.")
    template: tuple[str, ...] = Field(
        (), description='Text with {} for the word, e.g. "a photo of {}"; of several the mean. By default the word.'
    )


class SoftWpmi(Analyzer[SoftWpmiParameters]):
    """The words of a vocabulary with the highest soft-WPMI (CLIP-Dissect)."""

    version = "1"
    summary = "the words of a vocabulary that a feature's strongest images have in common (CLIP-Dissect)"
    parameters = SoftWpmiParameters
    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("feature_id", pa.int32()),
            ("rank", pa.int32()),  # 0 is the best
            ("word", pa.string()),
            ("score", pa.float64()),
            ("share", pa.float64()),  # exp(score) over its sum over all words
        ]
    )
    in_features = ("word",)
    strongest = "share"

    def resolve(self, view: AnalysisView, parameters: SoftWpmiParameters) -> SoftWpmiParameters:
        """Choose the embedding; read the vocabulary once, so that a bad file is said at once."""
        from glasshouse.warehouse.search.templates import check_templates
        from glasshouse.warehouse.search.texts import text_capable_embeddings  # late: it can load an encoder

        check_templates(parameters.template)
        file = None if parameters.vocabulary is None else Path(view.portable(parameters.vocabulary))
        read_vocabulary(None if file is None else str(view.file(file)))
        capable = text_capable_embeddings(view.warehouse)
        if not capable:
            raise UsageError(f"There is no image embedding of an encoder with a text tower. {_HOW}")
        if parameters.embedding is not None and parameters.embedding not in capable:
            raise unknown_name("embedding with a text tower", parameters.embedding, capable, _HOW)
        return parameters.model_copy(update={"embedding": parameters.embedding or capable[0], "vocabulary": file})

    def run(self, view: AnalysisView, parameters: SoftWpmiParameters) -> pa.Table:
        """Score every word for every feature that is active on an image with an embedding.

        Raises:
            UsageError: no feature is.
        """
        words = read_vocabulary(None if parameters.vocabulary is None else str(view.file(parameters.vocabulary)))
        directions = directions_of(view.embedding(str(parameters.embedding)), view.image_ids)
        features, top_fk = _top_rows(view, directions, parameters.k)
        if not len(features):
            raise UsageError(
                f"No feature of '{view.space}' is active on an image with a vector in '{parameters.embedding}'. "
                "Complete it with `glasshouse embed`."
            )
        # One copy of the unit vectors in float32: products of it are what takes the time.
        images_ne = directions.vectors_ne * directions.scale_n[:, None].astype(np.float32)
        word_fb, score_fb, share_fb = best_words(
            top_fk,
            images_ne,
            _word_directions(view, words, parameters),
            parameters.k,
            parameters.n_words,
            view.progress,
        )
        n_best = word_fb.shape[1]
        view.note(n_words=len(words), n_features=len(features), n_fewer_images=int((top_fk < 0).any(axis=1).sum()))
        return pa.Table.from_arrays(
            [
                pa.array(np.repeat(features, n_best), pa.int32()),
                pa.array(np.tile(np.arange(n_best), len(features)), pa.int32()),
                pa.DictionaryArray.from_arrays(word_fb.reshape(-1), pa.array(words)).cast(pa.string()),
                pa.array(score_fb.reshape(-1)),
                pa.array(share_fb.reshape(-1)),
            ],
            schema=SoftWpmi.schema,
        )


_HOW = "Make one, e.g. with `glasshouse embed --encoder open_clip:ViT-B-32/datacomp_xl_s13b_b90k`."


def _top_rows(
    view: AnalysisView, directions: Directions, k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the features that are active, [f], and their k strongest images as rows of `directions`, [f, k].

    Features with fewer images have -1 after the last.
    """
    row_of_image = directions.row_of_image(view.n_images)
    features, tops = [], []
    for block in feature_rows(view, strongest=k):
        rows = block.of_images(row_of_image).strongest(k)
        counts_f = rows.counts_f
        top_fk = np.full((len(counts_f), k), -1, dtype=np.int64)
        top_fk[rows.feature_r, np.arange(len(rows.image_r)) - np.repeat(rows.bounds_f[:-1], counts_f)] = rows.image_r
        features.append(rows.first + np.flatnonzero(counts_f))
        tops.append(top_fk[counts_f > 0])
    return np.concatenate(features), np.concatenate(tops)


def _word_directions(view: AnalysisView, words: list[str], parameters: SoftWpmiParameters) -> npt.NDArray[np.float32]:
    """Return the words' unit vectors [words, E]; with several templates that of the mean."""
    from glasshouse.warehouse.search.templates import GAP, filled
    from glasshouse.warehouse.search.texts import embed_texts  # late: it can load an encoder

    templates = parameters.template or (GAP,)
    prompts = [filled(template, word) for template in templates for word in words]
    vectors = embed_texts(view.warehouse, str(parameters.embedding), prompts).astype(np.float64)
    mean_we = vectors.reshape(len(templates), len(words), -1).mean(axis=0)
    return np.asarray(mean_we / np.linalg.norm(mean_we, axis=1, keepdims=True), dtype=np.float32)
