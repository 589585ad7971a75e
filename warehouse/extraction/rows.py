"""From sparse codes of one batch to the rows of its shard.

Everything that finalising would otherwise have to group by image is settled here, per batch, where it costs next to
nothing: which token holds a feature's maximum on an image, and which features lead the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

TOP_FEATURES = 64
"""How many features per image `image_top_features` keeps."""

NOT_POOLED = -1
"""Rank of a token's row that is not its feature's maximum on the image."""

BEYOND_TOP = TOP_FEATURES
"""Rank of a pooled row that is not among the image's top features."""

ROW_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int32(), nullable=False),
        pa.field("token", pa.uint16()),  # NULL where an image has one row of activations
        pa.field("feature_id", pa.int32(), nullable=False),
        pa.field("value", pa.float32(), nullable=False),
        pa.field("rank", pa.int8(), nullable=False),
    ]
)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def shard_rows(
    row_n: npt.NDArray[np.integer[Any]],
    feature_n: npt.NDArray[np.integer[Any]],
    value_n: Floats,
    image_ids_b: Ints,
    n_tokens: int | None,
    n_features: int,
) -> pa.Table:
    """Turn sparse codes into rows of `ROW_SCHEMA`, ordered by image, token, feature.

    Args:
        row_n: activation vector of each code, ascending: of b × n_tokens vectors, image-major, or b when None.
        feature_n: feature of each code, ascending within a vector.
        value_n: its value, above 0.
        image_ids_b: ids of the b images.
        n_tokens: tokens per image of a patch space, None otherwise.
        n_features: F.
    """
    position = row_n.astype(np.int64) // (n_tokens or 1)
    rank = ranks(position, feature_n, value_n, len(image_ids_b), n_features)
    n_rows = len(value_n)
    token = pa.nulls(n_rows, pa.uint16()) if n_tokens is None else pa.array((row_n % n_tokens).astype(np.uint16))
    return pa.table(
        [
            pa.array(image_ids_b[position].astype(np.int32)),
            token,
            pa.array(feature_n.astype(np.int32, copy=False)),
            pa.array(value_n.astype(np.float32, copy=False)),
            pa.array(rank),
        ],
        schema=ROW_SCHEMA,
    )


def ranks(
    position: Ints, feature: npt.NDArray[np.integer[Any]], value: Floats, n_images: int, n_features: int
) -> npt.NDArray[np.int8]:
    """Rank every row within its image, by the maximum over tokens, highest first.

    Ties go to the lower feature; a feature's maximum that is reached twice is the lower token's. Runs in time linear
    in the rows but for the few that lead their image.

    Returns:
        int8 per row: 0..63 for the image's top features, 64 for other pooled rows, −1 for rows that are not pooled.
    """
    flat = position * n_features + feature
    best = np.zeros(n_images * n_features, dtype=np.float32)
    np.maximum.at(best, flat, value)
    pooled = np.flatnonzero(value == best[flat])
    # Written backwards, the first of equal rows stays; and rows come in token order, so that is the lower token's.
    owner = np.empty(n_images * n_features, dtype=np.int64)
    owner[flat[pooled][::-1]] = pooled[::-1]
    pooled = pooled[owner[flat[pooled]] == pooled]
    rank = np.full(len(value), NOT_POOLED, dtype=np.int8)
    rank[pooled] = BEYOND_TOP
    leading = pooled[value[pooled] >= _entry_values(position[pooled], value[pooled], n_images)[position[pooled]]]
    order = leading[np.lexsort((feature[leading], -value[leading], position[leading]))]
    starts = np.searchsorted(position[order], np.arange(n_images))
    within = np.arange(len(order)) - starts[position[order]]
    rank[order] = np.minimum(within, BEYOND_TOP).astype(np.int8)
    return rank


def _entry_values(position: Ints, value: Floats, n_images: int) -> Floats:
    """Return for each image the value that a feature needs to be among its top: the 64th highest, or 0."""
    bounds = np.searchsorted(position, np.arange(n_images + 1))
    entry_b = np.zeros(n_images, dtype=np.float32)
    for image in np.flatnonzero(np.diff(bounds) > TOP_FEATURES):
        values = value[bounds[image] : bounds[image + 1]]
        kth = len(values) - TOP_FEATURES
        entry_b[image] = np.partition(values, kth)[kth]
    return entry_b
