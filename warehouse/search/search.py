"""Searching features by their concept vectors and images by their embeddings: with words, pictures, or a feature.

The score is the cosine of the query with each vector. Queries: texts, in templates or plainly (`templates.py`); the
mean raw embedding of pictures; or a feature's concept vector. Spaces whose concept vectors are of different embeddings
are each asked in their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.search.encoders import EmbeddingRecord, embedding_record, embedding_records
from glasshouse.warehouse.search.index import (
    VectorIndex,
    centre_of,
    centred_index,
    concept_index,
    concept_runs,
    image_index,
)
from glasshouse.warehouse.search.pictures import find_picture, picture_vectors
from glasshouse.warehouse.search.questions import MIN_IMAGES, Question
from glasshouse.warehouse.search.templates import query_vectors
from glasshouse.warehouse.search.texts import embed_texts, is_text_capable, text_embedding

if TYPE_CHECKING:
    from glasshouse.warehouse.results.records import Run
    from glasshouse.warehouse.search.door import WarehouseSearch

Floats = npt.NDArray[np.float32]


class Hits(NamedTuple):
    """Hits of all queries: query by query, best first; ties in the order of the names and ids.

    `query_h` numbers the queries; `space_h` is '' for images; `id_h` are features or images; `score_h` cosines.
    """

    query_h: npt.NDArray[np.int32]
    space_h: list[str]
    id_h: npt.NDArray[np.int32]
    score_h: Floats


class FeatureHits(NamedTuple):
    """Features that were found, and the runs of `concepts` that were asked."""

    hits: Hits
    runs: list[Run]


class ImageHits(NamedTuple):
    """Images that were found, and the embedding that was asked."""

    hits: Hits
    embedding: str


def search_features(
    warehouse: WarehouseSearch,
    question: Question,
    spaces: Sequence[str] = (),
    k: int = 20,
    min_images: int = MIN_IMAGES,
) -> FeatureHits:
    """Return the k features that fit each query best, over all the spaces.

    Args:
        warehouse: that is asked.
        question: what is looked for. A feature that is asked about is not among its own hits.
        spaces: those with concept vectors when none is named.
        k: hits of each query.
        min_images: features whose concept vector is of fewer images are left out.

    Raises:
        UsageError: unknown names, or no concept vectors; says which command makes them.
    """
    runs = _runs_asked(warehouse, question, spaces)
    parts: list[tuple[str, VectorIndex, Floats]] = []
    query_of: dict[str, Floats] = {}
    for run in runs:
        record = embedding_record(warehouse, str(run.facets["embedding"]))
        if record.name not in query_of:
            query_of[record.name] = _query(warehouse, question, record)
        index = concept_index(warehouse, run)
        if question.centre:
            slot, state = ("concepts", run.slot), (run.run_id, record.state)
            index = centred_index(warehouse, slot, state, index, centre_of(warehouse, record))
        scores_qk = index.cosines(query_of[record.name])
        scores_qk[:, index.n_images < min_images] = -np.inf
        if question.like is not None and question.like[0] == run.space:
            scores_qk[:, index.ids == question.like[1]] = -np.inf
        parts.append((run.space, index, scores_qk))
    _check_any_left(parts, min_images)
    return FeatureHits(_best(parts, len(question.names), k), runs)


def search_images(warehouse: WarehouseSearch, question: Question, k: int = 20) -> ImageHits:
    """Return the k images that fit each query best. Images that are asked about are not among their own hits.

    Raises:
        UsageError: unknown names, or no embedding that fits the question.
    """
    record = embedding_record(warehouse, _embedding_asked(warehouse, question))
    index = image_index(warehouse, record)
    query_qe = _query(warehouse, question, record)
    if question.centre:
        index = centred_index(warehouse, ("images", record.name), record.state, index, centre_of(warehouse, record))
    scores_qk = index.cosines(query_qe)
    for name in question.images:
        scores_qk[:, index.ids == find_picture(warehouse, name).image_id] = -np.inf
    return ImageHits(_best([("", index, scores_qk)], len(question.names), k), record.name)


def _embedding_asked(warehouse: WarehouseSearch, question: Question) -> str:
    if question.embedding is not None:
        return question.embedding
    if question.texts:
        return text_embedding(warehouse)
    if question.like is not None:
        return str(_run_of(warehouse, question, question.like[0]).facets["embedding"])
    names = list(embedding_records(warehouse))
    if not names:
        raise UsageError("There are no image embeddings to search in. Make one with `glasshouse embed`.")
    return next((name for name in names if is_text_capable(warehouse, name)), names[0])


def _query(warehouse: WarehouseSearch, question: Question, record: EmbeddingRecord) -> Floats:
    """Return the vectors of the queries [q, E] in an embedding."""
    if question.texts:
        return query_vectors(
            lambda texts: embed_texts(warehouse, record.name, texts), question.texts, question.templates
        )
    if question.like is not None:
        query_qe = _concept_vector(warehouse, question, record)[None, :]
    else:
        pictures = [find_picture(warehouse, name) for name in question.images]
        query_qe = picture_vectors(warehouse, record, pictures).mean(axis=0, dtype=np.float64)[None, :]
    if question.centre:
        query_qe = query_qe - centre_of(warehouse, record)
    return query_qe.astype(np.float32)


def _concept_vector(warehouse: WarehouseSearch, question: Question, record: EmbeddingRecord) -> Floats:
    space, feature = question.like or ("", 0)
    n_features = warehouse.space(space).n_features
    if not 0 <= feature < n_features:
        raise UsageError(f"The space '{space}' has no feature {feature}: they run from 0 to {n_features - 1}.")
    index = concept_index(warehouse, _run_of(warehouse, question, space, record.name))
    row = index.row_of(feature)
    if row is None:
        raise UsageError(
            f"The feature {space}:{feature} has no concept vector: it is active on no image that has an embedding."
        )
    vector_e: Floats = index.vectors_ke[row]
    return vector_e


def _runs_asked(warehouse: WarehouseSearch, question: Question, spaces: Sequence[str]) -> list[Run]:
    """Return the run of each space that is asked; with no space named, those that have one."""
    embedding = None
    if question.like is not None:
        embedding = str(_run_of(warehouse, question, question.like[0]).facets["embedding"])
    if spaces:
        return [_run_of(warehouse, question, space, embedding) for space in dict.fromkeys(spaces)]
    named = sorted({run.space for run in concept_runs(warehouse)})
    runs = [run for space in named for run in _fitting(warehouse, question, space, embedding)[:1]]
    if not runs:
        # Not one space fits: say of the first what is missing.
        return [_run_of(warehouse, question, space, embedding) for space in named] or _no_concepts()
    return runs


def _no_concepts() -> list[Run]:
    raise UsageError("There are no concept vectors yet. Run `glasshouse analyze concepts`.")


def _fitting(warehouse: WarehouseSearch, question: Question, space: str, embedding: str | None) -> list[Run]:
    """Return the runs of a space that the question can be asked of, newest first."""
    wanted = embedding or question.embedding
    return [
        run
        for run in concept_runs(warehouse)
        if run.space == space
        and (wanted is None or run.facets["embedding"] == wanted)
        and (question.crop is None or run.facets["crop"] == question.crop)
        and run.facets["embedding"] in embedding_records(warehouse)
        and (not question.texts or is_text_capable(warehouse, str(run.facets["embedding"])))
    ]


def _run_of(warehouse: WarehouseSearch, question: Question, space: str, embedding: str | None = None) -> Run:
    """Return the run of one space.

    Raises:
        UsageError: no such space, or no concept vectors that fit; says what to run.
    """
    fitting = _fitting(warehouse, question, space, embedding)
    if fitting:
        return fitting[0]
    warehouse.space(space)
    wanted = embedding or question.embedding
    if wanted is not None:
        embedding_record(warehouse, wanted)
    elif question.texts:
        wanted = text_embedding(warehouse)
    options = f" --embedding {wanted}" if wanted else ""
    options += " --crop" if question.crop else ""
    kind = "of cropped images " if question.crop else "of whole images " if question.crop is False else ""
    what = f"{kind}in the embedding '{wanted}' " if wanted else kind
    raise UsageError(
        f"There are no concept vectors {what}for the space '{space}'. Run `glasshouse analyze concepts --space "
        f"{space}{options}`."
    )


def _check_any_left(parts: Sequence[tuple[str, VectorIndex, Floats]], min_images: int) -> None:
    n_vectors = sum(len(index.ids) for _, index, _ in parts)
    most = max((int(index.n_images.max(initial=0)) for _, index, _ in parts), default=0)
    if n_vectors and most < min_images:
        raise UsageError(
            f"None of the {n_vectors:,} concept vectors is of {min_images} images or more; the best has {most}. "
            "Ask for fewer with --min-images."
        )


def _best(parts: Sequence[tuple[str, VectorIndex, Floats]], n_queries: int, k: int) -> Hits:
    """Return the k best of all parts for each query; what scores -inf is never a hit."""
    if k < 1:
        raise UsageError(f"k must be at least 1, not {k}.")
    query_h: list[int] = []
    found: list[tuple[str, int, float]] = []
    for query in range(n_queries):
        candidates = [
            (space, int(index.ids[row]), float(scores_qk[query, row]))
            for space, index, scores_qk in parts
            for row in _top_rows(scores_qk[query], k)
        ]
        candidates.sort(key=lambda hit: (-hit[2], hit[0], hit[1]))
        found += candidates[:k]
        query_h += [query] * len(candidates[:k])
    return Hits(
        np.array(query_h, np.int32),
        [space for space, _, _ in found],
        np.array([identity for _, identity, _ in found], np.int32),
        np.array([score for _, _, score in found], np.float32),
    )


def _top_rows(scores_k: Floats, k: int) -> npt.NDArray[np.intp]:
    """Return the rows of the k largest finite scores, unordered; of equal ones the first."""
    n_finite = int(np.isfinite(scores_k).sum())
    k = min(k, n_finite)
    if k == 0:
        return np.zeros(0, np.intp)
    smallest = np.partition(scores_k, len(scores_k) - k)[len(scores_k) - k]
    above, equal = np.flatnonzero(scores_k > smallest), np.flatnonzero(scores_k == smallest)
    return np.concatenate([above, equal[: k - len(above)]])
