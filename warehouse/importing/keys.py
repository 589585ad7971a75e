"""What names an image in an import: text that is joined, or an image_id as a number.

A number means an image_id only where that is said: in Python's `images`, and in columns and arrays called `image_id`
or `image_ids`. Every other number in a file is the text of a name, since pictures are often called by numbers.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glasshouse.schema.errors import SourceError

if TYPE_CHECKING:
    import pyarrow as pa

ImageKey = str | int
"""A path, file name, stem or SHA-256, or an image_id as an int."""

IMAGE_COLUMNS = ("image", "image_id", "image_ids", "path", "file", "filename", "file_name", "key", "sha256")

_ID_NAMES = ("image_id", "image_ids")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")


def find_column(names: Iterable[str], candidates: Sequence[str]) -> str | None:
    """Find a column by its usual names, in any case; None where there is none."""
    by_lower = {name.strip().lower(): name for name in names}
    return next((by_lower[candidate] for candidate in candidates if candidate in by_lower), None)


def holds_ids(name: str) -> bool:
    """Say whether the numbers of a column or array of this name are image_ids."""
    return name.strip().lower() in _ID_NAMES


def are_ids(texts: Iterable[str]) -> bool:
    """Say whether all texts are whole numbers as numbers are written: `007` is a name."""
    return all(_WHOLE.fullmatch(text) for text in texts)


def keys_of_python(images: Iterable[Any]) -> list[ImageKey]:
    """Take names as Python gives them: text, paths, and image_ids as whole numbers.

    Raises:
        SourceError: something else.
    """
    return [_key_of_python(image.as_py() if hasattr(image, "as_py") else image) for image in images]


def _key_of_python(image: Any) -> ImageKey:
    if isinstance(image, os.PathLike):
        image = os.fspath(image)
    if isinstance(image, str):
        return str(image)
    if not isinstance(image, (bool, np.bool_)) and hasattr(image, "__index__"):
        try:
            return operator.index(image)
        except TypeError:
            pass
    raise SourceError(f"{image!r} names no image. Name images by text, or by image_id as a whole number.")


def keys_of_arrow(column: pa.Array, name: str, where: str) -> list[ImageKey]:
    """Take the names in a column called `name`.

    Raises:
        SourceError: empty cells, or neither text nor whole numbers.
    """
    import pyarrow as pa

    require_names(column.type, name, where)
    if column.null_count:
        raise SourceError(f"{where}: the column '{name}' has empty cells. Every row must name its image.")
    if pa.types.is_integer(column.type):
        return column.to_pylist() if holds_ids(name) else [str(key) for key in column.to_pylist()]
    keys: list[ImageKey] = column.to_pylist()
    if "" in keys:
        raise SourceError(f"{where}: the column '{name}' has empty cells. Every row must name its image.")
    return keys


def require_names(kind: pa.DataType, name: str, where: str) -> None:
    """Check that a column's type can name images.

    Raises:
        SourceError: it cannot.
    """
    import pyarrow as pa

    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (is_text or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise SourceError(
            f"{where}: the column '{name}' is of the type {kind}, which names no images. It needs text, or "
            "whole numbers."
        )


def keys_of_array(array: npt.NDArray[Any], name: str, where: str) -> list[ImageKey]:
    """Take the names in an array called `name`.

    Raises:
        SourceError: not one dimension, or neither text nor whole numbers.
    """
    if array.ndim != 1 or array.dtype.kind not in "USiu":
        raise SourceError(
            f"{where}: the array '{name}' has the shape {array.shape} and the type {array.dtype}. To name images, it "
            "needs one dimension, and text or whole numbers."
        )
    if array.dtype.kind == "S":
        return [key.decode("utf-8", "backslashreplace") for key in array.tolist()]
    if array.dtype.kind == "U" or holds_ids(name):
        return list(array.tolist())
    return [str(key) for key in array.tolist()]
