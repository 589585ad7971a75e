"""Locks, versions and transactions of the catalogue, with real second processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

from glasshouse.schema.errors import LockedError, UsageError, WarehouseError
from glasshouse.warehouse.catalogue import CATALOGUE_FILE, Catalogue, migrate, migrations
from glasshouse.warehouse.layout import find_warehouse
from glasshouse.warehouse.warehouse import NEW_PREFIX, Warehouse

HOLD = """
import duckdb, sys, time
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""


def hold(path: Path, mode: str, seconds: float) -> subprocess.Popen[str]:
    """Hold the catalogue in another process; returns once it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), mode, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline().strip() == "held"
    process.stdout.close()
    return process


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Warehouse.create(tmp_path / "w.glasshouse").root


def test_a_reader_waits_for_a_short_writer(root: Path) -> None:
    process = hold(root / CATALOGUE_FILE, "write", 1)
    started = time.monotonic()
    assert Warehouse(root).sql("SELECT 42 AS x")["x"].to_list() == [42]
    assert time.monotonic() - started > 0.3
    process.wait()


def test_a_lock_that_stays_is_reported_with_its_holder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLASSHOUSE_LOCK_TIMEOUT", "0.5")
    process = hold(root / CATALOGUE_FILE, "read", 30)
    try:
        expected = rf"held by process {process.pid} \(.*GLASSHOUSE_LOCK_TIMEOUT"
        with pytest.raises(LockedError, match=expected), Catalogue(root).writing():
            raise AssertionError("the lock was given")
        assert Warehouse(root).sql("SELECT 1 AS x").height == 1  # readers do not shut out readers
    finally:
        process.kill()
        process.wait()


def test_readers_in_threads_while_another_thread_writes(root: Path) -> None:
    import threading

    stop, seen = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            seen.append(Warehouse(root).sql("SELECT count(*) AS n FROM captions")["n"][0])

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(20):
        with Catalogue(root).writing() as connection:
            connection.execute("INSERT INTO captions VALUES ($i, 'x', 's')", {"i": i})
    stop.set()
    for thread in threads:
        thread.join()
    assert Warehouse(root).sql("SELECT count(*) AS n FROM captions")["n"][0] == 20
    assert seen and sorted(set(seen)) == sorted(set(seen) & set(range(21)))


def test_an_error_inside_a_transaction_leaves_nothing(root: Path) -> None:
    with pytest.raises(ZeroDivisionError), Catalogue(root).writing() as connection:
        connection.execute("INSERT INTO captions VALUES (1, 'x', 's')")
        raise ZeroDivisionError
    assert Warehouse(root).sql("FROM captions").height == 0


def test_a_newer_schema_is_refused(root: Path) -> None:
    with duckdb.connect(str(root / CATALOGUE_FILE)) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (999, 'from_the_future', now()::TIMESTAMP)")
    with pytest.raises(WarehouseError, match=r"version 999.*pip install --upgrade glasshouse"):
        Warehouse(root)


def test_migrating_twice_does_nothing(root: Path) -> None:
    assert migrate(root / CATALOGUE_FILE) == []


def test_an_interrupted_creation_is_completed(tmp_path: Path) -> None:
    root = tmp_path / "w.glasshouse"
    root.mkdir()
    (root / f"{NEW_PREFIX}123").touch()  # killed while the catalogue was under its temporary name
    assert Warehouse.create(root).images().height == 0
    assert sorted(path.name for path in root.iterdir()) == ["attach.sql", CATALOGUE_FILE]


def test_an_older_catalogue_is_migrated_when_opened(tmp_path: Path) -> None:
    root = tmp_path / "w.glasshouse"
    root.mkdir()
    duckdb.connect(str(root / CATALOGUE_FILE)).close()  # version 0
    assert Warehouse(root).images().height == 0


def test_migration_numbers_are_unique_and_rising() -> None:
    numbers = [number for number, _, _ in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("content", [b"", b"hello " * 1000])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    root = tmp_path / "w.glasshouse"
    root.mkdir()
    (root / CATALOGUE_FILE).write_bytes(content)
    with pytest.raises(WarehouseError, match="not a DuckDB file"):
        Warehouse(root)


def test_which_warehouse_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="glasshouse init DIR"):
        find_warehouse(None, tmp_path)
    a = Warehouse.create(tmp_path / "a.glasshouse").root
    assert find_warehouse(None, tmp_path) == a
    b = Warehouse.create(tmp_path / "b.glasshouse").root
    with pytest.raises(UsageError, match=r"Several.*a.glasshouse, b.glasshouse.*-w DIR"):
        find_warehouse(None, tmp_path)
    monkeypatch.setenv("GLASSHOUSE", str(b))
    assert find_warehouse(None, tmp_path) == b
    assert find_warehouse(str(a), tmp_path) == a
    monkeypatch.setenv("GLASSHOUSE", str(tmp_path / "none"))
    with pytest.raises(WarehouseError, match=r"from \$GLASSHOUSE.*does not exist"):
        find_warehouse(None, tmp_path)


def test_creating_over_something(tmp_path: Path, root: Path) -> None:
    with pytest.raises(WarehouseError, match="is a warehouse already"):
        Warehouse.create(root)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(WarehouseError, match="no empty folder"):
        Warehouse.create(tmp_path / "full")
    with pytest.raises(WarehouseError, match="Cannot create"):
        Warehouse.create(tmp_path / "full" / "file" / "below")


def test_a_name_that_duckdb_cannot_open(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="cannot open files below a folder with"):
        Warehouse.create(tmp_path / "why?" / "w.glasshouse")
    awkward = Warehouse.create(tmp_path / "o'brien [1] ü#%20" / "w.glasshouse")
    assert awkward.sql("SELECT 1 AS x").height == 1


def test_sql_only_reads(root: Path) -> None:
    warehouse = Warehouse(root)
    statements: list[Any] = ["INSERT INTO captions VALUES (1, 'a', 'b')", "DROP TABLE images", "CREATE TABLE t (i INT)",
                             "UPDATE images SET path = ''", "DELETE FROM images"]  # fmt: skip
    for statement in statements:
        with pytest.raises(UsageError, match="read-only"):
            warehouse.sql(statement)
    with pytest.raises(UsageError, match='Did you mean "images"'):
        warehouse.sql("FROM imagess")
    assert warehouse.sql("SELECT $x + 1 AS y", {"x": 2})["y"].to_list() == [3]


def test_attach_sql_gives_the_same_rows_to_any_client(warehouse: Warehouse) -> None:
    warehouse.extract("toy:0", [("cls", "blocks.0.resid_post", "cls", "neurons")])
    client = duckdb.connect()
    client.execute(warehouse.layout.attach_sql.read_text())
    for view in ("images", "activations", "features", "image_top_features", "token_activations", "spaces"):
        expected = warehouse.sql(f"SELECT count(*) AS n FROM {view}")["n"][0]
        assert client.execute(f"SELECT count(*) FROM {view}").fetchall() == [(expected,)], view
    client.close()
