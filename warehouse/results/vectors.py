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


class FeatureVectors(NamedTuple):
    """One vector per feature: `feature_ids` int32 [k] ascending, `vectors_ke` float32 [k, E]."""

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
    """Write `feature_id` and `vector` of a result's rows as one LanceDB table.

    Raises:
        WarehouseError: the disk is full or not writable.
    """
    vectors = table[VECTOR_COLUMN].combine_chunks()
    width = len(vectors.flatten()) // max(len(vectors), 1)
    fixed = pa.FixedSizeListArray.from_arrays(vectors.flatten(), max(width, 1))
    schema = pa.schema([("feature_id", pa.int32()), (VECTOR_COLUMN, pa.list_(pa.float32(), max(width, 1)))])
    batches: Iterable[pa.RecordBatch] = pa.Table.from_arrays(
        [table["feature_id"].combine_chunks(), fixed], schema=schema
    ).to_batches()
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
