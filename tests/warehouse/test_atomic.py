"""Files that are there whole or not at all, and what is kept of the catalogue in memory."""

from __future__ import annotations

import errno
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


def test_an_error_of_the_system_names_the_file_itself(tmp_path: Path) -> None:
    """A limit on the size of files names none; a folder that is not there names the temporary."""
    with pytest.raises(OSError, match="too large") as caught, replacing(tmp_path / "f.txt"):
        raise OSError(errno.EFBIG, "File too large")
    assert caught.value.filename == str(tmp_path / "f.txt")
    with pytest.raises(FileNotFoundError) as missing, replacing(tmp_path / "gone" / "f.txt") as temporary:
        temporary.write_text("new")
    assert missing.value.filename == str(tmp_path / "gone" / "f.txt")
    with pytest.raises(FileNotFoundError) as other, replacing(tmp_path / "f.txt"):
        (tmp_path / "other").read_text()
    assert other.value.filename == str(tmp_path / "other")


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
