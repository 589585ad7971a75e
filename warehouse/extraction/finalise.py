"""From shards to a finalised space: sorted into a new file, swapped in whole, then recorded.

The order makes every crash harmless. The new file is complete before it takes its name; the catalogue's record comes
after the file; the shards go last. What a crash leaves behind is done again or cleared by the next run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from glasshouse.schema.errors import WarehouseError
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.catalogue import Catalogue, first_line
from glasshouse.warehouse.extraction.run import embedding_schema
from glasshouse.warehouse.extraction.shards import ShardFolder, ShardRecord
from glasshouse.warehouse.extraction.targets import EmbeddingTarget
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.quoting import identifier, literal
from glasshouse.warehouse.space_file import space_file
from glasshouse.warehouse.vectors import VectorStore

SPACE_FORMAT = 1

MEBIBYTES_PER_THREAD = 128
"""For sorting. Half of it still sorts 31 million rows, but slower; a quarter is too little for DuckDB."""


class _ShardRows(NamedTuple):
    """Which rows of the shards go into the file: those of the new images, which may be all that the shards hold."""

    files: Sequence[Path]
    new_images: Sequence[int]
    are_all_new: bool


def finalise_space(
    layout: Layout, name: str, fingerprint: str, n_features: int, shards: ShardFolder, *, has_tokens: bool
) -> int:
    """Build the space's file from its shards and the file there is, swap it in, record it, clear the shards.

    Returns:
        The number of images whose rows are new.

    Raises:
        WarehouseError: the disk is full or not writable; the shards stay, so running again goes on from here.
    """
    records = shards.records()
    if not records and is_ready(layout, "spaces", name) and layout.space_file(name).exists():
        return 0
    known = images_of(layout.space_file(name))
    covered = [image for record in records for image in record.images]
    new = [image for image in covered if image not in known]
    if new or not layout.space_file(name).exists():
        final = layout.space_file(name)
        temporary = final.with_name(f"{final.name}.tmp-{os.getpid()}")
        layout.spaces.mkdir(exist_ok=True)
        sweep_temporary(layout, name)
        try:
            rows = _ShardRows(shards.files(), new, are_all_new=len(new) == len(covered))
            _build(temporary, final, name, fingerprint, n_features, rows, has_tokens=has_tokens)
        except (duckdb.Error, OSError) as error:
            _remove(temporary)
            raise WarehouseError(
                f"Could not write {final}: {first_line(error)} The extracted shards are kept; free some space or "
                "check permissions, then run the same command again."
            ) from error
        temporary.replace(final)
    record_space(layout, name, records)
    shards.clear()
    return len(new)


def is_ready(layout: Layout, table: str, name: str) -> bool:
    """Say whether the catalogue records the space or embedding as finalised; `table` is one of those two tables."""
    with Catalogue(layout.root).reading() as catalogue:
        row = catalogue.execute(f"SELECT state FROM {identifier(table)} WHERE name = $name", {"name": name}).fetchone()
    return row is not None and row[0] == "ready"


def images_of(file: Path) -> set[int]:
    """Ids of the images that a finalised file covers; empty when there is none."""
    if not file.exists():
        return set()
    with space_file(file) as connection:
        return {int(row[0]) for row in connection.execute("SELECT image_id FROM space_images").fetchall()}


def sweep_temporary(layout: Layout, name: str) -> list[Path]:
    """Remove what interrupted finalisings of this space left behind; returns it."""
    left = list(layout.spaces.glob(f"{name}.duckdb.tmp-*")) if layout.spaces.is_dir() else []
    for path in left:
        _remove(path)
    return left


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".wal").unlink(missing_ok=True)


def _build(
    temporary: Path,
    final: Path,
    name: str,
    fingerprint: str,
    n_features: int,
    rows: _ShardRows,
    *,
    has_tokens: bool,
) -> None:
    """Write the new file."""
    with contextlib.closing(duckdb.connect(str(temporary))) as connection:
        limit_memory(connection)
        connection.execute(read_sql("space.sql"))
        if final.exists():
            connection.execute(f'ATTACH {literal(final)} AS "the old" (READ_ONLY)')
        else:
            own_name = _own_name(connection)
            # A blank in it: no space can have this name, which would be the new file's own.
            connection.execute("ATTACH ':memory:' AS \"the old\"")
            connection.execute('USE "the old"')
            connection.execute(read_sql("space.sql"))
            connection.execute(f"USE {own_name}")
        _name_shard_rows(connection, rows)
        connection.execute(
            "INSERT INTO space VALUES ($name, $fingerprint, $format, $n_features)",
            {"name": name, "fingerprint": fingerprint, "format": SPACE_FORMAT, "n_features": n_features},
        )
        connection.execute(
            "INSERT INTO space_images SELECT image_id FROM "
            '(SELECT image_id FROM "the old".space_images UNION ALL SELECT image_id FROM new_images) ORDER BY image_id'
        )
        connection.execute(read_sql("queries/finalise_top_features.sql"))
        connection.execute(read_sql("queries/finalise_activations.sql"))
        if has_tokens:
            connection.execute(read_sql("queries/finalise_token_activations.sql"))
        counted = connection.execute("SELECT count(*) FROM space_images").fetchone()
        connection.execute(
            read_sql("queries/finalise_feature_stats.sql"),
            {"n_images": counted[0] if counted else 0, "n_features": n_features, "has_tokens": has_tokens},
        )
        connection.execute("CHECKPOINT")


def limit_memory(connection: duckdb.DuckDBPyConnection) -> None:
    """Bound what DuckDB holds, however many rows are sorted; the rest is spilled beside the file."""
    row = connection.execute("SELECT current_setting('threads')").fetchone()
    limit = f"{MEBIBYTES_PER_THREAD * int(row[0] if row else 1)}MiB"
    connection.execute(f"SET memory_limit = {literal(limit)}")


def _own_name(connection: duckdb.DuckDBPyConnection) -> str:
    """Return the quoted name under which DuckDB knows the connection's own file."""
    row = connection.execute("SELECT current_database()").fetchone()
    return identifier(str(row[0])) if row else "main"


def _name_shard_rows(connection: duckdb.DuckDBPyConnection, rows: _ShardRows) -> None:
    """Make `shard_rows` the rows of the images that are new; a crash may have left shards already finalised."""
    connection.register("new_images", pa.table({"image_id": pa.array(rows.new_images, pa.int32())}))
    if not rows.files:
        connection.execute(
            "CREATE TEMP VIEW shard_rows AS SELECT NULL::INTEGER AS image_id, NULL::USMALLINT AS token, "
            "NULL::INTEGER AS feature_id, NULL::FLOAT AS value, NULL::TINYINT AS rank WHERE false"
        )
        return
    listing = ", ".join(literal(file) for file in rows.files)
    keep = "" if rows.are_all_new else " SEMI JOIN new_images USING (image_id)"
    connection.execute(f"CREATE TEMP VIEW shard_rows AS SELECT * FROM read_parquet([{listing}]){keep}")


def finalise_embedding(layout: Layout, target: EmbeddingTarget, shards: ShardFolder) -> int:
    """Append an embedding's shards to LanceDB in one commit, record it, clear the shards.

    Returns:
        The number of images whose vectors are new.
    """
    records, store = shards.records(), VectorStore(layout.vectors)
    if not records and is_ready(layout, "embeddings", target.name) and target.name in store.names():
        return 0
    known = store.image_ids(target.name)
    new = sum(image not in known for record in records for image in record.images)
    if new or target.name not in store.names():
        schema = embedding_schema(target.width)
        store.append(target.name, schema, _new_vectors(shards, schema, known))
    with Catalogue(layout.root).writing() as catalogue:
        catalogue.execute(
            "UPDATE embeddings SET state = 'ready', n_images = $n_images, "
            "finalised_at = now() AT TIME ZONE 'UTC' WHERE name = $name",
            {"n_images": len(known) + new, "name": target.name},
        )
        store_failures(catalogue, f"embedding {target.name}", records)
    shards.clear()
    return new


def _new_vectors(shards: ShardFolder, schema: pa.Schema, known: set[int]) -> Iterator[pa.RecordBatch]:
    """Yield the vectors of images that have none yet, in image order."""
    taken = pa.array(sorted(known), pa.int32())
    for file in shards.files():
        table = pq.read_table(file)
        rows = table.filter(pc.invert(pc.is_in(table["image_id"], value_set=taken)))
        yield from rows.cast(schema).to_batches()


def record_space(layout: Layout, name: str, records: Sequence[ShardRecord]) -> None:
    """Bring the catalogue's record of a space in line with its file, and store the shards' failures.

    A second call changes nothing.
    """
    with space_file(layout.space_file(name)) as connection:
        counts = connection.execute(
            "SELECT (SELECT count(*) FROM space_images), (SELECT count(*) FROM activations)"
        ).fetchone()
    n_images, n_activations = counts or (0, 0)
    tests = [record.self_test for record in records if record.self_test is not None]
    with Catalogue(layout.root).writing() as catalogue:
        catalogue.execute(
            "UPDATE spaces SET state = 'ready', n_images = $n_images, n_activations = $n_activations, "
            "self_test = coalesce($self_test, self_test), finalised_at = now() AT TIME ZONE 'UTC' WHERE name = $name",
            {
                "n_images": n_images,
                "n_activations": n_activations,
                "self_test": json.dumps(tests[0]) if tests else None,
                "name": name,
            },
        )
        store_failures(catalogue, f"space {name}", records)


def store_failures(catalogue: duckdb.DuckDBPyConnection, source: str, records: Sequence[ShardRecord]) -> None:
    """Replace the failures of one target by those of its last run; an image that was read since is no failure."""
    failures = [failure for record in records for failure in record.failures]
    tried = pa.table(
        {
            "image_id": pa.array([image for image, _ in failures], pa.int32()),
            "reason": pa.array([reason for _, reason in failures], pa.string()),
        }
    )
    catalogue.execute("DELETE FROM failures WHERE source = $source AND stage = 'extract'", {"source": source})
    catalogue.register("tried", tried)
    catalogue.execute(
        "INSERT INTO failures BY NAME SELECT path, 'extract' AS stage, reason, $source AS source "
        "FROM tried JOIN images USING (image_id) ORDER BY image_id",
        {"source": source},
    )
    catalogue.unregister("tried")
