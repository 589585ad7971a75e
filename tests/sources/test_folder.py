from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from glasshouse.plugins.sources.folder import FolderSource
from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.intake.records import (
    ImageRecord,
    PlainFile,
    ReadOptions,
    RejectedRecord,
    SkippedRecord,
    Url,
)

IMAGES = frozenset({"images", "captions", "labels", "annotations"})


def names(folder: Path, options: ReadOptions, kind: type = ImageRecord) -> list[str]:
    records = FolderSource().read(folder.as_posix(), IMAGES, options)
    return [record.path.removeprefix(f"{folder.as_posix()}/") for record in records if isinstance(record, kind)]


def write(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")


def test_everything_below_in_one_order(tmp_path: Path, options: ReadOptions) -> None:
    expected = ["A.png", "a.png", "b/1.png", "b/10.png", "b/2.png", "b/c/x.png", "b.png", "z", "é.png"]
    shuffled = expected.copy()
    random.Random(1).shuffle(shuffled)
    write(tmp_path / "p", *shuffled)
    assert names(tmp_path / "p", options) == expected
    assert next(iter(FolderSource().read((tmp_path / "p").as_posix(), IMAGES, options))) == ImageRecord(
        f"{tmp_path.as_posix()}/p/A.png", PlainFile(f"{tmp_path.as_posix()}/p/A.png")
    )


def test_hidden_files_and_what_is_no_picture_are_skipped_and_counted(tmp_path: Path, options: ReadOptions) -> None:
    skipped = [".DS_Store", ".git/config", "notes.MD", "ratings.csv", "t.tar.gz", "labels.json", "a.txt "]
    write(tmp_path / "p", "a.png", "b.weird", "c", *skipped)
    os.mkfifo(tmp_path / "p" / "pipe.png")
    assert names(tmp_path / "p", options) == ["a.png", "b.weird", "c"]
    assert sorted(names(tmp_path / "p", options, SkippedRecord)) == sorted(
        [".DS_Store", ".git", "a.txt ", "labels.json", "notes.MD", "pipe.png", "ratings.csv", "t.tar.gz"]
    )


def test_links_are_followed_but_not_in_circles(tmp_path: Path, options: ReadOptions) -> None:
    write(tmp_path, "p/a.png", "elsewhere/b.png")
    (tmp_path / "p" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "p" / "up").symlink_to(tmp_path / "p")
    (tmp_path / "p" / "broken.png").symlink_to("absent")
    assert names(tmp_path / "p", options) == ["a.png", "broken.png", "linked/b.png"]
    assert names(tmp_path / "p", options, SkippedRecord) == ["up"]


def test_a_folder_that_cannot_be_listed_is_a_failure(tmp_path: Path, options: ReadOptions) -> None:
    records = list(FolderSource().read("/proc/1/nothing-here", IMAGES, options))
    assert records == [ImageRecord("/proc/1/nothing-here", PlainFile("/proc/1/nothing-here"))]
    write(tmp_path, "p/a.png", "p/sub/b.png")
    (tmp_path / "p" / "sub").chmod(0)
    found = list(FolderSource().read((tmp_path / "p").as_posix(), IMAGES, options))
    (tmp_path / "p" / "sub").chmod(0o755)
    if os.geteuid() != 0:
        assert any(isinstance(record, RejectedRecord) and "cannot be listed" in record.reason for record in found)
    else:
        assert len(found) == 2


def test_a_picture_and_a_url(tmp_path: Path, options: ReadOptions) -> None:
    source = FolderSource()
    assert list(source.read("/x/a.weird", IMAGES, options)) == [ImageRecord("/x/a.weird", PlainFile("/x/a.weird"))]
    url = "https://example.org/a.jpg?x=1"
    assert list(source.read(url, IMAGES, options)) == [ImageRecord(url, Url(url))]


@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.txt", "a.parquet", "a.json", "a.tar", "a.tar.gz", "a.tgz"])
def test_files_of_other_sources_are_left_to_them(tmp_path: Path, name: str) -> None:
    assert not FolderSource().claims(f"/x/{name}")
    (tmp_path / name).mkdir()
    assert FolderSource().claims((tmp_path / name).as_posix())


def test_a_folder_has_no_ratings(tmp_path: Path, options: ReadOptions) -> None:
    with pytest.raises(SourceError, match="holds no ratings: give a table"):
        list(FolderSource().read(tmp_path.as_posix(), frozenset({"ratings"}), options))
