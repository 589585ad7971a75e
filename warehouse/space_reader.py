"""Reading one finalised space: a connection kept open on its immutable file, and the queries on it.

The file is never written to, only replaced, so holding it open shuts nobody out. A replaced file is noticed by its
inode and opened anew.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
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
from glasshouse.warehouse.extraction.targets import kept_words
from glasshouse.warehouse.frames import frame_of
from glasshouse.warehouse.histograms import quantiles
from glasshouse.warehouse.space_file import keep_of

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
        keep: how many of its strongest images the space keeps of each feature; None where it keeps every activation.
            What needs more than those is refused.
    """

    def __init__(
        self,
        name: str,
        file: Path,
        n_features: int,
        grid: tuple[int, int] | None,
        framing: Mapping[str, Any] | None = None,
        keep: int | None = None,
    ) -> None:
        self.name = name
        self.n_features = n_features
        self.grid = grid
        self.framing = framing
        self.keep = keep
        self._file = file
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._inode: tuple[int, int] | None = None
        self._lock = threading.Lock()

    def top_images(self, feature: int, k: int) -> pl.DataFrame:
        """Return the k images on which a feature is strongest: image_id, value, token; ties by image_id.

        Raises:
            UsageError: no such feature, or the space keeps fewer images.
        """
        self._check_feature(feature)
        self.need_strongest(k)
        return frame_of(self._query("queries/top_images.sql", {"feature": int(feature), "k": _positive("k", k)}))

    def top_images_of_all(self, k: int) -> pl.DataFrame:
        """Return the k strongest images of every feature that is ever active: feature_id, image_id, value.

        Raises:
            UsageError: the space keeps fewer images.
        """
        self.need_strongest(k)
        # The aggregate takes only a constant for k, so it is written into the text, as an integer.
        sql = read_sql("queries/top_images_of_all.sql").replace("$k", str(_positive("k", k)))
        return frame_of(self._cursor().sql(sql))

    def features_of_image(self, image: int, k: int | None) -> pl.DataFrame:
        """Return the k strongest features of an image: feature_id, value, rank; all of them when k is None.

        Up to 64 come from a table in image order, in about a millisecond; more need a pass over the space.

        Raises:
            UsageError: the space keeps the strongest images of each feature only.
        """
        self.need_all("does not know which features are active on an image")
        if k is None or k > TOP_FEATURES:
            frame = frame_of(self._query("queries/image_all_features.sql", {"image": int(image)}))
            return frame if k is None else frame.head(k)
        return frame_of(self._query("queries/image_features.sql", {"image": int(image), "k": _positive("k", k)}))

    def token_map(self, feature: int, image: int) -> npt.NDArray[np.float32]:
        """Return a feature's activations over an image's patch grid, float32 [rows, columns], 0 where silent.

        Raises:
            UsageError: the space has one vector per image, or does not keep this image for this feature.
        """
        self._check_feature(feature)
        if self.grid is None:
            raise UsageError(
                f"The space '{self.name}' has no token maps: it holds one vector per image. Use a patch space."
            )
        found = self._query("queries/token_map.sql", {"feature": int(feature), "image": int(image)}).fetchnumpy()
        if not len(found["token"]) and not self._has_all_of(feature):
            raise UsageError(
                f"The space '{self.name}' keeps only {kept_words(self.keep)}, and image {image} is none of those of "
                f"feature {feature}: where it is active there is not known."
            )
        map_t = np.zeros(self.grid[0] * self.grid[1], dtype=np.float32)
        map_t[found["token"]] = found["value"]
        return map_t.reshape(self.grid)

    @contextmanager
    def connection(self, strongest: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a read-only connection of its own on the space's file: what is registered on it stays with it.

        Args:
            strongest: how many of its strongest images are read of any feature, 0 for statistics alone; None where any
                activation may be read.

        Raises:
            UsageError: the space keeps fewer images than that.
        """
        if strongest is None:
            self.need_all("lacks the activations of all others")
        self.need_strongest(strongest or 0)
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
        """Return the pooled activations as float32 CSR [n_images, F]; row i is image_id i.

        Raises:
            UsageError: the space keeps the strongest images of each feature only.
        """
        self.need_all("has no matrix of all activations")
        import scipy.sparse

        found = self._cursor().sql("SELECT image_id, feature_id, value FROM activations").fetchnumpy()
        # Sorted by feature already, so the columns' bounds are counts; no sort of all the rows is needed.
        counts_k = np.bincount(found["feature_id"], minlength=self.n_features)
        bounds = np.concatenate([[0], np.cumsum(counts_k)])
        matrix = scipy.sparse.csc_array((found["value"], found["image_id"], bounds), shape=(n_images, self.n_features))
        return matrix.tocsr()

    def quantiles(self, shares: Sequence[float]) -> pl.DataFrame:
        """Return quantiles of every feature over all images; see `WarehouseReads.feature_quantiles`."""
        import polars as pl  # late: a command that prints one line need not wait for it

        if self.keep is None:
            raise UsageError(
                f"The space '{self.name}' has no histograms, since it keeps every activation. Ask SQL: "
                "quantile_cont(value, 0.99) over `activations`, where images on which a feature is silent have no row."
            )
        shares_q = np.asarray(shares, dtype=np.float64)
        if not np.all((shares_q >= 0) & (shares_q <= 1)):
            raise UsageError("Quantiles are asked for by shares from 0 to 1, e.g. 0.99.")
        found = self._cursor().sql("SELECT feature_id, bin, n_images FROM feature_histograms").fetchnumpy()
        max_f = self.statistics()["max_value"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        value_fq = quantiles(found["feature_id"], found["bin"], found["n_images"], max_f, shares_q)
        return pl.DataFrame(
            {
                "feature_id": np.repeat(np.arange(self.n_features, dtype=np.int32), len(shares_q)),
                "share": np.tile(shares_q, self.n_features),
                "value": value_fq.reshape(-1),
            }
        )

    # -- what a space does not keep ----------------------------------------------------------------------------

    def need_all(self, lack: str) -> None:
        """Refuse what needs every activation; `lack` says what the space does not have or know.

        Raises:
            UsageError: the space keeps the strongest images of each feature only.
        """
        if self.keep is not None:
            raise UsageError(
                f"The space '{self.name}' keeps only {kept_words(self.keep)} and {lack}. For this, extract the same "
                "under another name without --keep."
            )

    def need_strongest(self, k: int) -> None:
        """Refuse what needs more than the images that are kept.

        Raises:
            UsageError: the space keeps fewer than k images of each feature.
        """
        if self.keep is not None and k > self.keep:
            raise UsageError(
                f"The space '{self.name}' keeps only {kept_words(self.keep)}, and {k:,} were asked for. Ask for at "
                f"most {self.keep:,}, or extract the same under another name with --keep {k}."
            )

    def _has_all_of(self, feature: int) -> bool:
        """Say whether an image that has no row for a feature is one on which it is silent."""
        if self.keep is None:
            return True
        active = self._cursor().execute(
            "SELECT n_active FROM feature_stats WHERE feature_id = $feature", {"feature": int(feature)}
        )
        row = active.fetchone()
        return row is None or int(row[0]) <= self.keep

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
                self._check_keep(self._connection)
            return self._connection.cursor()

    def _check_keep(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Refuse a file that is not what this reader takes it for: the strongest images must not pass for all."""
        found = keep_of(connection)
        if found != self.keep:
            connection.close()
            self._connection = None
            raise UsageError(
                f"The space '{self.name}' was made anew and keeps {kept_words(found)} now. Open the warehouse again; "
                "if that does not help, run `glasshouse check --repair`."
            )

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
