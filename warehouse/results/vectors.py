"""Vectors of results, e.g. concept vectors: one LanceDB table per run, written before the run is recorded.

A run that dies between the two leaves a table that no run names; `glasshouse check --repair` removes it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.vectors import VectorStore

VECTOR_COLUMN = "vector"
"""The column of a result that goes to LanceDB."""

RANK_COLUMN = "rank"
"""The column that counts the rows of a feature, where it has several with vectors."""


class FeatureVectors(NamedTuple):
    """One vector per feature: `feature_ids` int32 [k] ascending, `vectors_ke` float32 [k, E].

    Of a result with ranks: one vector per row, and in the place of `feature_ids` the rows' numbers 0..k-1 in the order
    of feature and rank.
    """

    feature_ids: npt.NDArray[np.int32]
    vectors_ke: npt.NDArray[np.float32]


def result_vector_store(layout: Layout) -> VectorStore:
    """Return the store of results' vectors: a folder of its own, so that no embedding's name can meet theirs."""
    return VectorStore(layout.vectors / "results", key="feature_id", what="result")


def read_vectors(layout: Layout, name: str) -> FeatureVectors:
    """Return the vectors of one run, by the name that its record gives."""
    found = result_vector_store(layout).read(name)
    return FeatureVectors(found.image_ids, found.vectors_ne)


def write_vectors(layout: Layout, name: str, table: pa.Table) -> None:
    """Write the vectors of a result's rows as one LanceDB table, by `feature_id`; by the row's number with ranks.

    Raises:
        WarehouseError: the disk is full or not writable.
    """
    vectors = table[VECTOR_COLUMN].combine_chunks()
    width = len(vectors.flatten()) // max(len(vectors), 1)
    fixed = pa.FixedSizeListArray.from_arrays(vectors.flatten(), max(width, 1))
    schema = pa.schema([("feature_id", pa.int32()), (VECTOR_COLUMN, pa.list_(pa.float32(), max(width, 1)))])
    is_ranked = RANK_COLUMN in table.column_names
    keys = pa.array(np.arange(len(table), dtype=np.int32)) if is_ranked else table["feature_id"].combine_chunks()
    batches: Iterable[pa.RecordBatch] = pa.Table.from_arrays([keys, fixed], schema=schema).to_batches()
    result_vector_store(layout).append(name, schema, batches)


def stray_vectors(layout: Layout, known: set[str]) -> list[str]:
    """Return the tables that no run names."""
    return [name for name in result_vector_store(layout).names() if name not in known]


def drop_vectors(layout: Layout, name: str) -> None:
    """Remove the vectors of a run that is forgotten."""
    result_vector_store(layout).drop(name)
    folder = layout.vectors / "results"
    if folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder)
