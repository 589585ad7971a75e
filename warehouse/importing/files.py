"""Files of activations and vectors: JSON batches, NPZ, NPY, Parquet and CSV."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.importing.keys import (
    IMAGE_COLUMNS,
    ImageKey,
    are_ids,
    find_column,
    holds_ids,
    keys_of_array,
    keys_of_arrow,
)
from glasshouse.warehouse.importing.tables import (
    VALUE_COLUMNS,
    FeatureTable,
    VectorTable,
    features_of_arrow,
    features_of_matrix,
    plain,
    to_float32,
    vectors_of_array,
    vectors_of_arrow,
)

KEY_ARRAYS = ("images", "image", "keys", "paths", "files", "filenames", "image_ids", "image_id")
DENSE_ARRAYS = ("activations", "features", "values", "codes")
VECTOR_ARRAYS = ("vectors", "embeddings", "vector", "embedding")


def read_features(paths: Sequence[Path], keys_file: Path | None = None) -> FeatureTable:
    """Read activations from one or several files, or from all JSON files of folders.

    Args:
        paths: `.json` ({image: {feature: value}}), `.npz` (scipy's CSR, or a dense array, with `images`),
            `.parquet` or `.csv` (image, feature, value).
        keys_file: for an NPZ without image names: a text file with one image a line, or a table with an image column.

    Raises:
        SourceError: a file that cannot be read or understood.
    """
    files = list(_files(paths))
    if not files:
        raise SourceError(f"There are no .json files in {', '.join(map(str, paths))}.")
    return _joined([_features_of(file, keys_file) for file in files])


def read_vectors(path: Path, keys_file: Path | None = None) -> VectorTable:
    """Read vectors from `.npy` (with `keys_file`), `.npz` (vectors and images), or `.parquet` (image, vector).

    Raises:
        SourceError: a file that cannot be read or understood.
    """
    _require_file(path)
    match path.suffix.lower():
        case ".npy":
            keys, vectors = _keys(path, {}, keys_file), _load(path)
            with _about(path):
                return vectors_of_array(keys, vectors)
        case ".npz":
            arrays = _load(path)
            keys, vectors = _keys(path, arrays, keys_file), _array(path, arrays, VECTOR_ARRAYS)
            with _about(path):
                return vectors_of_array(keys, vectors)
        case ".parquet" | ".csv":
            return vectors_of_arrow(_arrow(path), str(path))
    raise SourceError(f"{path}: vectors are read from .npy, .npz and .parquet files.")


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.json"))
        else:
            _require_file(path)
            yield path


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise SourceError(f"There is no file {path}.")


def _features_of(path: Path, keys_file: Path | None) -> FeatureTable:
    match path.suffix.lower():
        case ".json":
            return _features_of_json(path)
        case ".npz":
            return _features_of_npz(path, keys_file)
        case ".parquet" | ".csv":
            return features_of_arrow(_arrow(path), str(path))
    raise SourceError(f"{path}: activations are read from .json, .npz, .parquet and .csv files.")


def _features_of_json(path: Path) -> FeatureTable:
    """Read {image: {feature: value}}; the batches of the original art toolkit have this form."""
    try:
        batch = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError, RecursionError) as error:
        raise SourceError(f"{path} is no JSON: {error}.") from error
    if not isinstance(batch, dict) or not all(isinstance(entry, dict) for entry in batch.values()):
        raise SourceError(f"{path} must hold {{image: {{feature: value}}}}, an object of objects.")
    rows, features, values = [], [], []
    for row, (image, entry) in enumerate(batch.items()):
        for feature, value in entry.items():
            try:
                features.append(_int64(feature))
                values.append(float(value))
            except (TypeError, ValueError, OverflowError):
                raise SourceError(
                    f"{path}: '{image}' has the entry {feature[:40]!r}: {str(value)[:40]}; features are whole numbers, "
                    "values are numbers."
                ) from None
            rows.append(row)
    return FeatureTable(
        list(batch), np.array(rows, np.int64), np.array(features, np.int64), to_float32(np.array(values, np.float64))
    )


def _int64(text: str) -> int:
    number = int(text)
    if abs(number) > np.iinfo(np.int64).max:
        raise OverflowError
    return number


def _features_of_npz(path: Path, keys_file: Path | None) -> FeatureTable:
    """Read what scipy.sparse.save_npz wrote, with or without an `images` array beside, or a dense array."""
    arrays = _load(path)
    is_sparse = "format" in arrays or {"data", "indices", "indptr", "shape"} <= set(arrays)
    keys = _keys(path, arrays, keys_file)
    matrix = _sparse(path, arrays) if is_sparse else _array(path, arrays, DENSE_ARRAYS)
    with _about(path):
        return features_of_matrix(keys, matrix)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Say which file an array that cannot be used is from."""
    try:
        yield
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from error


def _sparse(path: Path, arrays: dict[str, Any]) -> Any:
    """Read a sparse matrix of any of scipy's formats; CSR where the file does not say which."""
    import scipy.sparse

    try:
        if "format" in arrays:
            matrix = scipy.sparse.load_npz(path)
        else:
            parts = (arrays["data"], arrays["indices"], arrays["indptr"])
            matrix = scipy.sparse.csr_array(parts, shape=tuple(int(n) for n in arrays["shape"]))
        if matrix.format in ("csr", "csc", "bsr"):
            matrix.check_format(full_check=True)
        return matrix
    except (ValueError, TypeError, KeyError, IndexError, NotImplementedError) as error:
        raise SourceError(f"{path} holds no sound sparse matrix: {_first_line(error)}.") from error


def _load(path: Path) -> Any:
    """Load NPY as an array or NPZ as a dict; pickled objects are refused, since unpickling runs code."""
    try:
        loaded = np.load(path, allow_pickle=False)
        is_archive = isinstance(loaded, np.lib.npyio.NpzFile)
        result = dict(loaded) if is_archive else loaded
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        reason = "it holds Python objects or is no NumPy file" if "pickle" in str(error) else _first_line(error)
        raise SourceError(
            f"{path} cannot be read as NumPy data ({reason}). Save plain arrays; image names as a string array."
        ) from error
    if is_archive != (path.suffix.lower() == ".npz"):
        raise SourceError(f"{path} is an {'NPZ' if is_archive else 'NPY'} file. Name it so.")
    return result


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _array(path: Path, arrays: dict[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if name in arrays:
            return arrays[name]
    raise SourceError(f"{path} has none of the arrays {', '.join(names)}. It has: {', '.join(arrays)}.")


def _keys(path: Path, arrays: dict[str, Any], keys_file: Path | None) -> list[ImageKey]:
    """Find the images' names: in the file itself, or in the file given with --images."""
    if keys_file is not None:
        _require_file(keys_file)
        if keys_file.suffix.lower() in (".csv", ".parquet"):
            table = _arrow(keys_file)
            column = find_column(table.column_names, IMAGE_COLUMNS) or next(iter(table.column_names), None)
            if column is None:
                raise SourceError(f"{keys_file} has no columns. It must name one image a row.")
            return keys_of_arrow(plain(table[column]), column, str(keys_file))
        return _lines(keys_file)
    for name in KEY_ARRAYS:
        if name in arrays:
            return keys_of_array(arrays[name], name, str(path))
    raise SourceError(
        f"{path} does not say which row is which image. Add an array `images` to it, or give --images FILE with one "
        "image a line, in the order of the rows."
    )


def _lines(path: Path) -> list[ImageKey]:
    """Read one name a line; empty lines at the end name nothing."""
    try:
        return list(path.read_text(encoding="utf-8-sig").rstrip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read: {error}.") from error


def _arrow(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            return pq.read_table(path)
        return _csv(path)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path} cannot be read: {_first_line(error)}.") from error


def _csv(path: Path) -> pa.Table:
    """Read a CSV whose names of images stay the text that they are: `007` is no 7."""
    import pyarrow.csv

    with pyarrow.csv.open_csv(path) as reader:
        names = reader.schema.names
    image, value = find_column(names, IMAGE_COLUMNS) or names[0], find_column(names, VALUE_COLUMNS)
    types = {image: pa.string()} | ({value: pa.float64()} if value else {})
    table = pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(column_types=types))
    if holds_ids(image) and table.column_names.count(image) == 1 and are_ids(table[image].to_pylist()):
        position = table.column_names.index(image)
        return table.set_column(position, image, table[image].cast(pa.int64()))
    return table


def _joined(tables: Sequence[FeatureTable]) -> FeatureTable:
    """Put batches after one another."""
    offsets = np.cumsum([0, *(len(table.keys) for table in tables)])
    widths = [table.n_features for table in tables if table.n_features is not None]
    return FeatureTable(
        [key for table in tables for key in table.keys],
        np.concatenate([table.row_n + offset for table, offset in zip(tables, offsets, strict=False)]),
        np.concatenate([table.feature_n for table in tables]),
        np.concatenate([table.value_n for table in tables]),
        max(widths, default=None),
    )
