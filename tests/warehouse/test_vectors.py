"""The vector store gives vectors in the order of their keys, however they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from glasshouse.warehouse.vectors import VectorStore


def test_rows_come_in_the_order_of_their_keys(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "vectors")
    schema = pa.schema([("image_id", pa.int32()), ("vector", pa.list_(pa.float32(), 2))])
    for ids in ([2, 3], [7, 5], [0]):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(ids, 2), pa.float32()), 2)
        store.append("e", schema, [pa.RecordBatch.from_arrays([pa.array(ids, pa.int32()), vectors], schema=schema)])
    found = store.read("e")
    assert found.image_ids.tolist() == [0, 2, 3, 5, 7]
    assert found.vectors_ne.tolist() == [[i, i] for i in (0, 2, 3, 5, 7)]
