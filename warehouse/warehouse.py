"""`Warehouse`: the Python door, for notebooks and for the command line alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from glasshouse.schema.errors import UsageError, WarehouseError, unknown_name
from glasshouse.warehouse import surface
from glasshouse.warehouse.catalogue import check_version, migrate
from glasshouse.warehouse.contracts import Encoder, PluginSet, SparseAutoencoder, TokenPolicy
from glasshouse.warehouse.dropping import drop
from glasshouse.warehouse.layout import Layout, find_warehouse
from glasshouse.warehouse.results.records import Run
from glasshouse.warehouse.results.store import forget
from glasshouse.warehouse.search.door import WarehouseSearch

if TYPE_CHECKING:
    import pyarrow as pa

    from glasshouse.warehouse.extraction.extract import ExtractReport
    from glasshouse.warehouse.importing.store import ImportReport
    from glasshouse.warehouse.importing.tables import ImageKey
    from glasshouse.warehouse.intake.report import AddReport

SpaceSpec = tuple[str, str, TokenPolicy, "str | SparseAutoencoder"]
"""Name, hook point, token policy, SAE (a spec or a loaded one)."""

NEW_PREFIX = ".catalog.new-"
"""Start of the name of a catalogue that is being created."""

Progress = Callable[[int, "int | None"], None]
Paths = Sequence[str | Path]


class Warehouse(WarehouseSearch):
    """A folder with images' features and embeddings. Reads are inherited; writes are short and open their own door.

    Nothing is locked while a `Warehouse` merely exists, so a notebook can keep one.

    Args:
        root: the warehouse's folder.
        plugins: what loads encoders, SAEs and sources by their names; None when only loaded objects are handed in.

    Raises:
        WarehouseError: no warehouse, or one that a newer glasshouse wrote.
    """

    def __init__(self, root: str | Path, plugins: PluginSet | None = None) -> None:
        super().__init__(Layout(Path(root)), plugins)
        with self.catalogue.reading() as connection:
            current = check_version(connection, self.layout.catalogue)
        if not current:
            migrate(self.layout.catalogue)

    @classmethod
    def create(cls, root: str | Path, plugins: PluginSet | None = None) -> Warehouse:
        """Create a warehouse in a new or empty folder, and open it.

        Raises:
            WarehouseError: the folder has something else in it, or cannot be written.
        """
        layout = Layout(Path(root))
        if "?" in str(layout.root.absolute()):
            raise WarehouseError(
                f"{root}: DuckDB cannot open files below a folder with '?' in its name. Choose another."
            )
        if layout.catalogue.exists():
            raise WarehouseError(f"{root} is a warehouse already. Add images with `glasshouse add FOLDER -w {root}`.")
        try:
            if layout.root.exists() and not all(path.name.startswith(NEW_PREFIX) for path in layout.root.iterdir()):
                raise WarehouseError(
                    f"{root} exists and is no empty folder. Choose another name, e.g. {layout.root.name}.glasshouse."
                )
            layout.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WarehouseError(f"Cannot create {root}: {error.strerror or error}.") from error
        # Under another name until it is whole: a killed creation must not leave half a catalogue.
        for left in layout.root.glob(f"{NEW_PREFIX}*"):
            left.unlink()
        new = layout.root / f"{NEW_PREFIX}{os.getpid()}"
        migrate(new)
        new.replace(layout.catalogue)
        surface.write_attach_sql(layout)
        return cls(root, plugins)

    @classmethod
    def open(cls, root: str | Path | None = None, plugins: PluginSet | None = None) -> Warehouse:
        """Open a warehouse: the one given, else $GLASSHOUSE, else the only `*.glasshouse` folder here."""
        return cls(find_warehouse(None if root is None else str(root)), plugins)

    def _prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        if self.plugins is not None:
            self.plugins.prepare_connection(connection, self)

    def add(
        self,
        paths: Paths = (),
        *,
        ratings: Paths = (),
        captions: Paths = (),
        labels: Paths = (),
        annotations: Paths = (),
        image_column: str | None = None,
        image_root: str | Path | None = None,
        progress: Progress | None = None,
    ) -> AddReport:
        """Add images and tables that speak of them; the same call again changes nothing.

        Args:
            paths: folders, images, tables, COCO files, webdataset tars, URLs.
            ratings: tables of ratings, wide or long.
            captions: tables of captions, or COCO captions.
            labels: tables of classes or attributes.
            annotations: COCO instances.
            image_column: the column of tables that names the images, instead of finding it.
            image_root: the folder that file names in tables start from, instead of finding it.
            progress: told (images done, images in all).

        Raises:
            SourceError: a path is not there or cannot be read at all. Single bad files and rows are in the report.
        """
        from glasshouse.warehouse.intake.add import add
        from glasshouse.warehouse.intake.records import ReadOptions

        options = ReadOptions(image_column=image_column, image_root=None if image_root is None else str(image_root))
        return add(
            self.root,
            paths,
            self._need_plugins("add").source_list(),
            ratings=ratings,
            captions=captions,
            labels=labels,
            annotations=annotations,
            options=options,
            progress=progress,
        )

    def extract(
        self,
        encoder: str | Encoder,
        spaces: Sequence[SpaceSpec] = (),
        embedding: str | None = None,
        *,
        keep: int | Sequence[int | None] | None = None,
        batch_size: int = 64,
        workers: int | None = None,
        device: str = "cpu",
        stop: Callable[[], bool] = lambda: False,
        progress: Progress = lambda done, total: None,
    ) -> ExtractReport:
        """Extract what spaces and an embedding of one encoder lack, in one forward pass per image.

        Args:
            encoder: a spec, or a loaded encoder.
            spaces: (name, hook, token policy, SAE spec or loaded SAE) of each.
            embedding: name for the encoder's image embedding; None for none.
            keep: how many of its strongest images are kept of each feature, beside statistics and a histogram over
                all images; None keeps every activation. One number for all spaces, or one for each.
            batch_size: images per forward pass.
            workers: threads that decode pictures.
            device: `cpu` or `cuda`, for specs.
            stop: asked after every batch; what is computed by then is kept for the next call.
            progress: told (images done, images in all).

        Raises:
            UsageError: unknown names, hooks or policies, or a space that keeps another number of images.
            ModelError: a model that cannot be loaded or does not fit.
        """
        from glasshouse.warehouse.extraction.extract import extract
        from glasshouse.warehouse.extraction.targets import SpaceRequest

        if isinstance(encoder, str):
            encoder = self.load_encoder(encoder, device)
        keeps = [keep] * len(spaces) if keep is None or isinstance(keep, int) else list(keep)
        if len(keeps) != len(spaces):
            raise UsageError(f"keep names {len(keeps)} numbers for {len(spaces)} spaces. Give one, or one for each.")
        requests = [
            SpaceRequest(name, hook, tokens, self._load_sae(sae, encoder.device), number)
            for (name, hook, tokens, sae), number in zip(spaces, keeps, strict=True)
        ]
        return extract(
            self.layout,
            encoder,
            requests,
            embedding,
            batch_size=batch_size,
            workers=workers,
            stop=stop,
            progress=progress,
        )

    def _load_sae(self, sae: str | SparseAutoencoder, device: str) -> SparseAutoencoder:
        return self._need_plugins("an SAE by its spec").load_sae(sae, device) if isinstance(sae, str) else sae

    def import_features(
        self,
        name: str,
        activations: Any,
        images: Sequence[ImageKey] | None = None,
        *,
        n_features: int | None = None,
        source: str = "python",
    ) -> ImportReport:
        """Make a space of activations computed elsewhere.

        Args:
            name: of the space.
            activations: an array or scipy sparse matrix [n, F], or an Arrow table (image, feature, value); numbers in
                the table's image column are names unless it is called `image_id`.
            images: for a matrix: what names the image of each row, a path, file name, stem, SHA-256 or image_id (int).
            n_features: F, when the form does not say it.
            source: what rows that cannot be used are filed under, in `rejected_rows`.
        """
        from glasshouse.warehouse.importing.store import import_features
        from glasshouse.warehouse.importing.tables import FeatureTable, features_of_arrow, features_of_matrix

        if isinstance(activations, FeatureTable):
            table = activations
        elif images is None:
            table = features_of_arrow(_arrow_table(activations), source)
        else:
            table = features_of_matrix(images, activations)
        return import_features(self.layout, name, table, source, n_features)

    def import_embeddings(
        self, name: str, vectors: Any, images: Sequence[ImageKey] | None = None, *, source: str = "python"
    ) -> ImportReport:
        """Make an embedding of vectors computed elsewhere.

        Args:
            name: of the embedding.
            vectors: an array [n, E], or an Arrow table (image, vector).
            images: for an array: what names the image of each row, as in `import_features`.
            source: what rows that cannot be used are filed under.
        """
        from glasshouse.warehouse.importing.store import import_embeddings
        from glasshouse.warehouse.importing.tables import VectorTable, vectors_of_array, vectors_of_arrow

        if isinstance(vectors, VectorTable):
            table = vectors
        elif images is None:
            table = vectors_of_arrow(_arrow_table(vectors), source)
        else:
            table = vectors_of_array(images, vectors)
        return import_embeddings(self.layout, name, table, source)

    def analyze(self, name: str, *spaces: str, force: bool = False, **parameters: Any) -> list[Any]:
        """Run an analysis and what it requires: `warehouse.analyze("monosemanticity", "cls", variant="all")`.

        Args:
            name: of the analyzer; `glasshouse analyze --help` lists them.
            *spaces: names of finished spaces; all of them that it fits when none is named.
            force: compute it although an identical result is there.
            **parameters: of the analyzer; those left out have their defaults.

        Returns:
            A report for each analysis and space: its `run`, and whether it `is_new`, or why a space that was not named
            is `left_out`. The rows are in the analyzer's
            view: `warehouse.sql("FROM monosemanticity")`.

        Raises:
            UsageError: unknown names, parameters out of range, or what the analysis needs is not there.
            PluginError: the analyzer failed; nothing of it is stored.
        """
        plugins = self._need_plugins("analyze")
        return list(plugins.analyze(self, name, spaces, parameters, force=force))

    def forget(self, runs: Sequence[Run]) -> None:
        """Remove runs of analyses with their rows and vectors."""
        forget(self.layout, runs)

    def require(self, kind: str, name: str) -> None:
        """Check that a space or an embedding of this name is recorded; `kind` is `space` or `embedding`.

        Raises:
            UsageError: it is not.
        """
        query = {"space": "SELECT name FROM spaces", "embedding": "SELECT name FROM embeddings"}[kind]
        with self.catalogue.reading() as connection:
            names = [str(row[0]) for row in connection.execute(query).fetchall()]
        if name not in names:
            raise unknown_name(kind, name, names)

    def drop(self, kind: str, name: str) -> None:
        """Remove a space or an embedding and everything that was extracted for it."""
        self.require(kind, name)
        self.close()
        drop(self.layout, kind, name)


def _arrow_table(data: Any) -> pa.Table:
    """Take anything that speaks Arrow's interface: pyarrow, polars, pandas, DuckDB results."""
    import pyarrow as pa

    if isinstance(data, pa.Table):
        return data
    try:
        return pa.table(data)
    except (TypeError, pa.ArrowException) as error:
        raise UsageError(f"Give an Arrow table, or an array together with `images` ({error}).") from error
