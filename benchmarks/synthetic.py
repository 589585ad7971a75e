"""Synthetic warehouses: random sparse codes through the real shards and the real finalising.

Values are exponential with random mantissas, near the worst case for compression. Features are drawn like words,
probability ~ (rank + 20)^-0.8 with ranks dealt out at random, so the most frequent is on about one image in six. In
patch spaces an image has a palette of 256 features, and each token takes its own from it: neighbouring patches of a
picture have most of their features in common.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.timing import say
from glasshouse.plugins.manager import Plugins
from glasshouse.warehouse.extraction.finalise import finalise_space
from glasshouse.warehouse.extraction.rows import shard_rows
from glasshouse.warehouse.extraction.run import DEFAULT_BATCH_SIZE
from glasshouse.warehouse.extraction.shards import ShardFolder, ShardRecord
from glasshouse.warehouse.warehouse import Warehouse

PALETTE = 256
EMBEDDING = "vectors"
"""Name of the image embedding; random, of `EMBEDDING_WIDTH` coordinates, of all images."""
EMBEDDING_WIDTH = 384
Features = npt.NDArray[np.int32]


@dataclass(frozen=True)
class SpaceShape:
    """What a synthetic space holds: images × tokens × active features of `n_features`; `grid` for patch spaces."""

    name: str
    n_images: int
    n_active: int
    n_features: int
    grid: tuple[int, int] | None = None

    @property
    def n_tokens(self) -> int | None:
        """Tokens per image of a patch space, None otherwise."""
        return None if self.grid is None else self.grid[0] * self.grid[1]


CLS = SpaceShape("cls", 200_000, 64, 49_152)
PATCHES = SpaceShape("patches", 20_000, 32, 49_152, (7, 7))
SMALL_CLS = SpaceShape("cls", 2_000, 64, 4_096)
SMALL_PATCHES = SpaceShape("patches", 300, 32, 4_096, (7, 7))


class Setting:
    """What benchmarks share: a scratch folder, the sizes, and the synthetic warehouse, made when first asked for."""

    def __init__(self, scratch: Path, *, quick: bool) -> None:
        self.scratch = scratch
        self.quick = quick
        self.repeats = 1 if quick else 3
        self.shapes = (SMALL_CLS, SMALL_PATCHES) if quick else (CLS, PATCHES)

    @cached_property
    def warehouse(self) -> Warehouse:
        """A warehouse with the spaces of `shapes`, not finalised yet where `finalise` was not called."""
        warehouse = Warehouse.create(self.scratch / "synthetic.glasshouse", Plugins(external=False))
        write_images(warehouse, max(shape.n_images for shape in self.shapes))
        for number, shape in enumerate(self.shapes):
            say(f"  writing the shards of {shape.name}: {shape.n_images:,} images")
            register(warehouse, shape)
            shards = ShardFolder(self._master(shape), shape.name)
            for table, record in batches(shape, seed=number):
                shards.write(table, record)
        return warehouse

    def _master(self, shape: SpaceShape) -> Path:
        return self.scratch / f"shards-{shape.name}"

    def shards(self, shape: SpaceShape) -> ShardFolder:
        """The shards of a space as an extraction leaves them; finalising uses them up, so they are hard links."""
        target = self.warehouse.layout.shard_folder("space", shape.name)
        target.mkdir(parents=True, exist_ok=True)
        for file in self._master(shape).glob("*.parquet"):
            if not (target / file.name).exists():
                os.link(file, target / file.name)
        return ShardFolder(target, shape.name)

    def finalise(self, shape: SpaceShape, shards: ShardFolder) -> None:
        """Finalise a space as an extraction does."""
        has_tokens = shape.grid is not None
        finalise_space(self.warehouse.layout, shape.name, shape.name, shape.n_features, shards, has_tokens=has_tokens)

    @cached_property
    def ready(self) -> Warehouse:
        """The warehouse with every space finalised."""
        for shape in self.shapes:
            if not self.warehouse.layout.space_file(shape.name).exists():
                self.finalise(shape, self.shards(shape))
        return self.warehouse

    @cached_property
    def embedded(self) -> Warehouse:
        """The warehouse with every space finalised and an image embedding, for analyses."""
        say(f"  writing the embedding: {EMBEDDING_WIDTH} coordinates for each image")
        n_images = self.ready.images().height
        vectors_ne = np.random.default_rng(1).normal(0.3, 1, (n_images, EMBEDDING_WIDTH)).astype(np.float32)
        self.ready.import_embeddings(EMBEDDING, vectors_ne, list(range(n_images)))
        return self.ready


def batches(shape: SpaceShape, seed: int) -> Iterator[tuple[pa.Table, ShardRecord]]:
    """Yield the shards of a space, one per batch of images, as an extraction would write them."""
    rng = np.random.default_rng(seed)
    cumulative_f = _cumulative(shape.n_features)
    feature_of_rank = rng.permutation(shape.n_features).astype(np.int32)
    for start in range(0, shape.n_images, DEFAULT_BATCH_SIZE):
        ids_b = np.arange(start, min(start + DEFAULT_BATCH_SIZE, shape.n_images))
        feature_nk = np.sort(feature_of_rank[_ranks(rng, shape, cumulative_f, len(ids_b))], axis=1)
        row_nk = np.broadcast_to(np.arange(len(feature_nk))[:, None], feature_nk.shape)
        value_nk = rng.standard_exponential(feature_nk.shape, dtype=np.float32) + np.float32(1e-6)
        flat = (row_nk.reshape(-1), feature_nk.reshape(-1), value_nk.reshape(-1))
        table = shard_rows(*flat, ids_b, shape.n_tokens, shape.n_features)
        yield table, ShardRecord(shape.name, ids_b.tolist())


def _cumulative(n_features: int) -> npt.NDArray[np.float64]:
    weights = (np.arange(n_features) + 20.0) ** -0.8
    cumulative_f: npt.NDArray[np.float64] = np.cumsum(weights) / weights.sum()
    return cumulative_f


def _ranks(
    rng: np.random.Generator, shape: SpaceShape, cumulative_f: npt.NDArray[np.float64], n_images: int
) -> npt.NDArray[np.int64]:
    """Different ranks of popularity for each vector: [images × tokens, active features]."""
    if shape.n_tokens is None:
        return _distinct(rng, cumulative_f, n_images, shape.n_active)
    palette_bp = _distinct(rng, cumulative_f, n_images, PALETTE)
    lots_btp = rng.random((n_images, shape.n_tokens, PALETTE), dtype=np.float32)
    drawn_btk = np.argpartition(lots_btp, shape.n_active, axis=2)[:, :, : shape.n_active]
    return np.take_along_axis(palette_bp[:, None, :], drawn_btk, axis=2).reshape(-1, shape.n_active)


def _distinct(
    rng: np.random.Generator, cumulative_f: npt.NDArray[np.float64], n_rows: int, n_drawn: int
) -> npt.NDArray[np.int64]:
    """Draw for each row; what comes twice in a row is drawn again."""
    rank_nk = np.searchsorted(cumulative_f, rng.random((n_rows, n_drawn)))
    while True:
        rank_nk.sort(axis=1)
        twice = np.zeros(rank_nk.shape, dtype=bool)
        twice[:, 1:] = rank_nk[:, 1:] == rank_nk[:, :-1]
        if not twice.any():
            return rank_nk
        rank_nk[twice] = np.searchsorted(cumulative_f, rng.random(int(twice.sum())))


def write_images(warehouse: Warehouse, n_images: int) -> None:
    """Record images that exist in the catalogue only."""
    with warehouse.catalogue.writing() as connection:
        connection.execute(
            "INSERT INTO images SELECT i, sha256('synthetic ' || i), "
            "format('pictures/{:03d}/{:07d}.jpg', i // 1000, i), "
            "640, 480, 'JPEG', 'RGB', 100_000, random(), random(), random() / 10 FROM range($n) AS r(i)",
            {"n": n_images},
        )
        connection.execute(
            "INSERT INTO image_paths SELECT path, image_id, NULL, NULL, byte_count, NULL, 'pictures' FROM images"
        )


def register(warehouse: Warehouse, shape: SpaceShape) -> None:
    """Record a space that an extraction is about to fill."""
    rows, columns = shape.grid or (None, None)
    with warehouse.catalogue.writing() as connection:
        connection.execute(
            "INSERT INTO spaces BY NAME SELECT $name AS name, $name AS fingerprint, $tokens AS tokens, "
            "$n_features AS n_features, $rows AS grid_rows, $columns AS grid_columns, 'extracting' AS state, "
            "0 AS n_images, 0 AS n_activations, now() AT TIME ZONE 'UTC' AS created_at",
            {
                "name": shape.name,
                "tokens": "cls" if shape.grid is None else "patches",
                "n_features": shape.n_features,
                "rows": rows,
                "columns": columns,
            },
        )
