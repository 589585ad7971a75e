"""Summaries: what a space that keeps the strongest images only still knows of all the others.

Beside the rows of each shard lies its summary, one row per feature that is active in the batch: sums, and the counts of
the histogram's bins. Summaries add up, and together with the file that is being replaced give the statistics of all
images. Sums are added one after the other in the order of the shards, whatever is finalised when: so that an
extraction that was killed and resumed ends with the same digits as an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from glasshouse.warehouse.extraction.rows import NOT_POOLED
from glasshouse.warehouse.histograms import N_BINS, bins_of, edges_of

SUMMARY_SCHEMA = pa.schema(
    [
        pa.field("feature_id", pa.int32(), nullable=False),
        pa.field("n_active", pa.int64(), nullable=False),
        pa.field("n_tokens", pa.int64(), nullable=False),  # patch spaces: tokens on which it is active; else 0
        pa.field("sum_value", pa.float64(), nullable=False),
        pa.field("sum_squares", pa.float64(), nullable=False),
        pa.field("max_value", pa.float32(), nullable=False),
        pa.field("bins", pa.list_(pa.int16()), nullable=False),  # those with an image, ascending
        pa.field("counts", pa.list_(pa.int32()), nullable=False),  # images in each
    ]
)

Sums = dict[str, npt.NDArray[Any]]
"""Of each feature [F], by the names in `SUMS`."""

SUMS = ("n_active", "n_tokens", "sum_value", "sum_squares", "max_value")


def summarise(rows: pa.Table, n_features: int) -> pa.Table:
    """Return the summary of one batch, of `SUMMARY_SCHEMA`.

    Args:
        rows: all rows of the batch, of `ROW_SCHEMA`.
        n_features: F.
    """
    feature_r, value_r = rows["feature_id"].to_numpy(), rows["value"].to_numpy()
    is_pooled_r = rows["rank"].to_numpy() != NOT_POOLED
    feature_p, value_p = feature_r[is_pooled_r], value_r[is_pooled_r]
    cell_c, count_c = np.unique(feature_p.astype(np.int64) * N_BINS + bins_of(value_p), return_counts=True)
    feature_k, first_k = np.unique(cell_c // N_BINS, return_index=True)
    offsets = np.append(first_k, len(cell_c)).astype(np.int32)
    exact_p = value_p.astype(np.float64)
    highest_f = np.zeros(n_features, dtype=np.float32)
    np.maximum.at(highest_f, feature_p, value_p)
    has_token_r = rows["token"].is_valid().to_numpy()
    n_tokens_f = np.bincount(feature_r[has_token_r], minlength=n_features)
    columns = [
        feature_k.astype(np.int32),
        np.bincount(feature_p, minlength=n_features)[feature_k],
        n_tokens_f[feature_k],
        np.bincount(feature_p, exact_p, minlength=n_features)[feature_k],
        np.bincount(feature_p, exact_p * exact_p, minlength=n_features)[feature_k],
        highest_f[feature_k],
        pa.ListArray.from_arrays(offsets, pa.array((cell_c % N_BINS).astype(np.int16))),
        pa.ListArray.from_arrays(offsets, pa.array(count_c.astype(np.int32))),
    ]
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SUMMARY_SCHEMA, strict=True)],
        schema=SUMMARY_SCHEMA,
    )


def total(old: duckdb.DuckDBPyRelation, summaries: Iterable[Path], n_features: int) -> Sums:
    """Return the sums over the images of the old file and of the new summaries, [F] each, by their names in `SUMS`.

    Args:
        old: `feature_stats` of the file that is being replaced; it may be empty.
        summaries: of the new images, in the order of their shards.
        n_features: F.
    """
    types: dict[str, type[np.generic]] = {"n_active": np.int64, "n_tokens": np.int64}
    sums: Sums = {name: np.zeros(n_features, dtype=types.get(name, np.float64)) for name in SUMS}
    found = old.select(*("feature_id", *SUMS)).fetchnumpy()
    for name in SUMS:
        sums[name][found["feature_id"]] = np.ma.filled(found[name], 0)
    for file in summaries:
        table = pq.read_table(file, columns=["feature_id", *SUMS])
        feature_k = table["feature_id"].to_numpy()
        for name in SUMS:
            add = np.maximum if name == "max_value" else np.add
            sums[name][feature_k] = add(sums[name][feature_k], table[name].to_numpy())
    return sums


def statistics(sums: Sums, n_images: int, *, has_tokens: bool) -> pa.Table:
    """Return the rows of `feature_stats`, one for each feature.

    The deviation comes from the sums, √((Σx² − (Σx)² / n) / (n − 1)): in double precision, of values in single
    precision, it has more digits than they have.

    Args:
        sums: over all images of the space, as `total` returns them.
        n_images: of the space.
        has_tokens: whether it is a patch space.
    """
    n_f, sum_f, squares_f = (sums[name].astype(np.float64) for name in ("n_active", "sum_value", "sum_squares"))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_f = sum_f / n_f
        deviation_f = np.sqrt(np.maximum(squares_f - sum_f * mean_f, 0) / (n_f - 1))
    return pa.table(
        {
            "feature_id": np.arange(len(n_f), dtype=np.int32),
            "n_active": sums["n_active"].astype(np.int32),
            "frequency": n_f / max(n_images, 1),
            "mean_active": pa.array(mean_f, mask=n_f < 1),
            "std_active": pa.array(deviation_f, mask=n_f < 2),
            "max_value": pa.array(sums["max_value"].astype(np.float32), mask=n_f < 1),
            "sum_value": sum_f,
            "sum_squares": squares_f,
            "n_tokens": pa.array(sums["n_tokens"], mask=np.full(len(n_f), not has_tokens)),
        }
    )


def bin_table() -> pa.Table:
    """Return all bins with their edges: bin, lower, upper."""
    bins = np.arange(N_BINS, dtype=np.int16)
    lower, upper = edges_of(bins)
    return pa.table({"bin": bins, "lower": lower, "upper": upper})
