"""What an analysis may read: one space, and the warehouse around it. All that it reads is noted as the run's input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.results.inputs import current_input
from glasshouse.warehouse.results.records import Input
from glasshouse.warehouse.results.store import latest_run

if TYPE_CHECKING:
    import duckdb
    import numpy as np
    import numpy.typing as npt
    import polars as pl
    import pyarrow as pa
    import scipy.sparse

    from glasshouse.warehouse.vectors import Embeddings
    from glasshouse.warehouse.warehouse import Progress, Warehouse


class AnalysisView:
    """Reads of one space for one run.

    Args:
        warehouse: that is read; nothing is locked by it.
        space: name of a finished space.
        progress: told (done, total) by the analysis, in units of its own.

    Raises:
        UsageError: no such space, or it is not finished.
    """

    def __init__(self, warehouse: Warehouse, space: str, progress: Progress = lambda done, total: None) -> None:
        self.warehouse = warehouse
        self.space = space
        self.progress = progress
        self.notes: dict[str, Any] = {}
        self._inputs: dict[tuple[str, str], Input] = {}
        self._reader = warehouse.space(space)
        self._read("space", space)

    # -- the space ---------------------------------------------------------------------------------------------

    @property
    def n_features(self) -> int:
        """F."""
        return self._reader.n_features

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the token map; None for spaces with one vector per image."""
        return self._reader.grid

    @property
    def keep(self) -> int | None:
        """How many of its strongest images the space keeps of each feature; None where it keeps every activation."""
        return self._reader.keep

    @cached_property
    def n_images(self) -> int:
        """Images of the warehouse: the rows of `sparse_matrix`. A space covers those in `image_ids`."""
        return self.warehouse.images().height

    @cached_property
    def image_ids(self) -> npt.NDArray[np.int32]:
        """The images that the space covers, ascending; those without any active feature included."""
        return self._reader.image_ids()

    @cached_property
    def record(self) -> dict[str, Any]:
        """The row of `spaces` about this space: encoder_spec, encoder_fingerprint, hook, tokens, sae_spec, …"""
        rows = self.warehouse.spaces().filter(name=self.space).to_dicts()
        return dict(rows[0])

    @contextmanager
    def connection(self, strongest: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a read-only DuckDB connection on the space's own file, for aggregates over all of it.

        Its tables: `activations` (image_id, feature_id, value, token; sorted by feature, value descending),
        `token_activations`, `feature_stats`, `space_images`. Arrow tables can be registered beside them.

        Args:
            strongest: how many of its strongest images are read of any feature, 0 for statistics alone. A space that
                keeps as many can be read then; without it only spaces that keep every activation.

        Raises:
            UsageError: the space keeps fewer images than that.
        """
        with self._reader.connection(strongest) as connection:
            yield connection

    def statistics(self) -> pl.DataFrame:
        """Return one row per feature, silent ones included: n_active, frequency, mean_active, max_value, …"""
        return self._reader.statistics()

    def sparse_matrix(self) -> scipy.sparse.csr_array:
        """Return the activations as float32 CSR [n_images, F]: row i is image_id i.

        Raises:
            UsageError: the space keeps the strongest images of each feature only.
        """
        return self._reader.sparse_matrix(self.n_images)

    def top_images(self, k: int) -> pl.DataFrame:
        """Return the k strongest images of every feature that is ever active: feature_id, image_id, value.

        Sorted by feature, value descending, image; patch spaces count the maximum over an image's tokens.

        Raises:
            UsageError: the space keeps fewer images of each feature.
        """
        return self._reader.top_images_of_all(k)

    def token_map(self, feature: int, image: int) -> npt.NDArray[np.float32]:
        """Return where on an image a feature is active: float32 [grid rows, grid columns], 0 where silent."""
        return self._reader.token_map(feature, image)

    # -- around it ---------------------------------------------------------------------------------------------

    def sql(self, query: str, values: Mapping[str, Any] | None = None) -> pa.Table:
        """Run a query on the warehouse's views (`images`, `ratings`, `features`, results, …) as an Arrow table.

        It must be a SELECT; the spaces, tables and results that it names are noted.
        """
        for kind, name in self.warehouse.inputs_of(query):
            self._read(kind, name)
        return self.warehouse.sql_arrow(query, values)

    def images(self) -> pl.DataFrame:
        """Return every image: image_id, path, width, height, brightness, saturation, edge_energy, sha256."""
        self._read("table", "images")
        return self.warehouse.images()

    def ratings(self) -> pl.DataFrame:
        """Return every rating: image_id, dimension, rater ('' where none is named), value, source.

        Raises:
            UsageError: there are none.
        """
        self._read("table", "ratings")
        frame = self.warehouse.sql("FROM ratings ORDER BY dimension, image_id, rater")
        if frame.is_empty():
            raise UsageError("There are no ratings. Add them with `glasshouse add --ratings FILE`.")
        return frame

    def embedding_records(self) -> list[dict[str, Any]]:
        """Return the rows of `embeddings` that are ready: name, encoder_spec, encoder_fingerprint, width, n_images."""
        return self.warehouse.sql("FROM embeddings WHERE state = 'ready' ORDER BY name").to_dicts()

    def embedding(self, name: str) -> Embeddings:
        """Return an image embedding: image_ids int32 [n] ascending, vectors float32 [n, E], not normalised."""
        self._read("embedding", name)
        return self.warehouse.embeddings(name)

    def result(
        self, analyzer: str, facets: Mapping[str, Any] | None = None, *, space: str | None = None
    ) -> pl.DataFrame:
        """Return the rows of another analyzer's newest result for this space, or for another one.

        Args:
            analyzer: its name.
            facets: the newest result with these is meant, not the newest of all.
            space: another space, e.g. one that this is compared with.

        Raises:
            UsageError: it was never run there.
        """
        place = self.space if space is None else space
        run = latest_run(self.warehouse.catalogue, analyzer, place, facets)
        if run is None:
            raise UsageError(
                f"There is no result of '{analyzer}' for the space '{place}'. Run `glasshouse analyze "
                f"{analyzer} --space {place}`."
            )
        if facets is None:
            self._read("newest", f"{analyzer}|{place}")
        else:
            self._read("run", run.slot)
        return self.warehouse.result_rows(run)

    def notes_of(self, analyzer: str, facets: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what another analyzer noted about its newest run on this space; empty when it was never run."""
        run = latest_run(self.warehouse.catalogue, analyzer, self.space, facets)
        return {} if run is None else run.notes

    def portable(self, path: str | Path) -> str:
        """Return how a file is recorded: from the warehouse on where it lies inside, else its absolute path.

        For `resolve`: a path as it was typed means another file when it is read from another folder. What is not there
        stays as it was typed, for the error that reading it gives.
        """
        if not self._found(path).is_file():
            return str(path)
        found, root = self._found(path).absolute(), self.warehouse.root.absolute()
        return found.relative_to(root).as_posix() if found.is_relative_to(root) else str(found)

    def file(self, path: str | Path) -> Path:
        """Return the path of a file that the analysis is about to read, and note it with its content as an input.

        Args:
            path: as `portable` gave it, or as it was typed.
        """
        self._read("file", self.portable(path))
        return self._found(path)

    def _found(self, path: str | Path) -> Path:
        inside = self.warehouse.root / path
        return inside if inside.is_file() else Path(path)

    # -- for the record ----------------------------------------------------------------------------------------

    def note(self, **figures: Any) -> None:
        """Keep figures about the run as a whole, e.g. calibrated thresholds; anything that JSON can hold."""
        self.notes.update(figures)

    def inputs(self) -> list[Input]:
        """Return everything that was read, with its state when it was first read."""
        return list(self._inputs.values())

    def _read(self, kind: str, name: str) -> None:
        """Note an input before it is read: what changes while the analysis computes makes its result stale."""
        if (kind, name) not in self._inputs:
            self._inputs[kind, name] = current_input(self.warehouse.catalogue, kind, name)
