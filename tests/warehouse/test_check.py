"""`check` finds every kind of damage that is done here by hand, and `--repair` mends what can be mended."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
from conftest import write_pictures

from glasshouse.schema.errors import GlasshouseError, WarehouseError
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.checking.check import check
from glasshouse.warehouse.warehouse import Warehouse

SPACE = [("cls", "blocks.0.resid_post", "cls", "neurons")]


@pytest.fixture
def full(warehouse: Warehouse) -> Warehouse:
    warehouse.extract("toy:0", SPACE, "toy")
    return warehouse


def change(warehouse: Warehouse, statement: str) -> None:
    with Catalogue(warehouse.root).writing() as connection:
        connection.execute(statement)


def damage_file_missing(warehouse: Warehouse) -> None:
    warehouse.layout.space_file("cls").unlink()


def damage_file_broken(warehouse: Warehouse) -> None:
    warehouse.layout.space_file("cls").write_bytes(b"broken" * 1000)


def damage_counts(warehouse: Warehouse) -> None:
    change(warehouse, "UPDATE spaces SET n_activations = 7")


def damage_fingerprint(warehouse: Warehouse) -> None:
    change(warehouse, "UPDATE spaces SET fingerprint = 'other'")


def damage_vectors_missing(warehouse: Warehouse) -> None:
    shutil.rmtree(warehouse.layout.vectors / "toy.lance")


def damage_vectors_broken(warehouse: Warehouse) -> None:
    shutil.rmtree(warehouse.layout.vectors / "toy.lance" / "data")


def damage_file_cut(warehouse: Warehouse) -> None:
    with warehouse.layout.space_file("cls").open("r+b") as file:
        file.truncate(file.seek(0, 2) // 3)


def damage_vector_counts(warehouse: Warehouse) -> None:
    change(warehouse, "UPDATE embeddings SET n_images = 12")


def damage_leftovers(warehouse: Warehouse) -> None:
    (warehouse.layout.spaces / "cls.duckdb.tmp-123").write_bytes(b"half")
    (warehouse.layout.shards / "space-gone").mkdir(parents=True)


def damage_attach(warehouse: Warehouse) -> None:
    warehouse.layout.attach_sql.write_text("")


REPAIRABLE: dict[Callable[[Warehouse], None], str] = {
    damage_file_missing: "is missing",
    damage_file_broken: "cannot be read",
    damage_counts: "the catalogue says 30 images and 7 activations",
    damage_fingerprint: "other weights than the catalogue says",
    damage_vectors_missing: "its vectors are missing",
    damage_vectors_broken: "its vectors are damaged",
    damage_file_cut: "cannot be read",
    damage_vector_counts: "the catalogue says 12 images, LanceDB has 30",
    damage_leftovers: "left by an interrupted finalising",
    damage_attach: "does not match the spaces",
}


def test_a_sound_warehouse_is_in_order(full: Warehouse) -> None:
    report = check(full.layout, hashes=True)
    assert (report.remaining, report.repaired) == ([], [])


@pytest.mark.parametrize("damage", REPAIRABLE, ids=lambda damage: damage.__name__)
def test_damage_is_found_and_mended(full: Warehouse, damage: Callable[[Warehouse], None]) -> None:
    full.close()
    damage(full)
    found = check(full.layout).remaining
    assert REPAIRABLE[damage] in " ".join(problem.what for problem in found)
    assert check(full.layout, repair=True).remaining == []
    assert check(full.layout).remaining == []
    if damage is not damage_fingerprint:  # that record now names weights that nobody has
        full.extract("toy:0", SPACE, "toy")
        assert full.sparse_matrix("cls").shape == (30, 24)
        assert len(full.embeddings("toy").image_ids) == 30


def test_a_damaged_block_is_found_when_everything_is_read(full: Warehouse) -> None:
    full.close()
    file = full.layout.space_file("cls")
    data = bytearray(file.read_bytes())
    values = np.sort(full.sparse_matrix("cls").data)[-1:].tobytes()
    full.close()
    place = bytes(data).find(values)
    assert place > 0, "the largest value lies in the file as it is"
    data[place] ^= 255
    file.write_bytes(bytes(data))
    assert any("checksum" in problem.what for problem in check(full.layout, hashes=True).remaining)
    assert check(full.layout, repair=True, hashes=True).remaining == []
    full.extract("toy:0", SPACE)
    assert check(full.layout, hashes=True).remaining == []


def test_damage_ends_in_errors_that_name_the_command(full: Warehouse) -> None:
    full.close()
    damage_file_cut(full)
    damage_vectors_broken(full)
    with pytest.raises(GlasshouseError, match="glasshouse check --repair"):
        full.sql("SELECT bit_xor(hash(rows)) FROM activations AS rows")
    with pytest.raises(WarehouseError, match="glasshouse check --repair"):
        full.embeddings("toy")


def test_images_that_went_or_changed_are_named(full: Warehouse, pictures: Path) -> None:
    (pictures / "00001.png").unlink()
    (pictures / "00002.png").write_bytes(b"other")
    whats = [problem.what for problem in check(full.layout, repair=True).remaining]
    assert any("1 of 30 files are missing" in what and "00001.png" in what for what in whats)
    assert any("1 files have changed" in what and "00002.png" in what for what in whats)


def test_a_change_that_keeps_the_size_is_found_by_hashes_only(full: Warehouse, pictures: Path) -> None:
    data = bytearray((pictures / "00004.png").read_bytes())
    data[-20] ^= 255
    (pictures / "00004.png").write_bytes(bytes(data))
    assert check(full.layout).remaining == []
    assert len(check(full.layout, hashes=True).remaining) == 1


def test_strangers_are_named_and_left_alone(full: Warehouse) -> None:
    stranger = full.layout.spaces / "stranger.duckdb"
    duckdb.connect(str(stranger)).close()
    report = check(full.layout, repair=True)
    assert ["belongs to no space" in problem.what for problem in report.remaining] == [True]
    assert stranger.exists()


def test_a_missing_space_file_is_an_error_that_names_the_command(full: Warehouse) -> None:
    full.close()
    damage_file_missing(full)
    with pytest.raises(WarehouseError, match="glasshouse check --repair"):
        full.sql("FROM activations")
    with pytest.raises(WarehouseError, match="glasshouse check --repair"):
        full.top_images("cls", 0)


def test_a_moved_warehouse_is_repaired_and_works(full: Warehouse, tmp_path: Path) -> None:
    full.close()
    moved = tmp_path / "elsewhere" / "moved.glasshouse"
    moved.parent.mkdir()
    shutil.move(full.root, moved)
    layout = Warehouse(moved).layout
    assert ["moved" in problem.what for problem in check(layout).remaining] == [True]
    assert check(layout, repair=True).remaining == []
    assert Warehouse(moved).sql("FROM activations").height > 0


def test_replaced_space_files_are_noticed_by_open_readers(full: Warehouse, tmp_path: Path) -> None:
    before = full.top_images("cls", 0, k=1000).height
    write_pictures(tmp_path / "more", 20, first=500)
    other = Warehouse(full.root, full.plugins)
    other.add([tmp_path / "more"])
    other.extract("toy:0", SPACE)
    assert full.top_images("cls", 0, k=1000).height > before
    assert full.sparse_matrix("cls").shape[0] == 50
