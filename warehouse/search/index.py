"""Vectors that are searched: concept vectors of a run, and image embeddings, as matrices in memory.

LanceDB holds the truth. Importing it takes longer than a search, so matrices of moderate size are also kept as plain
files under `cache/vectors`, each named after what it was read from; they can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glasshouse.warehouse.atomic import replacing
from glasshouse.warehouse.results.store import all_runs
from glasshouse.warehouse.search.encoders import EmbeddingRecord, embedding_records

if TYPE_CHECKING:
    from glasshouse.warehouse.results.records import Run
    from glasshouse.warehouse.search.door import WarehouseSearch

CONCEPTS = "concepts"
"""The analyzer whose vectors are searched."""

LARGEST_FILE = 256 * 2**20
"""Bytes of the largest matrix that is kept as a file beside LanceDB."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class VectorIndex:
    """Vectors that cosines are taken with.

    Attributes:
        ids: int32 [k] ascending, of features or images.
        vectors_ke: float32 [k, E], as they are stored.
        n_images: int32 [k], images behind each vector; 1 for images themselves.
    """

    ids: npt.NDArray[np.int32]
    vectors_ke: Floats
    n_images: npt.NDArray[np.int32]

    @cached_property
    def norms_k(self) -> Floats:
        """Lengths of the vectors [k]."""
        squares_k: Floats = np.einsum("ke,ke->k", self.vectors_ke, self.vectors_ke)
        return np.sqrt(squares_k, out=squares_k)

    def cosines(self, queries_qe: Floats) -> Floats:
        """Return the cosine of every vector with every query [q, k]; 0 where either has no length or is not finite."""
        if not len(self.ids):
            return np.zeros((len(queries_qe), 0), np.float32)
        lengths_q = np.linalg.norm(queries_qe, axis=1)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            cosines_qk = queries_qe @ self.vectors_ke.T
            cosines_qk /= self.norms_k[None, :]
            cosines_qk /= lengths_q[:, None]
        cosines_qk[~np.isfinite(cosines_qk)] = 0
        return cosines_qk

    def centred(self, centre_e: Floats) -> VectorIndex:
        """Return the same vectors less a centre [E]."""
        return VectorIndex(self.ids, self.vectors_ke - centre_e, self.n_images)

    def row_of(self, identity: int) -> int | None:
        """Return the row of a feature or image, or None when it has no vector."""
        row = int(np.searchsorted(self.ids, identity))
        return row if row < len(self.ids) and int(self.ids[row]) == identity else None


def concept_runs(warehouse: WarehouseSearch) -> list[Run]:
    """Return the runs of `concepts` that count, newest first; read anew when the catalogue has changed."""

    def read() -> list[Run]:
        runs = [run for run in all_runs(warehouse.catalogue) if run.analyzer == CONCEPTS and run.is_latest]
        return runs[::-1]

    return warehouse.catalogue.remembered("concept runs", read)


def concept_index(warehouse: WarehouseSearch, run: Run) -> VectorIndex:
    """Return the vectors of a run of `concepts`; kept in memory."""

    def read() -> VectorIndex:
        ids, vectors_ke = warehouse.result_vectors(run)
        rows = warehouse.result_rows(run).sort("feature_id")
        return VectorIndex(ids, vectors_ke, rows["n_images"].to_numpy().astype(np.int32))

    def build() -> VectorIndex:
        if run.vectors is None:
            return VectorIndex(np.zeros(0, np.int32), np.zeros((0, 0), np.float32), np.zeros(0, np.int32))
        return _through_a_file(warehouse, run.vectors, read)

    index: VectorIndex = _kept(warehouse, ("concepts", run.slot), run.run_id, build)
    return index


def image_index(warehouse: WarehouseSearch, record: EmbeddingRecord) -> VectorIndex:
    """Return the vectors of an image embedding; kept in memory until the embedding changes."""

    def read() -> VectorIndex:
        ids, vectors_ne = warehouse.embeddings(record.name)
        return VectorIndex(ids, vectors_ne, np.ones(len(ids), np.int32))

    def build() -> VectorIndex:
        return _through_a_file(warehouse, _image_file(record), read)

    index: VectorIndex = _kept(warehouse, ("images", record.name), record.state, build)
    return index


def _image_file(record: EmbeddingRecord) -> str:
    """Return the name of an embedding's plain file; another when the embedding has changed."""
    return "images-" + hashlib.sha256(f"{record.name}|{record.state}".encode()).hexdigest()[:32]


def centre_of(warehouse: WarehouseSearch, record: EmbeddingRecord) -> Floats:
    """Return the mean image embedding [E]; images whose vector is not finite are left out."""

    def build() -> Floats:
        vectors_ne = image_index(warehouse, record).vectors_ke
        is_whole_n = np.isfinite(vectors_ne).all(axis=1)
        mean_e: npt.NDArray[np.float64] = vectors_ne[is_whole_n].mean(axis=0, dtype=np.float64)
        return mean_e.astype(np.float32)

    centre_e: Floats = _kept(warehouse, ("centre", record.name), record.state, build)
    return centre_e


def centred_index(
    warehouse: WarehouseSearch, slot: Any, state: Any, index: VectorIndex, centre_e: Floats
) -> VectorIndex:
    """Return an index less a centre; kept in memory beside the index itself."""
    centred: VectorIndex = _kept(warehouse, ("centred", *slot), state, lambda: index.centred(centre_e))
    return centred


def _kept(warehouse: WarehouseSearch, slot: Any, state: Any, build: Callable[[], Any]) -> Any:
    """Return what is in memory for a slot, or build it when there is nothing, or something of another state."""
    memory = warehouse.searching
    with memory.lock:
        found = memory.matrices.get(slot)
        if found is None or found[0] != state:
            found = memory.matrices[slot] = (state, build())
    return found[1]


def _through_a_file(warehouse: WarehouseSearch, name: str, read: Callable[[], VectorIndex]) -> VectorIndex:
    """Return vectors from their plain files; where these are not there, from LanceDB, and write them."""
    folder = warehouse.root / "cache" / "vectors"
    keys_file, vectors_file = folder / f"{name}.keys.npy", folder / f"{name}.npy"
    try:
        keys_2k, vectors_ke = np.load(keys_file), np.load(vectors_file)
        if (keys_2k.dtype, vectors_ke.dtype) == (np.int32, np.float32) and keys_2k.shape == (2, len(vectors_ke)):
            return VectorIndex(keys_2k[0], vectors_ke, keys_2k[1])
    except (OSError, ValueError, EOFError):
        pass
    index = read()
    if index.vectors_ke.nbytes <= LARGEST_FILE:
        with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
            folder.mkdir(parents=True, exist_ok=True)
            _remove_strays(warehouse, folder)
            # The keys come last: without them the vectors do not count.
            _save(vectors_file, index.vectors_ke)
            _save(keys_file, np.stack([index.ids, index.n_images]))
    return index


def _save(file: Path, array: npt.NDArray[Any]) -> None:
    with replacing(file) as temporary, temporary.open("wb") as sink:
        np.save(sink, array)


def _remove_strays(warehouse: WarehouseSearch, folder: Path) -> None:
    """Remove files of runs that do not count any more, and of embeddings that have changed since."""
    known = {run.vectors for run in concept_runs(warehouse)}
    known |= {_image_file(record) for record in embedding_records(warehouse).values()}
    for file in folder.glob("*.npy"):
        if file.name.removesuffix(".npy").removesuffix(".keys") not in known:
            file.unlink(missing_ok=True)
