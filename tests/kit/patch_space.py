"""Patch spaces made from arrays, through the real shards and the real finalising."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from glasshouse.warehouse.extraction.finalise import finalise_space
from glasshouse.warehouse.extraction.rows import shard_rows
from glasshouse.warehouse.extraction.shards import ShardFolder, ShardRecord


def make_patch_space(
    warehouse: Any,
    name: str,
    values_ntf: np.ndarray[Any, Any],
    grid: tuple[int, int],
    image_ids: list[int] | None = None,
    framing: dict[str, Any] | None = None,
) -> None:
    """Store a patch space; values [images, tokens, features], 0 where silent; images 0 to n − 1 unless named."""
    ids = list(range(len(values_ntf))) if image_ids is None else image_ids
    n_tokens, n_features = values_ntf.shape[1:]
    with warehouse.catalogue.writing() as connection:
        connection.execute(
            "INSERT INTO spaces BY NAME SELECT $name AS name, $name AS fingerprint, 'patches' AS tokens, "
            "$n_features AS n_features, $rows AS grid_rows, $columns AS grid_columns, 'extracting' AS state, "
            "0 AS n_images, 0 AS n_activations, now() AT TIME ZONE 'UTC' AS created_at, $framing::JSON AS framing",
            {
                "name": name, "n_features": n_features, "rows": grid[0], "columns": grid[1],
                "framing": None if framing is None else json.dumps(framing),
            },
        )  # fmt: skip
    row_n, feature_n = np.nonzero(values_ntf.reshape(-1, n_features))
    value_n = values_ntf.reshape(-1, n_features)[row_n, feature_n].astype(np.float32)
    table = shard_rows(row_n, feature_n, value_n, np.array(ids), n_tokens, n_features)
    folder = warehouse.layout.shard_folder("space", name)
    folder.mkdir(parents=True, exist_ok=True)
    shards = ShardFolder(folder, name)
    shards.write(table, ShardRecord(name, ids))
    finalise_space(warehouse.layout, name, name, n_features, shards, has_tokens=True)
