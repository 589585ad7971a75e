from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from glasshouse.plugins.sources.webdataset import WebdatasetSource
from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.intake.pictures import read_slice
from glasshouse.warehouse.intake.records import (
    CaptionRecord,
    CopiedFile,
    ImageRecord,
    LabelRecord,
    ReadOptions,
    Record,
    RejectedRecord,
    SkippedRecord,
    TarMember,
)

ADDED = frozenset({"images", "captions", "labels", "annotations"})


def write_tar(path: Path, members: dict[str, bytes], **options: int) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w", **options) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def read(path: Path, options: ReadOptions, want: frozenset[str] = ADDED) -> list[Record]:
    return list(WebdatasetSource().read(path.as_posix(), want, options))


@pytest.fixture
def members(png: Callable[..., bytes]) -> dict[str, bytes]:
    return {
        "00/a.png": png(1),
        "00/a.txt": b" a cat \n",
        "00/a.cls": b"7",
        "b.json": json.dumps({"style": "x", "tags": ["p", "q"], "ok": True, "n": 3, "deep": {"z": 1}}).encode(),
        "b.jpg": png(2),
        "c.png": png(3),
        "c.json": b'{"caption": "from json", "split": "test"}',
        "readme.md": b"hello",
        "alone.txt": b"no picture",
    }


def test_members_that_share_a_stem(tmp_path: Path, members: dict[str, bytes], options: ReadOptions) -> None:
    tar = write_tar(tmp_path / "t.tar", members)
    found = read(tar, options)
    pictures = [record for record in found if isinstance(record, ImageRecord)]
    prefix = tar.as_posix()
    assert [record.path for record in pictures] == [f"{prefix}/00/a.png", f"{prefix}/b.jpg", f"{prefix}/c.png"]
    for record in pictures:
        assert isinstance(record.location, TarMember)
        data = read_slice(Path(record.location.tar), record.location.byte_offset, record.location.byte_count)
        assert data == members[record.path.removeprefix(f"{prefix}/")]
    assert [record for record in found if not isinstance(record, ImageRecord)] == [
        SkippedRecord(f"{prefix}/readme.md"),
        CaptionRecord(f"{prefix}/00/a.png", "a cat", 1),
        LabelRecord(f"{prefix}/00/a.png", "class", "7", 1),
        LabelRecord(f"{prefix}/b.jpg", "style", "x", 2),
        LabelRecord(f"{prefix}/b.jpg", "tags", "p", 2),
        LabelRecord(f"{prefix}/b.jpg", "tags", "q", 2),
        LabelRecord(f"{prefix}/b.jpg", "ok", "true", 2),
        LabelRecord(f"{prefix}/b.jpg", "n", "3", 2),
        CaptionRecord(f"{prefix}/c.png", "from json", 3),
        LabelRecord(f"{prefix}/c.png", "split", "test", 3),
    ]


@pytest.mark.parametrize("name", ["t.tar.gz", "t.tgz"])
def test_pictures_of_a_compressed_tar_are_copied(
    tmp_path: Path, members: dict[str, bytes], options: ReadOptions, name: str
) -> None:
    plain, packed = write_tar(tmp_path / "t.tar", members), write_tar(tmp_path / name, members)
    pictures = [record for record in read(packed, options) if isinstance(record, ImageRecord)]
    for record in pictures:
        assert isinstance(record.location, CopiedFile)
        data = members[record.path.removeprefix(f"{packed.as_posix()}/")]
        copy = Path(record.location.path)
        assert copy.read_bytes() == data and copy == options.cache / hashlib.sha256(data).hexdigest()
    assert len(list(options.cache.iterdir())) == len(pictures) == 3

    def rows(path: Path) -> list[str]:
        found = [record for record in read(path, options) if isinstance(record, CaptionRecord | LabelRecord)]
        return [str(record).replace(path.as_posix(), "") for record in found]

    assert rows(packed) == rows(plain)


def test_rows_alone_copy_nothing(tmp_path: Path, members: dict[str, bytes], options: ReadOptions) -> None:
    tar = write_tar(tmp_path / "t.tgz", members)
    found = read(tar, options, frozenset({"captions"}))
    assert [type(record) for record in found] == [CaptionRecord, CaptionRecord]
    assert not options.cache.exists()


def test_links_and_hidden_members_are_skipped(tmp_path: Path, png: Callable[..., bytes], options: ReadOptions) -> None:
    tar = write_tar(tmp_path / "t.tar", {"a.png": png(1), "._a.png": b"mac"})
    with tarfile.open(tar, "a") as archive:
        link = tarfile.TarInfo("l.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        archive.addfile(link)
    kinds = [type(record) for record in read(tar, options)]
    assert kinds == [ImageRecord, SkippedRecord, SkippedRecord]


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz"])
def test_what_comes_before_a_damaged_end_is_used(
    tmp_path: Path, png: Callable[..., bytes], options: ReadOptions, name: str
) -> None:
    tar = write_tar(tmp_path / name, {f"{number}.png": png(number) for number in range(40)})
    data = tar.read_bytes()
    tar.write_bytes(data[: len(data) // 2])
    found = read(tar, options)
    pictures = [record for record in found if isinstance(record, ImageRecord)]
    failures = [record for record in found if isinstance(record, RejectedRecord)]
    assert 5 < len(pictures) < 40 and failures
    assert all("truncated" in record.reason or "damaged after" in record.reason for record in failures)


def test_a_tar_that_ends_between_members_or_goes_on_behind_its_end(
    tmp_path: Path, png: Callable[..., bytes], options: ReadOptions
) -> None:
    """Python's tarfile takes both for whole."""
    tar = write_tar(tmp_path / "t.tar", {"a.png": png(1), "b.png": png(2)})
    data = tar.read_bytes()
    assert [type(record) for record in read(tar, options)] == [ImageRecord, ImageRecord]
    for damaged, n_pictures, reason in (
        (data[:1024], 1, "without its end mark"),
        (data * 2, 2, "follows the tar's end"),
    ):
        tar.write_bytes(damaged)
        *pictures, failure = read(tar, options)
        assert len(pictures) == n_pictures
        assert isinstance(failure, RejectedRecord) and reason in failure.reason and failure.key == tar.as_posix()


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz"])
@pytest.mark.parametrize("data", [b"", b"no tar", b"x" * 2000])
def test_what_is_no_tar_is_one_clear_line(tmp_path: Path, options: ReadOptions, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match="is not a tar that can be read") as caught:
        read(tmp_path / name, options)
    assert "\n" not in str(caught.value)


def test_json_that_is_none_is_rejected(tmp_path: Path, png: Callable[..., bytes], options: ReadOptions) -> None:
    tar = write_tar(tmp_path / "t.tar", {"a.png": png(1), "a.json": b"{", "b.png": png(2), "b.json": b"[1]"})
    reasons = [record.reason for record in read(tar, options) if isinstance(record, RejectedRecord)]
    assert reasons == ["its .json member is no JSON", "its .json member is no object with named entries"]


def test_no_ratings_and_no_urls(tmp_path: Path, options: ReadOptions) -> None:
    with pytest.raises(SourceError, match="a webdataset has no ratings"):
        list(WebdatasetSource().read("/x/t.tar", frozenset({"ratings"}), options))
    with pytest.raises(SourceError, match="download it first"):
        list(WebdatasetSource().read("https://x.org/t.tar", ADDED, options))
