"""Bytes on disk, and finalising against DuckDB's own sorted CREATE TABLE AS on the same shards."""

from __future__ import annotations

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import duckdb

from benchmarks.synthetic import Setting, SpaceShape
from benchmarks.table import Row
from benchmarks.timing import interleaved, ratio
from glasshouse.warehouse.extraction.finalise import limit_memory
from glasshouse.warehouse.quoting import literal

POOLED = (
    "CREATE TABLE activations AS SELECT image_id, feature_id, value, token FROM read_parquet({files}) "
    "WHERE rank >= 0 ORDER BY feature_id, value DESC"
)
BY_TOKEN = (
    "CREATE TABLE token_activations AS SELECT image_id, token, feature_id, value FROM read_parquet({files}) "
    "ORDER BY feature_id, image_id, token"
)


def run(setting: Setting) -> Iterator[Row]:
    """Yield a space of one vector per image, then a patch space."""
    for shape in setting.shapes:
        yield from _one(setting, shape)


def _one(setting: Setting, shape: SpaceShape) -> Iterator[Row]:
    final = setting.warehouse.layout.space_file(shape.name)
    raw = setting.scratch / f"raw-{shape.name}.duckdb"

    def ours() -> None:
        # What finalising uses up is laid out beforehand for both, so that neither is timed for it.
        setting.finalise(shape, shards)

    def peer() -> None:
        _create_sorted(raw, shards.folder, has_tokens=shape.grid is not None)

    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(setting.repeats):
        final.unlink(missing_ok=True)
        raw.unlink(missing_ok=True)
        shards = setting.shards(shape)
        for name, found in interleaved({"DuckDB": peer, "finalising": ours}, 1).items():
            times[name] += found
    share = ratio(times, "finalising", "DuckDB")
    in_processor = ratio(times, "finalising, processor", "DuckDB, processor")
    n_rows = _count(final, "activations") + _count(final, "token_activations")
    tables = "activations" if shape.grid is None else "both fact tables"
    yield Row(
        "finalise",
        f"{shape.name}: {n_rows / 1e6:.1f} M rows into a finalised space",
        f"{statistics.median(times['finalising']):.1f} s",
        f"{statistics.median(times['DuckDB']):.1f} s sorted CREATE TABLE AS of {tables}",
        share,
        "<= 1.5",
        share <= 1.5,
    )
    yield Row(
        "finalise",
        f"{shape.name}: the same in processor time",
        f"{statistics.median(times['finalising, processor']):.1f} s",
        f"{statistics.median(times['DuckDB, processor']):.1f} s",
        in_processor,
    )
    yield from _sizes(final, shape)
    raw.unlink(missing_ok=True)


def _create_sorted(file: Path, shards: Path, *, has_tokens: bool) -> None:
    files = literal(shards / "*.parquet")
    with contextlib.closing(duckdb.connect(str(file))) as connection:
        limit_memory(connection)
        connection.execute(POOLED.format(files=files))
        if has_tokens:
            connection.execute(BY_TOKEN.format(files=files))
        connection.execute("CHECKPOINT")


def _sizes(final: Path, shape: SpaceShape) -> Iterator[Row]:
    fact_tables = ["activations"] if shape.grid is None else ["activations", "token_activations"]
    for table in fact_tables:
        per_row = table_bytes(final, table) / _count(final, table)
        yield Row(
            "size",
            f"{shape.name}: {table}, {_count(final, table) / 1e6:.1f} M rows",
            f"{per_row:.2f} bytes per activation",
            target="<= 7 bytes",
            met=per_row <= 7,
        )
    largest = max(_count(final, table) for table in fact_tables)
    yield Row(
        "size",
        f"{shape.name}: the whole file, its statistics and the images' top features included",
        f"{final.stat().st_size / largest:.2f} bytes per row of {fact_tables[-1]}",
    )


def table_bytes(file: Path, table: str) -> int:
    """Bytes of the blocks that a table's rows are stored in; a block that several columns share counts once."""
    with duckdb.connect(str(file), read_only=True) as connection:
        blocks = connection.execute(
            "SELECT count(DISTINCT block) FROM (SELECT block_id AS block FROM pragma_storage_info($table) "
            "UNION ALL SELECT unnest(additional_block_ids) FROM pragma_storage_info($table)) WHERE block >= 0",
            {"table": table},
        ).fetchone()
        size = connection.execute("SELECT block_size FROM pragma_database_size()").fetchone()
    return int(blocks[0]) * int(size[0]) if blocks and size else 0


def _count(file: Path, table: str) -> int:
    with duckdb.connect(str(file), read_only=True) as connection:
        return int(connection.table(table).count("*").fetchall()[0][0])
