"""The vector store: LanceDB tables in one folder, of image embeddings or of results' vectors.

Lance is written first and the catalogue's record is committed last, so that a crash between the two leaves vectors
without a record, which the next run takes up, and never a record without vectors.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glasshouse.schema.errors import WarehouseError
from glasshouse.warehouse.catalogue import first_line

if TYPE_CHECKING:
    import lancedb


class Embeddings(NamedTuple):
    """Image embeddings as the encoder gave them: `image_ids` int32 [n] ascending, `vectors_ne` float32 [n, E]."""

    image_ids: npt.NDArray[np.int32]
    vectors_ne: npt.NDArray[np.float32]


class VectorStore:
    """LanceDB in one folder. Connects on first use: its import alone takes two seconds.

    Args:
        folder: of the tables.
        key: the column that says what a vector is of, `image_id` or `feature_id`.
        what: what a table is called in errors.
    """

    def __init__(self, folder: Path, key: str = "image_id", what: str = "embedding") -> None:
        self.folder = folder
        self.key = key
        self.what = what
        self._database: Any = None

    @property
    def _connection(self) -> lancedb.DBConnection:
        if self._database is None:
            import lancedb

            self._database = lancedb.connect(str(self.folder))
        return self._database

    def names(self) -> list[str]:
        """Every table there is; none when nothing was ever embedded."""
        if not self.folder.is_dir():
            return []
        return sorted(path.stem for path in self.folder.glob("*.lance") if _is_committed(path))

    def image_ids(self, name: str) -> set[int]:
        """Keys (ids of images) that have a vector in table `name`; empty when there is no such table."""
        if name not in self.names():
            return set()
        with self._readable(name):
            table = self._open(name).search().select([self.key]).limit(None).to_arrow()
        return {int(value) for value in table[self.key].to_pylist()}

    def append(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
        """Append rows in one Lance commit: all of them are there afterwards, or none.

        Raises:
            WarehouseError: the disk is full or not writable.
        """
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        try:
            if name in self.names():
                self._open(name).add(reader)
            else:
                # What a killed first write left has no version yet and would be in the way.
                shutil.rmtree(self.folder / f"{name}.lance", ignore_errors=True)
                self._connection.create_table(name, reader, schema=schema)
        except (OSError, RuntimeError, ValueError) as error:
            raise WarehouseError(f"Could not write the {self.what} '{name}' to {self.folder}: {error}") from error

    def read(self, name: str) -> Embeddings:
        """Read a whole embedding: 200,000 × 384 takes about a second, gathering rows one by one takes longer.

        Raises:
            WarehouseError: there is no such table.
        """
        if name not in self.names():
            raise WarehouseError(
                f"{self.folder} has no vectors for the {self.what} '{name}'. Run `glasshouse check --repair`, "
                "then compute it again."
            )
        with self._readable(name):
            table = self._open(name).to_arrow()
            # Written in order as a rule; sorting copies every vector and takes as long as reading them.
            if np.any(np.diff(table[self.key].to_numpy()) < 0):
                table = table.sort_by(self.key)
        ids = table[self.key].to_numpy().astype(np.int32, copy=False)
        vectors = table["vector"].combine_chunks()
        width = vectors.type.list_size
        return Embeddings(ids, vectors.flatten().to_numpy().reshape(len(ids), width))

    def drop(self, name: str) -> None:
        """Remove a table, if it is there, damaged ones too."""
        shutil.rmtree(self.folder / f"{name}.lance", ignore_errors=True)

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        """Turn what Lance says of damaged files into a clear error."""
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise WarehouseError(
                f"The vectors of the {self.what} '{name}' in {self.folder} are damaged ({first_line(error)[:150]}). "
                "Run `glasshouse check --repair`, then compute it again."
            ) from error

    def _open(self, name: str) -> Any:
        return self._connection.open_table(name)


def _is_committed(table_folder: Path) -> bool:
    """Say whether a Lance folder has a version: a write that was killed before its commit leaves data without one."""
    return any((table_folder / "_versions").glob("*.manifest"))
