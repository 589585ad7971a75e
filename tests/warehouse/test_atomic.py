"""Files that are there whole or not at all, and what is kept of the catalogue in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from glasshouse.warehouse.atomic import replacing
from glasshouse.warehouse.warehouse import Warehouse


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    file = tmp_path / "f.txt"
    file.write_text("old")
    with replacing(file) as temporary:
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "f.txt"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(file) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_remembered_of_the_catalogue_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    catalogue = Warehouse.create(tmp_path / "w.glasshouse").catalogue
    calls: list[int] = []

    def read() -> int:
        calls.append(1)
        with catalogue.reading() as connection:
            return len(connection.execute("FROM captions").fetchall())

    assert [catalogue.remembered("n", read) for _ in range(3)] == [0, 0, 0]
    assert len(calls) == 1
    with catalogue.writing() as connection:
        connection.execute("CREATE TABLE other AS SELECT 1")
    catalogue.remembered("n", read)
    assert len(calls) == 2
