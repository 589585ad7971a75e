"""Folders, read recursively, and single pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from glasshouse.plugins import hookimpl
from glasshouse.plugins.hookspecs import Register
from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.intake.paths import is_url
from glasshouse.warehouse.intake.records import (
    ImageRecord,
    PlainFile,
    ReadOptions,
    Record,
    RejectedRecord,
    SkippedRecord,
    Source,
    Url,
)

_NO_PICTURES = """
    .csv .tsv .tab .txt .parquet .pq .json .jsonl .ndjson .md .rst .html .htm .xml .yaml .yml .toml .ini .cfg .log
    .pdf .doc .docx .xls .xlsx .ods .py .ipynb .r .sh .sql .db .duckdb .sqlite .arrow .feather .npy .npz .pt .pth
    .safetensors .pkl .onnx .h5 .tar .tgz .gz .zip .7z .bz2 .xz .zst .mp4 .mov .avi .mkv .webm .mp3 .wav
    .caption .cls .lnk .license
"""

NO_PICTURES = frozenset(_NO_PICTURES.split())
"""File name endings that are passed over in a folder. Every other file is tried, whatever it is called."""

READ_BY_OTHERS = (".csv", ".tsv", ".tab", ".txt", ".parquet", ".pq", ".json", ".tar", ".tar.gz", ".tgz")


class FolderSource:
    """A folder with everything below it, a picture, or the URL of a picture."""

    summary = "a folder with everything below it, a picture, or the URL of one"

    def claims(self, path: str) -> bool:
        """Claim folders, and whatever is not called like a table, COCO JSON or tar."""
        return Path(path).is_dir() or not path.lower().endswith(READ_BY_OTHERS)

    def read(self, path: str, want: frozenset[str], options: ReadOptions) -> Iterator[Record]:
        """Yield one record a file, in the order of their names (bytes), folders in their place among them."""
        if "images" not in want:
            kind = min(want)
            raise SourceError(f"{path} holds no {kind}: give a table or file of {kind} instead.")
        if is_url(path):
            yield ImageRecord(path, Url(path))
        elif Path(path).is_dir():
            yield from _walk(path, options.warehouse, frozenset())
        else:
            yield ImageRecord(path, PlainFile(path))


def _walk(folder: str, warehouse: Path, above: frozenset[str]) -> Iterator[Record]:
    """Walk a folder; links to folders are followed unless they lead back up."""
    real = os.path.realpath(folder)
    if real in above:
        yield SkippedRecord(folder)
        return
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield RejectedRecord("images", folder, f"the folder cannot be listed: {error.strerror}")
        return
    for entry in entries:
        if entry.name.startswith("."):
            yield SkippedRecord(entry.path)
        elif os.path.isdir(entry.path):  # noqa: PTH112 - False, not an error, where it may not look
            if not _is_warehouse(entry.path, warehouse):
                yield from _walk(entry.path, warehouse, above | {real})
        else:
            yield _file(entry)


def _file(entry: os.DirEntry[str]) -> Record:
    is_broken_link = entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110 - as above
    if Path(entry.name.strip()).suffix.lower() in NO_PICTURES:
        return SkippedRecord(entry.path)
    if not os.path.isfile(entry.path) and not is_broken_link:  # noqa: PTH113 - pipes, sockets and devices
        return SkippedRecord(entry.path)
    return ImageRecord(entry.path, PlainFile(entry.path))


def _is_warehouse(folder: str, warehouse: Path) -> bool:
    """Leave warehouses alone: the pictures in their caches are copies."""
    from glasshouse.warehouse.catalogue import CATALOGUE_FILE  # imports DuckDB, which starting up must not wait for

    return Path(folder, CATALOGUE_FILE).is_file() or os.path.realpath(folder) == os.path.realpath(warehouse)


@hookimpl
def register_sources(register: Register[Source]) -> None:
    """Register folders."""
    register("folder", FolderSource())
