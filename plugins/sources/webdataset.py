"""Webdataset tars: members that share a stem belong together.

A picture's captions are `<stem>.txt` and `<stem>.caption`, its labels `<stem>.cls` (one class) and `<stem>.json` (an
object; its plain entries become attributes). The pictures of an uncompressed tar stay inside, only their offsets are
kept; those of a compressed one are copied to the warehouse's cache, named by their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from glasshouse.plugins import hookimpl
from glasshouse.plugins.hookspecs import Register
from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.intake.download import write_whole
from glasshouse.warehouse.intake.paths import is_url, looks_like_image
from glasshouse.warehouse.intake.records import (
    CaptionRecord,
    CopiedFile,
    ImageRecord,
    LabelRecord,
    Location,
    ReadOptions,
    Record,
    RejectedRecord,
    SkippedRecord,
    Source,
    TarMember,
)
from glasshouse.warehouse.intake.tables import decode_text

COMPRESSED = (".tar.gz", ".tgz")
_BLOCK = 512
_TEXTS = (".txt", ".caption")
_SIDECARS = (*_TEXTS, ".cls", ".json")


@dataclass
class _Sample:
    """What shares a stem: the pictures' paths in the warehouse, and the texts beside them by ending."""

    pictures: list[str] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    position: int = 0


class WebdatasetSource:
    """A tar of samples."""

    summary = ".tar, .tar.gz and .tgz of samples, as webdataset writes them"

    def claims(self, path: str) -> bool:
        """Claim .tar, .tar.gz and .tgz."""
        return path.lower().endswith((".tar", *COMPRESSED)) and not Path(path).is_dir()

    def read(self, path: str, want: frozenset[str], options: ReadOptions) -> Iterator[Record]:
        """Yield pictures in the order of the tar, then captions and labels sample by sample."""
        if is_url(path):
            raise SourceError(f"{path}: tars are read from disk only; download it first.")
        unknown = want - {"images", "captions", "labels"}
        if unknown and "images" not in want:
            raise SourceError(f"{path}: a webdataset has no {min(unknown)}.")
        samples: dict[str, _Sample] = {}
        for record in _members(path, samples, options, keep_pictures="images" in want):
            if "images" in want:
                yield record
        for sample in samples.values():
            for record in _rows(sample):
                if ("captions" if isinstance(record, CaptionRecord) else _kind(record)) in want:
                    yield record


def _kind(record: Record) -> str:
    return record.kind if isinstance(record, RejectedRecord) else "labels"


def _members(path: str, samples: dict[str, _Sample], options: ReadOptions, *, keep_pictures: bool) -> Iterator[Record]:
    """Walk the tar once; a damaged end is a failure, what came before it is used."""
    is_compressed = path.lower().endswith(COMPRESSED)
    n_bytes = Path(path).stat().st_size
    n_members = 0
    try:
        with tarfile.open(path, "r|gz" if is_compressed else "r:") as tar:
            while (member := tar.next()) is not None:
                n_members += 1
                if not is_compressed and member.isreg() and member.offset_data + member.size > n_bytes:
                    yield RejectedRecord("images", f"{path}/{member.name}", "truncated: the tar ends within it")
                    continue
                yield from _member(path, tar, member, samples, options, keep_pictures and is_compressed)
                tar.members.clear()  # type: ignore[attr-defined]
            if not is_compressed and (reason := _end(path, tar.offset)):
                yield RejectedRecord("images", path, reason)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if n_members == 0:
            raise SourceError(f"{path} is not a tar that can be read: {error}.") from error
        yield RejectedRecord("images", path, f"the tar is damaged after {n_members} members: {error}")


def _end(path: str, offset: int) -> str:
    """Say what is wrong behind the last member at `offset`: there must be a block of zeros, and nothing else."""
    with Path(path).open("rb") as file:
        file.seek(offset)
        mark = file.read(_BLOCK)
        if len(mark) < _BLOCK or any(mark):
            return "truncated: the tar ends without its end mark, members may be missing"
        while chunk := file.read(1 << 20):
            if any(chunk):
                return "more data follows the tar's end and was not read; is it several tars in one file?"
    return ""


def _member(
    path: str,
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    samples: dict[str, _Sample],
    options: ReadOptions,
    copy: bool,
) -> Iterator[Record]:
    name = PurePosixPath(member.name)
    if member.isdir():
        return
    if not member.isreg() or member.issparse() or name.name.startswith("."):
        yield SkippedRecord(f"{path}/{member.name}")
        return
    sample = samples.setdefault(str(name.with_suffix("")), _Sample())
    sample.position = sample.position or len(samples)
    ending = name.suffix.lower()
    if looks_like_image(name.name):
        place: Location = TarMember(path, member.offset_data, member.size)
        if path.lower().endswith(COMPRESSED):
            place = CopiedFile(_copy(_content(tar, member), options.cache) if copy else "")
        sample.pictures.append(f"{path}/{member.name}")
        yield ImageRecord(f"{path}/{member.name}", place)
    elif ending in _SIDECARS:
        sample.texts[ending] = _content(tar, member)
    else:
        yield SkippedRecord(f"{path}/{member.name}")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: IO[bytes] | None = tar.extractfile(member)
    return file.read() if file is not None else b""


def _copy(data: bytes, cache: Path) -> str:
    """Keep a picture under its SHA-256; one that is there already is not written again."""
    file = cache / hashlib.sha256(data).hexdigest()
    if not file.is_file():
        write_whole(file, data)
    return file.as_posix()


def _rows(sample: _Sample) -> Iterator[Record]:
    """Yield the captions and labels of a sample, for each of its pictures."""
    for key in sample.pictures:
        for ending in _TEXTS:
            if ending in sample.texts:
                yield CaptionRecord(key, _text(sample.texts[ending]), sample.position)
        if ".cls" in sample.texts:
            yield LabelRecord(key, "class", _text(sample.texts[".cls"]), sample.position)
        if ".json" in sample.texts:
            yield from _json_rows(key, sample)


def _json_rows(key: str, sample: _Sample) -> Iterator[Record]:
    """Yield an object's plain entries as labels; its caption too where no text file says it."""
    try:
        content = json.loads(_text(sample.texts[".json"]))
    except ValueError:
        yield RejectedRecord("labels", key, "its .json member is no JSON", sample.position)
        return
    if not isinstance(content, dict):
        yield RejectedRecord("labels", key, "its .json member is no object with named entries", sample.position)
        return
    for name, value in content.items():
        if name == "caption" and isinstance(value, str):
            if not any(ending in sample.texts for ending in _TEXTS):
                yield CaptionRecord(key, value, sample.position)
        else:
            for text in _label_texts(value):
                yield LabelRecord(key, name, text, sample.position)


def _label_texts(value: object) -> list[str]:
    """Return a plain value as text, every plain value of a list; nothing of what is nested deeper."""
    if isinstance(value, list):
        return [text for item in value if not isinstance(item, list) for text in _label_texts(item)]
    if isinstance(value, bool):
        return ["true" if value else "false"]
    return [str(value)] if isinstance(value, (str, int, float)) else []


def _text(data: bytes) -> str:
    try:
        return decode_text(data).strip()
    except SourceError:
        return ""


@hookimpl
def register_sources(register: Register[Source]) -> None:
    """Register webdatasets."""
    register("webdataset", WebdatasetSource())
