"""One batch of pictures as rows of `images` and `image_paths`, in one transaction.

image_id is handed out inside the transaction, dense and in the order of the batch, so that two processes that add at
the same time cannot give the same number twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from glasshouse.warehouse.catalogue import Catalogue

if TYPE_CHECKING:
    import duckdb


class Facts(NamedTuple):
    """What decoding found out about a picture; see the columns of `images`."""

    width: int
    height: int
    format: str
    mode: str
    brightness: float
    saturation: float
    edge_energy: float


class Arrival(NamedTuple):
    """A picture that was read and decoded, under one path. Paths as stored."""

    path: str
    sha256: str
    file_bytes: int
    container: str | None
    byte_offset: int | None
    byte_count: int | None
    cached: str | None
    source: str

    @property
    def place(self) -> tuple[str | None, int | None, int | None, str | None]:
        """Where the bytes lie when not at `path`."""
        return self.container, self.byte_offset, self.byte_count, self.cached


@dataclass
class Written:
    """What a batch was: see `AddReport` for the counts."""

    n_new: int = 0
    n_duplicates: int = 0
    n_known: int = 0
    changed_paths: list[str] = field(default_factory=list)


class _KnownPath(NamedTuple):
    image_id: int
    place: tuple[Any, ...]


@dataclass
class _Plan:
    """The rows to insert and update, each with its image_id, and the counts."""

    new_images: list[tuple[int, Arrival]] = field(default_factory=list)
    new_paths: list[tuple[int, Arrival]] = field(default_factory=list)
    moved_paths: list[tuple[int, Arrival]] = field(default_factory=list)
    written: Written = field(default_factory=Written)


def write_images(catalogue: Catalogue, batch: Sequence[Arrival], facts: Mapping[str, Facts]) -> Written:
    """Write a batch of different paths. Its new pictures' `facts` are looked up by hash.

    Raises:
        WarehouseError: the catalogue cannot be written; nothing of the batch was stored.
    """
    import pyarrow as pa

    with catalogue.writing() as connection:
        connection.register(
            "arrivals",
            pa.table({"path": [row.path for row in batch], "sha256": [row.sha256 for row in batch]}),
        )
        plan = _plan(batch, _ids_by_hash(connection), _known_paths(connection), _next_id(connection))
        _insert_images(connection, plan.new_images, facts)
        _insert_paths(connection, plan.new_paths)
        _move_paths(connection, plan.moved_paths)
    return plan.written


def _plan(
    batch: Sequence[Arrival], id_of: dict[str, int], known_paths: Mapping[str, _KnownPath], next_id: int
) -> _Plan:
    """Say what is to be written, given what the catalogue has of these hashes and paths."""
    plan = _Plan()
    for row in batch:
        is_new = row.sha256 not in id_of
        if is_new:
            id_of[row.sha256] = next_id
            plan.new_images.append((next_id, row))
            next_id += 1
        image_id, before = id_of[row.sha256], known_paths.get(row.path)
        plan.written.n_new += is_new
        if before is None:
            plan.new_paths.append((image_id, row))
            plan.written.n_duplicates += not is_new
            continue
        if before != _KnownPath(image_id, row.place):
            plan.moved_paths.append((image_id, row))
        if before.image_id == image_id:
            plan.written.n_known += 1
        else:
            plan.written.changed_paths.append(row.path)
    return plan


def _ids_by_hash(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    rows = connection.execute("SELECT sha256, image_id FROM images SEMI JOIN arrivals USING (sha256)").fetchall()
    return dict(rows)


def _known_paths(connection: duckdb.DuckDBPyConnection) -> dict[str, _KnownPath]:
    rows = connection.execute(
        "SELECT path, image_id, container, byte_offset, byte_count, cached "
        "FROM image_paths SEMI JOIN arrivals USING (path)"
    ).fetchall()
    return {path: _KnownPath(image_id, tuple(place)) for path, image_id, *place in rows}


def _next_id(connection: duckdb.DuckDBPyConnection) -> int:
    rows = connection.execute("SELECT coalesce(max(image_id), -1) + 1 FROM images").fetchall()
    return int(rows[0][0])


def _insert_images(
    connection: duckdb.DuckDBPyConnection, rows: Sequence[tuple[int, Arrival]], facts: Mapping[str, Facts]
) -> None:
    import pyarrow as pa

    if not rows:
        return
    found = [facts[row.sha256] for _, row in rows]
    columns = {
        "image_id": pa.array([image_id for image_id, _ in rows], pa.int32()),
        "sha256": [row.sha256 for _, row in rows],
        "path": [row.path for _, row in rows],
        "byte_count": [row.file_bytes for _, row in rows],
    }
    columns |= {name: [getattr(fact, name) for fact in found] for name in Facts._fields}
    connection.register("new_images", pa.table(columns))
    connection.execute("INSERT INTO images BY NAME SELECT * FROM new_images")


def _paths_table(rows: Sequence[tuple[int, Arrival]]) -> Any:
    import pyarrow as pa

    return pa.table(
        {
            "path": pa.array([row.path for _, row in rows], pa.string()),
            "image_id": pa.array([image_id for image_id, _ in rows], pa.int32()),
            "container": pa.array([row.container for _, row in rows], pa.string()),
            "byte_offset": pa.array([row.byte_offset for _, row in rows], pa.int64()),
            "byte_count": pa.array([row.byte_count for _, row in rows], pa.int64()),
            "cached": pa.array([row.cached for _, row in rows], pa.string()),
            "source": pa.array([row.source for _, row in rows], pa.string()),
        }
    )


def _insert_paths(connection: duckdb.DuckDBPyConnection, rows: Sequence[tuple[int, Arrival]]) -> None:
    if rows:
        connection.register("new_paths", _paths_table(rows))
        connection.execute("INSERT INTO image_paths BY NAME SELECT * FROM new_paths")


def _move_paths(connection: duckdb.DuckDBPyConnection, rows: Sequence[tuple[int, Arrival]]) -> None:
    """Point known paths to what they hold now; the source that brought them first stays."""
    if rows:
        connection.register("moved_paths", _paths_table(rows))
        connection.execute(
            "UPDATE image_paths SET image_id = moved.image_id, container = moved.container, "
            "byte_offset = moved.byte_offset, byte_count = moved.byte_count, cached = moved.cached "
            "FROM moved_paths AS moved WHERE image_paths.path = moved.path"
        )
