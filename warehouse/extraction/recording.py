"""The catalogue's record of what was finalised: written after the file is there, before the shards go."""

from __future__ import annotations

import json
from collections.abc import Sequence

import duckdb
import pyarrow as pa

from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.extraction.shards import ShardRecord
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.quoting import identifier
from glasshouse.warehouse.space_file import space_file


def is_ready(layout: Layout, table: str, name: str) -> bool:
    """Say whether the catalogue records the space or embedding as finalised; `table` is one of those two tables."""
    with Catalogue(layout.root).reading() as catalogue:
        row = catalogue.execute(f"SELECT state FROM {identifier(table)} WHERE name = $name", {"name": name}).fetchone()
    return row is not None and row[0] == "ready"


def record_space(layout: Layout, name: str, records: Sequence[ShardRecord], *, is_last: bool = True) -> None:
    """Bring the catalogue's record of a space in line with its file, and store the shards' failures.

    A second call changes nothing. The space is ready then, unless this is not the last step of its extraction.
    """
    with space_file(layout.space_file(name)) as connection:
        counts = connection.execute(
            "SELECT (SELECT count(*) FROM space_images), (SELECT count(*) FROM activations)"
        ).fetchone()
    n_images, n_activations = counts or (0, 0)
    tests = [record.self_test for record in records if record.self_test is not None]
    with Catalogue(layout.root).writing() as catalogue:
        catalogue.execute(
            "UPDATE spaces SET state = CASE WHEN $is_last THEN 'ready' ELSE state END, n_images = $n_images, "
            "n_activations = $n_activations, self_test = coalesce($self_test, self_test), "
            "finalised_at = now() AT TIME ZONE 'UTC' WHERE name = $name",
            {
                "is_last": is_last,
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
