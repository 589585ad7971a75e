"""The two forms that every import is brought into, from arrays, Arrow tables or files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.importing.keys import IMAGE_COLUMNS, find_column, keys_of_arrow, keys_of_python, require_names
from glasshouse.warehouse.importing.keys import ImageKey as ImageKey

if TYPE_CHECKING:
    import pyarrow as pa

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
        SourceError: not numbers, or the numbers of keys and rows differ.
    """
    import scipy.sparse

    keys = keys_of_python(keys)
    if not scipy.sparse.issparse(matrix):
        matrix = _array(matrix, "activations")
    _require_numbers(matrix.dtype, "activations")
    if len(matrix.shape) != 2 or matrix.shape[0] != len(keys):
        raise SourceError(
            f"The matrix has shape {tuple(matrix.shape)}, but {len(keys)} images are named. It needs one row per image."
        )
    if matrix.dtype == np.float16:
        matrix = matrix.astype(np.float32)
    coo = scipy.sparse.coo_array(matrix)
    row, feature = coo.coords
    return FeatureTable(
        list(keys), row.astype(np.int64), feature.astype(np.int64), to_float32(coo.data), int(coo.shape[1])
    )


def features_of_arrow(table: pa.Table, where: str) -> FeatureTable:
    """Take a long table with a column for the image, the feature and the value.

    Raises:
        SourceError: a column is missing; the message names the ones that would do. Or one is of the wrong type.
    """
    image = _column(table, IMAGE_COLUMNS, "the image", where)
    feature = _column(table, FEATURE_COLUMNS, "the feature", where)
    value = _column(table, VALUE_COLUMNS, "the activation", where)
    names = plain(table[image])
    require_names(names.type, image, where)
    encoded = names.dictionary_encode()
    if encoded.null_count:
        raise SourceError(f"{where}: the column '{image}' has empty cells. Every row must name its image.")
    return FeatureTable(
        keys_of_arrow(encoded.dictionary, image, where),
        encoded.indices.to_numpy().astype(np.int64),
        _whole_numbers(plain(table[feature]), feature, where),
        to_float32(_numbers(plain(table[value]), value, where)),
    )


def vectors_of_array(keys: Sequence[ImageKey], vectors: npt.ArrayLike) -> VectorTable:
    """Take a dense [n, E] array.

    Raises:
        SourceError: not numbers, not two dimensions, no width, or the numbers of keys and rows differ.
    """
    keys = keys_of_python(keys)
    vectors_ne = _array(vectors, "vectors")
    _require_numbers(vectors_ne.dtype, "vectors")
    if vectors_ne.ndim != 2 or len(vectors_ne) != len(keys):
        raise SourceError(
            f"The vectors have shape {vectors_ne.shape}, but {len(keys)} images are named. "
            "They need two dimensions and one row per image."
        )
    if len(keys) and not vectors_ne.shape[1]:
        raise SourceError(f"The vectors have shape {vectors_ne.shape}: they hold no numbers.")
    return VectorTable(list(keys), np.ascontiguousarray(to_float32(vectors_ne)))


def vectors_of_arrow(table: pa.Table, where: str) -> VectorTable:
    """Take a table with a column for the image and a list column with the vector.

    Raises:
        SourceError: a column is missing, or vectors are no lists of numbers or differ in length.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    image = _column(table, IMAGE_COLUMNS, "the image", where)
    name = _column(table, VECTOR_COLUMNS, "the vector", where)
    column = plain(table[name])
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise SourceError(f"{where}: the column '{name}' is of the type {kind}. A vector is a list of numbers.")
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(widths) > 1 or None in widths:
        raise SourceError(f"{where}: the vectors differ in length or some are empty ({sorted(map(str, widths))}).")
    numbers = _numbers(pc.list_flatten(column), name, where)
    return vectors_of_array(
        keys_of_arrow(plain(table[image]), image, where), numbers.reshape(len(column), widths[0] if widths else 0)
    )


def to_float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return numbers as float32; those too large for it become infinite, and are rejected as such later."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _array(values: Any, what: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise SourceError(f"The {what} are no array of numbers: {str(error).splitlines()[0]}.") from error


def _require_numbers(dtype: Any, what: str) -> None:
    if getattr(dtype, "kind", "") not in ("b", "i", "u", "f"):
        raise SourceError(f"The {what} are of the type {dtype}; they must be real numbers.")


def plain(column: pa.ChunkedArray) -> pa.Array:
    """Put a column into one array, without a dictionary and with one type of text."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    return column.combine_chunks()


def _numbers(column: pa.Array, name: str, where: str) -> npt.NDArray[Any]:
    """Return numbers; empty cells become NaN, and are rejected as such later."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_decimal(kind) or pa.types.is_null(kind):
        column = column.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        example = next((f", e.g. {str(cell)[:60]!r}" for cell in column[:1].to_pylist()), "")
        raise SourceError(f"{where}: the column '{name}' is of the type {kind}{example}; it must hold numbers.")
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _whole_numbers(column: pa.Array, name: str, where: str) -> npt.NDArray[np.int64]:
    """Return the numbers of features; nothing is rounded and nothing is guessed."""
    if column.null_count:
        raise SourceError(f"{where}: the column '{name}' has empty cells. Every row must say its feature.")
    values = _numbers(column, name, where)
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        sound = np.isfinite(values) & (values == np.trunc(values)) & (np.abs(values) < 2.0**53)
    else:
        sound = values <= np.iinfo(np.int64).max
    bad = np.flatnonzero(~sound)
    if len(bad):
        raise SourceError(f"{where}: {values[bad[0]]} (row {bad[0] + 1}) is no feature; features are whole numbers.")
    return values.astype(np.int64)


def _column(table: pa.Table, candidates: Sequence[str], what: str, where: str) -> str:
    name = find_column(table.column_names, candidates)
    if name is None:
        raise SourceError(
            f"{where} has no column for {what}. Call it '{candidates[0]}'; there are: {', '.join(table.column_names)}."
        )
    if table.column_names.count(name) > 1:
        raise SourceError(f"{where} has several columns '{name}'. Keep one of them.")
    return name
