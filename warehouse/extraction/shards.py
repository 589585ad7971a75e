"""Shards: what one batch of an extraction left on disk, whole or not at all.

A shard is one Parquet file per batch of images and target. Its metadata names the images it covers and those that
could not be read, so that an extraction is resumed by what is there. It is written under a temporary name, synced
and renamed: after kill -9 there is either a whole shard or none. In spaces that keep the strongest images only, a shard
has a summary in a file of its own, which is there before the shard is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from glasshouse.schema.errors import WarehouseError

METADATA_KEY = b"glasshouse"
TEMPORARY_PREFIX = ".tmp-"


@dataclass(frozen=True)
class ShardRecord:
    """What a shard says of itself.

    Attributes:
        fingerprint: of the space or embedding it belongs to.
        images: ids of the images whose rows are in it; an image may have no row.
        failures: id and reason for images that could not be read.
        self_test: the SAE's self-test, in the shard of the first batch only.
        keep: how many images of each feature the space keeps; None where it keeps all.
        n_behind: images of the space's file that decided which rows are kept.
    """

    fingerprint: str
    images: list[int]
    failures: list[tuple[int, str]] = field(default_factory=list)
    self_test: dict[str, Any] | None = None
    keep: int | None = None
    n_behind: int = 0

    def to_json(self) -> bytes:
        """Encode for the Parquet metadata."""
        return json.dumps(self.__dict__).encode()

    @classmethod
    def from_json(cls, text: bytes) -> ShardRecord:
        """Decode what `to_json` wrote."""
        values = json.loads(text)
        values["failures"] = [(int(image), str(reason)) for image, reason in values["failures"]]
        return cls(**values)


class ShardFolder:
    """The shards of one target."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def write(self, table: pa.Table, record: ShardRecord, summary: pa.Table | None = None) -> None:
        """Write one batch; its name is the lowest image id in it, so that doing a batch again replaces it.

        Raises:
            WarehouseError: the disk is full or not writable. Earlier shards stay.
        """
        ids = record.images + [image for image, _ in record.failures]
        file = self.folder / f"batch-{min(ids):09d}.parquet"
        if summary is not None:
            self._write(summary, summary_of(file))
        metadata = {**(table.schema.metadata or {}), METADATA_KEY: record.to_json()}
        self._write(table.replace_schema_metadata(metadata), file)

    def _write(self, table: pa.Table, file: Path) -> None:
        temporary = self.folder / f"{TEMPORARY_PREFIX}{os.getpid()}-{file.name}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Level 1 and no dictionaries: values are almost all distinct, and shards live for minutes.
            pq.write_table(
                table,
                temporary,
                compression="zstd",
                compression_level=1,
                use_dictionary=False,
                write_statistics=False,
            )
            _sync(temporary)
            temporary.replace(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise WarehouseError(
                f"Could not write {file}: {error.strerror or error} What was extracted before is kept; "
                "free some space or check permissions, then run the same command again."
            ) from error

    def files(self) -> list[Path]:
        """Every whole shard, in image order."""
        return sorted(self.folder.glob("batch-*.parquet")) if self.folder.is_dir() else []

    def n_bytes(self) -> int:
        """Size of every whole shard with its summary."""
        files = [*self.files(), *map(summary_of, self.files())]
        return sum(file.stat().st_size for file in files if file.exists())

    def records(self) -> list[ShardRecord]:
        """What every whole shard says of itself, in image order; see `entries`."""
        return [record for _, record in self.entries()]

    def entries(self) -> list[tuple[Path, ShardRecord]]:
        """Every whole shard and its record, in image order. A damaged shard is removed: its batch is missing.

        Raises:
            WarehouseError: a shard of another encoder or SAE lies there.
        """
        found = []
        for file in self.files():
            record = read_record(file)
            if record is None:
                file.unlink()
                continue
            if record.fingerprint != self.fingerprint:
                raise WarehouseError(
                    f"{file} was extracted with another encoder, hook or SAE than now asked for. "
                    f"Remove {self.folder} to start that extraction over."
                )
            found.append((file, record))
        return found

    def has_summary(self, file: Path) -> bool:
        """Say whether the summary of a shard is there and whole."""
        try:
            pq.read_metadata(summary_of(file))
        except (pa.ArrowException, OSError):
            return False
        return True

    def remove(self, file: Path) -> None:
        """Remove one shard: its batch is missing then. A summary without its shard says nothing."""
        file.unlink(missing_ok=True)
        summary_of(file).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what an interrupted write or an interrupted `clear` left."""
        shutil.rmtree(self._discarded, ignore_errors=True)
        if self.folder.is_dir():
            for file in self.folder.glob(f"{TEMPORARY_PREFIX}*"):
                file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove every shard, after the target was finalised. All disappear at once: half of them would be a lie."""
        self.sweep()
        if self.folder.is_dir():
            self.folder.replace(self._discarded)
            shutil.rmtree(self._discarded, ignore_errors=True)

    @property
    def _discarded(self) -> Path:
        return self.folder.with_name(f"{TEMPORARY_PREFIX}discarded-{self.folder.name}")


def summary_of(file: Path) -> Path:
    """Return where the summary of a shard lies."""
    return file.with_name(file.name.replace("batch-", "summary-", 1))


def read_record(file: Path) -> ShardRecord | None:
    """Read a shard's record; None when the file is no whole shard."""
    try:
        metadata = pq.read_schema(file).metadata or {}
        return ShardRecord.from_json(metadata[METADATA_KEY])
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return None


def covered(records: Sequence[ShardRecord]) -> set[int]:
    """Ids of every image that the shards say something of, read or failed."""
    ids: set[int] = set()
    for record in records:
        ids.update(record.images)
        ids.update(image for image, _ in record.failures)
    return ids


def _sync(file: Path) -> None:
    """Make sure the bytes are on disk before the name is: a rename may outlive a power cut that the bytes did not."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
