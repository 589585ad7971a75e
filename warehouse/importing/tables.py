"""The two forms that every import is brought into, from arrays, Arrow tables or files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glasshouse.schema.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa

ImageKey = str | int
"""A path, file name, stem or SHA-256, or an image_id as an int."""

IMAGE_COLUMNS = ("image", "image_id", "path", "file", "filename", "file_name", "key", "sha256")
FEATURE_COLUMNS = ("feature", "feature_id", "neuron", "unit", "index")
VALUE_COLUMNS = ("value", "activation", "act")
VECTOR_COLUMNS = ("vector", "embedding", "embeddings", "vectors")


@dataclass(frozen=True)
class FeatureTable:
    """Sparse activations of images that are still named by keys.

    Attributes:
        keys: one for each image; images without any activation count too.
        row_n: int64 [nnz], position in `keys`.
        feature_n: int64 [nnz].
        value_n: float32 [nnz].
        n_features: F, where the form says it (the width of a matrix); else None.
    """

    keys: list[ImageKey]
    row_n: npt.NDArray[np.int64]
    feature_n: npt.NDArray[np.int64]
    value_n: npt.NDArray[np.float32]
    n_features: int | None = None


@dataclass(frozen=True)
class VectorTable:
    """Vectors float32 [n, E] of images that are still named by keys."""

    keys: list[ImageKey]
    vectors_ne: npt.NDArray[np.float32]


def features_of_matrix(keys: Sequence[ImageKey], matrix: Any) -> FeatureTable:
    """Take a dense [n, F] array or a scipy sparse matrix.

    Raises:
        SourceError: the numbers of keys and rows differ.
    """
    import scipy.sparse

    coo = scipy.sparse.coo_array(matrix)
    if len(coo.shape) != 2 or coo.shape[0] != len(keys):
        raise SourceError(
            f"The matrix has shape {tuple(coo.shape)}, but {len(keys)} images are named. It needs one row per image."
        )
    row, feature = coo.coords
    return FeatureTable(
        list(keys), row.astype(np.int64), feature.astype(np.int64), coo.data.astype(np.float32), int(coo.shape[1])
    )


def features_of_arrow(table: pa.Table, where: str) -> FeatureTable:
    """Take a long table with a column for the image, the feature and the value.

    Raises:
        SourceError: a column is missing; the message names the ones that would do.
    """
    image = _column(table, IMAGE_COLUMNS, "the image", where)
    feature = _column(table, FEATURE_COLUMNS, "the feature", where)
    value = _column(table, VALUE_COLUMNS, "the activation", where)
    encoded = table[image].combine_chunks().dictionary_encode()
    keys: list[ImageKey] = encoded.dictionary.to_pylist()
    if encoded.null_count:
        raise SourceError(f"{where}: the column '{image}' has empty cells. Every row must name its image.")
    try:
        return FeatureTable(
            keys,
            encoded.indices.to_numpy().astype(np.int64),
            table[feature].to_numpy().astype(np.int64),
            table[value].to_numpy().astype(np.float32),
        )
    except (ValueError, TypeError) as error:
        raise SourceError(f"{where}: features must be whole numbers and values numbers ({error}).") from error


def vectors_of_array(keys: Sequence[ImageKey], vectors: npt.ArrayLike) -> VectorTable:
    """Take a dense [n, E] array.

    Raises:
        SourceError: not two dimensions, or the numbers of keys and rows differ.
    """
    vectors_ne = np.ascontiguousarray(np.asarray(vectors), dtype=np.float32)
    if vectors_ne.ndim != 2 or len(vectors_ne) != len(keys):
        raise SourceError(
            f"The vectors have shape {vectors_ne.shape}, but {len(keys)} images are named. "
            "They need two dimensions and one row per image."
        )
    return VectorTable(list(keys), vectors_ne)


def vectors_of_arrow(table: pa.Table, where: str) -> VectorTable:
    """Take a table with a column for the image and a list column with the vector.

    Raises:
        SourceError: a column is missing, or vectors differ in length.
    """
    image = _column(table, IMAGE_COLUMNS, "the image", where)
    vector = _column(table, VECTOR_COLUMNS, "the vector", where)
    rows = table[vector].to_pylist()
    widths = {None if row is None else len(row) for row in rows}
    if len(widths) > 1 or None in widths:
        raise SourceError(f"{where}: the vectors differ in length or some are empty ({sorted(map(str, widths))}).")
    width = next(iter(widths), 0) or 0
    return vectors_of_array(table[image].to_pylist(), np.array(rows, dtype=np.float32).reshape(len(rows), width))


def _column(table: pa.Table, candidates: Sequence[str], what: str, where: str) -> str:
    """Find a column by its usual names, in any case."""
    by_lower: dict[str, str] = {name.strip().lower(): name for name in table.column_names}
    for candidate in candidates:
        if candidate in by_lower:
            return by_lower[candidate]
    raise SourceError(
        f"{where} has no column for {what}. Call it '{candidates[0]}'; there are: {', '.join(table.column_names)}."
    )
