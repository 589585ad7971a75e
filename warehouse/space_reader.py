"""Reading one finalised space: a connection kept open on its immutable file, and the queries on it.

The file is never written to, only replaced, so holding it open shuts nobody out. A replaced file is noticed by its
inode and opened anew.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import numpy.typing as npt

from glasshouse.schema.errors import UsageError, WarehouseError
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.catalogue import connect_with_patience
from glasshouse.warehouse.extraction.rows import TOP_FEATURES
from glasshouse.warehouse.frames import frame_of

if TYPE_CHECKING:
    import polars as pl
    import scipy.sparse


class SpaceReader:
    """Typed reads of one space.

    Args:
        file: the finalised space.
        n_features: F.
        grid: rows and columns of the token map; None for spaces with one vector per image.
        framing: how the encoder cuts pictures, for `showing.overlay.heat_overlay`; None where it is not known.
    """

    def __init__(
        self,
        name: str,
        file: Path,
        n_features: int,
        grid: tuple[int, int] | None,
        framing: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.n_features = n_features
        self.grid = grid
        self.framing = framing
        self._file = file
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._inode: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def top_images(self, feature: int, k: int) -> pl.DataFrame:
        """Return the k images on which a feature is strongest: image_id, value, token; ties by image_id."""
        self._check_feature(feature)
        return frame_of(self._query("queries/top_images.sql", {"feature": int(feature), "k": _positive("k", k)}))

    def top_images_of_all(self, k: int) -> pl.DataFrame:
        """Return the k strongest images of every feature that is ever active: feature_id, image_id, value."""
        # The aggregate takes only a constant for k, so it is written into the text, as an integer.
        sql = read_sql("queries/top_images_of_all.sql").replace("$k", str(_positive("k", k)))
        return frame_of(self._cursor().sql(sql))

    def features_of_image(self, image: int, k: int | None) -> pl.DataFrame:
        """Return the k strongest features of an image: feature_id, value, rank; all of them when k is None.

        Up to 64 come from a table in image order, in about a millisecond; more need a pass over the space.
        """
        if k is None or k > TOP_FEATURES:
            frame = frame_of(self._query("queries/image_all_features.sql", {"image": int(image)}))
            return frame if k is None else frame.head(k)
        return frame_of(self._query("queries/image_features.sql", {"image": int(image), "k": _positive("k", k)}))

    def token_map(self, feature: int, image: int) -> npt.NDArray[np.float32]:
        """Return a feature's activations over an image's patch grid, float32 [rows, columns], 0 where silent.

        Raises:
            UsageError: the space has one vector per image.
        """
        self._check_feature(feature)
        if self.grid is None:
            raise UsageError(
                f"The space '{self.name}' has no token maps: it holds one vector per image. Use a patch space."
            )
        found = self._query("queries/token_map.sql", {"feature": int(feature), "image": int(image)}).fetchnumpy()
        map_t = np.zeros(self.grid[0] * self.grid[1], dtype=np.float32)
        map_t[found["token"]] = found["value"]
        return map_t.reshape(self.grid)

    @contextmanager
    def connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a read-only connection of its own on the space's file: what is registered on it stays with it."""
        cursor = self._cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    def statistics(self) -> pl.DataFrame:
        """Return one row per feature: n_active, frequency, mean_active, std_active, max_value, sums, n_tokens."""
        return frame_of(self._cursor().sql("FROM feature_stats"))

    def image_ids(self) -> npt.NDArray[np.int32]:
        """Return the ids of the images that the space covers, ascending."""
        found = self._cursor().sql("SELECT image_id FROM space_images").fetchnumpy()["image_id"]
        return np.sort(found.astype(np.int32, copy=False))

    def sparse_matrix(self, n_images: int) -> scipy.sparse.csr_array:
        """Return the pooled activations as float32 CSR [n_images, F]; row i is image_id i."""
        import scipy.sparse

        found = self._cursor().sql("SELECT image_id, feature_id, value FROM activations").fetchnumpy()
        # Sorted by feature already, so the columns' bounds are counts; no sort of all the rows is needed.
        counts_k = np.bincount(found["feature_id"], minlength=self.n_features)
        bounds = np.concatenate([[0], np.cumsum(counts_k)])
        matrix = scipy.sparse.csc_array((found["value"], found["image_id"], bounds), shape=(n_images, self.n_features))
        return matrix.tocsr()

    def _query(self, name: str, values: dict[str, int]) -> duckdb.DuckDBPyRelation:
        return self._cursor().sql(read_sql(name), params=values)

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a cursor of its own for the calling thread, on the file that is there now."""
        with self._lock:
            try:
                status = self._file.stat()
            except OSError:
                raise WarehouseError(
                    f"The file {self._file} of the space '{self.name}' is gone. If nobody dropped it, run "
                    "`glasshouse check --repair`."
                ) from None
            inode = (status.st_dev, status.st_ino)
            if self._connection is None or inode != self._inode:
                if self._connection is not None:
                    self._connection.close()
                self._connection = connect_with_patience(self._file, read_only=True)
                self._inode = inode
            return self._connection.cursor()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _check_feature(self, feature: int) -> None:
        if not 0 <= feature < self.n_features:
            raise UsageError(
                f"The space '{self.name}' has no feature {feature}: they run from 0 to {self.n_features - 1}."
            )


def _positive(name: str, number: int) -> int:
    if number < 1:
        raise UsageError(f"{name} must be at least 1, not {number}.")
    return int(number)
