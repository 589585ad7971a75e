"""The reading half of the Python door: SQL, images, spaces, embeddings. Nothing here writes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import duckdb

from glasshouse.schema.errors import UsageError, unknown_name
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse import surface
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.frames import frame_of
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.results.inputs import inputs_of_query
from glasshouse.warehouse.results.records import Run
from glasshouse.warehouse.results.store import all_runs
from glasshouse.warehouse.results.vectors import FeatureVectors, read_vectors
from glasshouse.warehouse.results.views import result_views
from glasshouse.warehouse.space_reader import SpaceReader
from glasshouse.warehouse.vectors import Embeddings, VectorStore

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import polars as pl
    import pyarrow as pa
    import scipy.sparse
    from PIL import Image


class ImageMask(NamedTuple):
    """One annotated object: its id in the source, category, whether it is a crowd, mask as bool [height, width]."""

    annotation_id: int
    category: str
    is_crowd: bool
    mask_hw: npt.NDArray[np.bool_]


class WarehouseReads:
    """Reads of one warehouse. The catalogue is opened per query; space files, which never change, stay open.

    Args:
        layout: of the warehouse.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.catalogue = Catalogue(layout.root)
        self.vectors = VectorStore(layout.vectors)
        self._readers: dict[str, SpaceReader] = {}
        self._lock = threading.Lock()

    @property
    def root(self) -> Path:
        """The warehouse's folder."""
        return self.layout.root

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r})"

    # -- SQL ---------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a read-only DuckDB connection with every view and function, closed at the end of the block."""
        with surface.reading(self.layout, self._prepare) as connection:
            yield connection

    def _prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Add functions and macros to a reading connection; a warehouse without plugins has none."""

    def sql(self, query: str, values: Mapping[str, Any] | None = None) -> pl.DataFrame:
        """Run a query and return a polars frame; `$name` in it takes `values["name"]`.

        Raises:
            UsageError: the query is wrong, or wants to write.
        """
        with self.querying(query, values) as result:
            return frame_of(result)

    def sql_arrow(self, query: str, values: Mapping[str, Any] | None = None) -> pa.Table:
        """Run a query and return an Arrow table; as `sql` otherwise."""
        with self.querying(query, values) as result:
            return result.to_arrow_table()

    @contextmanager
    def querying(self, query: str, values: Mapping[str, Any] | None = None) -> Iterator[duckdb.DuckDBPyRelation]:
        """Run a query and give its pending result, for results that are streamed."""
        with self.reading() as connection:
            try:
                result = connection.sql(query, params=dict(values or {}))
                # A statement without rows, such as SET, gives None; it has run all the same.
                yield connection.sql("SELECT true AS done") if result is None else result
            except duckdb.Error as error:
                raise UsageError(f"The query failed. {surface.explain(error)}") from error

    # -- images ------------------------------------------------------------------------------------------------

    def images(self) -> pl.DataFrame:
        """Return every image: image_id (row i is image i), path, width, height (pixels), format, brightness, …, sha256.

        Kept in memory until the catalogue changes.
        """

        def read() -> pl.DataFrame:
            with self.catalogue.reading() as connection:
                return frame_of(connection.sql(read_sql("queries/image_listing.sql")))

        return self.catalogue.remembered("images", read)

    def image_id(self, image: int | str | Path) -> int:
        """Return the id of an image given by id, path, end of a path, or SHA-256.

        Raises:
            UsageError: no image or several fit.
        """
        if isinstance(image, int):
            n_images = self.images().height
            if not n_images:
                raise UsageError("The warehouse has no images yet. Add some with `glasshouse add FOLDER`.")
            if not 0 <= image < n_images:
                raise UsageError(f"There is no image {image}: they run from 0 to {n_images - 1}.")
            return image
        with self.catalogue.reading() as connection:
            rows = connection.execute(read_sql("queries/find_image.sql"), {"name": str(image)}).fetchall()
        if len(rows) != 1:
            many = f"{len(rows)} images fit, e.g. {rows[0][1]} and {rows[1][1]}" if rows else "No image fits"
            raise UsageError(f"{many} '{image}'. Give an image_id, a longer path or a SHA-256.")
        return int(rows[0][0])

    def picture(self, image: int | str | Path) -> Image.Image:
        """Return the picture of an image, as extraction reads it: RGB, upright, full size.

        Raises:
            UsageError: no such image.
            SourceError: no file holds it any more.
        """
        from glasshouse.warehouse.showing.pictures import picture

        return picture(self, self.image_id(image))

    def masks(self, image: int | str | Path) -> list[ImageMask]:
        """Return the annotated objects of an image that have a mask, in the order of their ids."""
        from glasshouse.warehouse.intake.masks import decode_mask

        with self.catalogue.reading() as connection:
            rows = connection.execute(read_sql("queries/image_masks.sql"), {"image": self.image_id(image)}).fetchall()
        return [
            ImageMask(annotation, category, bool(crowd), decode_mask(height, width, rle))
            for annotation, category, crowd, height, width, rle in rows
        ]

    # -- spaces ------------------------------------------------------------------------------------------------

    def spaces(self) -> pl.DataFrame:
        """Return one row per space: name, encoder, hook, tokens, SAE, state, sizes, self-test."""
        with self.catalogue.reading() as connection:
            return frame_of(connection.sql("FROM spaces ORDER BY name"))

    def space(self, name: str) -> SpaceReader:
        """Return the reader of a finalised space.

        Raises:
            UsageError: no such space, or it is not finalised.
        """
        with self._lock:
            if name not in self._readers:
                self._readers[name] = self._open_space(name)
            return self._readers[name]

    def _open_space(self, name: str) -> SpaceReader:
        with self.catalogue.reading() as connection:
            rows = connection.execute(
                "SELECT name, state, n_features, grid_rows, grid_columns, framing::VARCHAR, keep FROM spaces"
            ).fetchall()
        known = {row[0]: row[1:] for row in rows}
        if name not in known:
            raise unknown_name("space", name, known, "Make one with `glasshouse extract`.")
        state, n_features, grid_rows, grid_columns, framing, keep = known[name]
        if state != "ready":
            raise UsageError(
                f"The space '{name}' is not finished. Run its `glasshouse extract` again: it goes on where it stopped."
            )
        grid = None if grid_rows is None else (int(grid_rows), int(grid_columns))
        rule = None if framing is None else json.loads(framing)
        return SpaceReader(name, self.layout.space_file(name), int(n_features), grid, rule, keep)

    def top_images(self, space: str, feature: int, k: int = 20) -> pl.DataFrame:
        """Return the k images on which a feature is strongest: image_id, value, token, path; strongest first.

        `value` is the activation (the maximum over tokens in patch spaces, reached at `token`), in the SAE's units.
        """
        import polars as pl

        frame = self.space(space).top_images(feature, k)
        paths = self.images()["path"].gather(frame["image_id"])
        return frame.with_columns(pl.Series("path", paths))

    def features_of_image(self, space: str, image: int | str | Path, k: int | None = 20) -> pl.DataFrame:
        """Return the k strongest features of an image: feature_id, value, rank; every active one when k is None."""
        return self.space(space).features_of_image(self.image_id(image), k)

    def token_map(self, space: str, feature: int, image: int | str | Path) -> npt.NDArray[np.float32]:
        """Return where on an image a feature is active: float32 [grid rows, grid columns], 0 where silent."""
        return self.space(space).token_map(feature, self.image_id(image))

    def feature_statistics(self, space: str) -> pl.DataFrame:
        """Return one row per feature, silent ones included: n_active, frequency, mean and maximum of its values, …"""
        return self.space(space).statistics()

    def feature_quantiles(self, space: str, shares: Sequence[float]) -> pl.DataFrame:
        """Return quantiles of every feature's value over all images, silent ones included: feature_id, share, value.

        From the histograms of a space that keeps the strongest images only: at most 12.5 % off. `shares` lie from 0 to
        1, e.g. [0.5, 0.99].

        Raises:
            UsageError: the space keeps every activation: SQL has the exact quantiles.
        """
        return self.space(space).quantiles(shares)

    def sparse_matrix(self, space: str) -> scipy.sparse.csr_array:
        """Return a space as a float32 CSR array [images, features]: row i is image_id i, zero rows included."""
        return self.space(space).sparse_matrix(self.images().height)

    # -- results -----------------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """Return every run of an analysis, oldest first, with its parameters, notes, and whether it is stale."""
        return all_runs(self.catalogue)

    def result_rows(self, run: Run) -> pl.DataFrame:
        """Return the rows of a run; where runs add to each other, the newest row of each feature up to that run."""
        from glasshouse.warehouse.results.reading import rows_of_run

        return rows_of_run(self.catalogue, run)

    def result_vectors(self, run: Run | int) -> FeatureVectors:
        """Return the vectors of a run, e.g. its concept vectors: feature_ids int32 [k], vectors float32 [k, E].

        Args:
            run: from `runs()` or a report, or its run_id.

        Raises:
            UsageError: no such run, or it made none.
        """
        if isinstance(run, int):
            found = [known for known in self.runs() if known.run_id == run]
            if not found:
                raise UsageError(f"There is no run {run}. `glasshouse status --runs` lists them.")
            run = found[0]
        if run.vectors is None:
            raise UsageError(f"The run {run.run_id} of '{run.analyzer}' has no vectors.")
        return read_vectors(self.layout, run.vectors)

    def inputs_of(self, query: str) -> list[tuple[str, str]]:
        """Return (kind, name) of what a SELECT reads, as runs record their inputs: spaces, tables, results."""
        with self.reading() as connection:
            named = surface.names_in(connection, query)
            results = result_views(connection)
            spaces = [space.name for space in surface.finalised_spaces(connection, self.layout)]
        return list(inputs_of_query(named, results, self.runs(), spaces))

    # -- embeddings --------------------------------------------------------------------------------------------

    def embedding_names(self) -> list[str]:
        """Return the names of the finished image embeddings."""
        with self.catalogue.reading() as connection:
            rows = connection.execute("SELECT name FROM embeddings WHERE state = 'ready' ORDER BY name").fetchall()
        return [str(name) for (name,) in rows]

    def embeddings(self, name: str) -> Embeddings:
        """Return an image embedding: image_ids int32 [n] ascending, vectors float32 [n, E], not normalised.

        Raises:
            UsageError: no such embedding.
        """
        names = self.embedding_names()
        if name not in names:
            raise unknown_name("embedding", name, names, "Make one with `glasshouse embed`.")
        return self.vectors.read(name)

    def close(self) -> None:
        """Let go of the space files. The warehouse can be used again afterwards."""
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
