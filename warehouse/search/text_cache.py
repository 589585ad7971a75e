"""A file of text embeddings: words that were embedded once need no model again.

One file per encoder, `cache/texts/….vectors`: records of one length, appended, each the SHA-256 of a text,
its vector and a checksum. Deleting the file loses nothing but time. A record that a killed process left half-written
is cut off by the next writer, and a damaged one counts as not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glasshouse.schema.errors import GlasshouseError
from glasshouse.warehouse.extraction.locks import exclusive

Vector = npt.NDArray[np.float32]


class TextCache:
    """Vectors of texts, in memory and in one file. Several threads and processes may share the file.

    Args:
        file: of the cache; it and its folder are made by the first `put`.
        width: E, the length of a vector.
    """

    def __init__(self, file: Path, width: int) -> None:
        self.file = file
        self.record = np.dtype([("key", "V32"), ("vector", "<f4", (width,)), ("checksum", "<u4")])
        self._known: dict[bytes, Vector] = {}
        self._n_read = 0
        self._lock = threading.Lock()

    def get(self, texts: Sequence[str]) -> list[Vector | None]:
        """Return the vector [E] of each text, or None where it is not known."""
        keys = [key_of(text) for text in texts]
        with self._lock:
            if any(key not in self._known for key in keys):
                self._read_new_records()
            return [self._known.get(key) for key in keys]

    def put(self, vectors: Mapping[str, Vector]) -> None:
        """Remember vectors. That they cannot be written (a full disk, a folder of somebody else's) is no error."""
        records = np.zeros(len(vectors), dtype=self.record)
        for record, (text, vector_e) in zip(records, vectors.items(), strict=True):
            record["key"] = key_of(text)
            record["vector"] = vector_e
            record["checksum"] = zlib.crc32(record.tobytes()[: -self.record["checksum"].itemsize])
        with self._lock:
            self._known.update(self._checked(records))
        with contextlib.suppress(OSError, GlasshouseError), exclusive([self.file.with_suffix(".lock")]):
            self._append(records)

    def _append(self, records: npt.NDArray[np.void]) -> None:
        with self.file.open("ab") as file:
            whole = file.tell() - file.tell() % self.record.itemsize
            file.truncate(whole)
            file.write(records.tobytes())

    def _read_new_records(self) -> None:
        """Take up what was appended since the last look."""
        try:
            with self.file.open("rb") as file:
                file.seek(self._n_read * self.record.itemsize)
                data = file.read()
        except OSError:
            return
        n_new = len(data) // self.record.itemsize
        records = np.frombuffer(data, dtype=self.record, count=n_new)
        self._known.update(self._checked(records))
        self._n_read += n_new

    def _checked(self, records: npt.NDArray[np.void]) -> dict[bytes, Vector]:
        """Return the whole records by their keys."""
        cut = -self.record["checksum"].itemsize
        return {
            record["key"].tobytes(): record["vector"]
            for record in records
            if zlib.crc32(record.tobytes()[:cut]) == record["checksum"]
        }


def key_of(text: str) -> bytes:
    """Return the key of a text: the SHA-256 of its UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
