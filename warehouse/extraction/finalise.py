"""From shards to a finalised space: sorted into a new file, swapped in whole, then recorded.

The order makes every crash harmless. The new file is complete before it takes its name; the catalogue's record comes
after the file; the shards go last. What a crash leaves behind is done again or cleared by the next run.
"""

from __future__ import annotations

import contextlib
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
from glasshouse.warehouse.extraction.keeping import remove_unsound
from glasshouse.warehouse.extraction.recording import is_ready, record_space, store_failures
from glasshouse.warehouse.extraction.run import embedding_schema
from glasshouse.warehouse.extraction.shards import ShardFolder, ShardRecord, summary_of
from glasshouse.warehouse.extraction.summaries import SUMMARY_SCHEMA, bin_table, statistics, total
from glasshouse.warehouse.extraction.targets import EmbeddingTarget
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.quoting import identifier, literal
from glasshouse.warehouse.space_file import space_file
from glasshouse.warehouse.vectors import VectorStore

SPACE_FORMAT = 1

MEBIBYTES_PER_THREAD = 128
"""For sorting. Half of it still sorts 31 million rows, but slower; a quarter is too little for DuckDB."""


class SpaceShape(NamedTuple):
    """What finalising must know of a space.

    Attributes:
        name: its name.
        fingerprint: of encoder, hook, tokens and SAE.
        n_features: F.
        has_tokens: whether it is a patch space.
        keep: how many of its strongest images are kept of each feature; None where all are.
    """

    name: str
    fingerprint: str
    n_features: int
    has_tokens: bool = False
    keep: int | None = None


class _ShardRows(NamedTuple):
    """Which rows of the shards go into the file: those of the new images, which may be all that the shards hold."""

    files: Sequence[Path]
    new_images: Sequence[int]
    are_all_new: bool


def finalise_space(
    layout: Layout,
    name: str,
    fingerprint: str,
    n_features: int,
    shards: ShardFolder,
    *,
    has_tokens: bool,
    keep: int | None = None,
    is_last: bool = True,
    spent: Sequence[ShardRecord] = (),
) -> int:
    """Build the space's file from its shards and the file there is, swap it in, record it, clear the shards.

    Args:
        layout: of the warehouse.
        name: of the space.
        fingerprint: of the space.
        n_features: F.
        shards: of the space.
        has_tokens: whether it is a patch space.
        keep: how many of its strongest images are kept of each feature; None where all are.
        is_last: whether the space is ready then; not so while an extraction goes on.
        spent: records of shards that this extraction has finalised before.

    Returns:
        The number of images whose rows are new.

    Raises:
        WarehouseError: the disk is full or not writable; the shards stay, so running again goes on from here.
    """
    shape = SpaceShape(name, fingerprint, n_features, has_tokens, keep)
    final = layout.space_file(name)
    known = images_of(final)
    if keep is not None:
        remove_unsound(shards, keep, known)
    entries = shards.entries()
    records = [record for _, record in entries]
    if not records and final.exists() and is_ready(layout, "spaces", name):
        return 0
    rows = _rows_of(entries, known, whole_shards=keep is not None)
    if rows.new_images or not final.exists():
        temporary = final.with_name(f"{final.name}.tmp-{os.getpid()}")
        layout.spaces.mkdir(exist_ok=True)
        sweep_temporary(layout, name)
        try:
            _build(temporary, final, shape, rows)
        except (duckdb.Error, OSError) as error:
            _remove(temporary)
            raise WarehouseError(
                f"Could not write {final}: {first_line(error)} The extracted shards are kept; free some space or "
                "check permissions, then run the same command again."
            ) from error
        temporary.replace(final)
    record_space(layout, name, [*spent, *records], is_last=is_last)
    shards.clear()
    return len(rows.new_images)


def _rows_of(entries: Sequence[tuple[Path, ShardRecord]], known: set[int], *, whole_shards: bool) -> _ShardRows:
    """Choose what is new. A shard with a summary is new as a whole or not at all; a crash may have left such."""
    if whole_shards:
        entries = [(file, record) for file, record in entries if not known.issuperset(record.images)]
    covered = [image for _, record in entries for image in record.images]
    new = [image for image in covered if image not in known]
    return _ShardRows([file for file, _ in entries], new, are_all_new=len(new) == len(covered))


def images_of(file: Path) -> set[int]:
    """Ids of the images that a finalised file covers; empty when there is none.

    Raises:
        WarehouseError: it is damaged.
    """
    if not file.exists():
        return set()
    try:
        with space_file(file) as connection:
            return {int(row[0]) for row in connection.execute("SELECT image_id FROM space_images").fetchall()}
    except duckdb.Error as error:
        raise WarehouseError(
            f"{file} cannot be read: {first_line(error)} Run `glasshouse check --repair`, then this again."
        ) from error


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


def _build(temporary: Path, final: Path, shape: SpaceShape, rows: _ShardRows) -> None:
    """Write the new file."""
    with contextlib.closing(duckdb.connect(str(temporary))) as connection:
        limit_memory(connection)
        connection.execute(read_sql("space.sql"))
        _attach_old(connection, final)
        _name_shard_rows(connection, rows)
        connection.execute(
            "INSERT INTO space VALUES ($name, $fingerprint, $format, $n_features, $keep)",
            {
                "name": shape.name,
                "fingerprint": shape.fingerprint,
                "format": SPACE_FORMAT,
                "n_features": shape.n_features,
                "keep": shape.keep,
            },
        )
        connection.execute(
            "INSERT INTO space_images SELECT image_id FROM "
            '(SELECT image_id FROM "the old".space_images UNION ALL SELECT image_id FROM new_images) ORDER BY image_id'
        )
        counted = connection.execute("SELECT count(*) FROM space_images").fetchone()
        n_images = int(counted[0]) if counted else 0
        if shape.keep is None:
            _fill(connection, shape, n_images)
        else:
            _fill_strongest(connection, shape, rows, n_images)
        connection.execute("CHECKPOINT")


def _attach_old(connection: duckdb.DuckDBPyConnection, final: Path) -> None:
    """Give the file that is being replaced the name `the old`; an empty one where there is none."""
    if final.exists():
        connection.execute(f'ATTACH {literal(final)} AS "the old" (READ_ONLY)')
        return
    own_name = _own_name(connection)
    # A blank in it: no space can have this name, which would be the new file's own.
    connection.execute("ATTACH ':memory:' AS \"the old\"")
    connection.execute('USE "the old"')
    connection.execute(read_sql("space.sql"))
    connection.execute(f"USE {own_name}")


def _fill(connection: duckdb.DuckDBPyConnection, shape: SpaceShape, n_images: int) -> None:
    """Fill the tables of a space that keeps every activation."""
    connection.execute(read_sql("queries/finalise_top_features.sql"))
    connection.execute(read_sql("queries/finalise_activations.sql"))
    if shape.has_tokens:
        connection.execute(read_sql("queries/finalise_token_activations.sql"))
    connection.execute(
        read_sql("queries/finalise_feature_stats.sql"),
        {"n_images": n_images, "n_features": shape.n_features, "has_tokens": shape.has_tokens},
    )


def _fill_strongest(connection: duckdb.DuckDBPyConnection, shape: SpaceShape, rows: _ShardRows, n_images: int) -> None:
    """Fill the tables of a space that keeps the strongest images of each feature, from rows and summaries."""
    connection.execute(read_sql("queries/finalise_kept_activations.sql"), {"keep": shape.keep})
    if shape.has_tokens:
        connection.execute(read_sql("queries/finalise_kept_token_activations.sql"))
    files = [summary_of(file) for file in rows.files]
    sums = total(connection.table('"the old".feature_stats'), files, shape.n_features)
    connection.register("new_statistics", statistics(sums, n_images, has_tokens=shape.has_tokens))
    connection.execute("INSERT INTO feature_stats BY NAME FROM new_statistics")
    listing = ", ".join(literal(file) for file in files)
    if files:
        connection.execute(f"CREATE TEMP VIEW summaries AS FROM read_parquet([{listing}])")
    else:
        connection.register("summaries", SUMMARY_SCHEMA.empty_table())
    connection.register("bins", bin_table())
    connection.execute(read_sql("queries/finalise_histograms.sql"), {"n_images": n_images})


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
