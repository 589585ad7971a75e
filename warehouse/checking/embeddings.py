"""Checks of the image embeddings: the catalogue's record against LanceDB and the shards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from glasshouse.schema.errors import WarehouseError
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.checking.problems import Problem
from glasshouse.warehouse.extraction.finalise import finalise_embedding
from glasshouse.warehouse.extraction.locks import exclusive
from glasshouse.warehouse.extraction.shards import ShardFolder
from glasshouse.warehouse.extraction.targets import EmbeddingTarget
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.vectors import VectorStore


def embedding_problems(layout: Layout, *, hashes: bool) -> Iterator[Problem]:
    """Yield what is wrong with finished embeddings; with `hashes` every vector is read."""
    store = VectorStore(layout.vectors)
    tables = set(store.names())
    with Catalogue(layout.root).reading() as connection:
        names = {str(row[0]) for row in connection.execute("SELECT name FROM embeddings").fetchall()}
        rows = connection.execute(
            "SELECT name, fingerprint, width, n_images FROM embeddings WHERE state = 'ready' ORDER BY name"
        ).fetchall()
    for name, fingerprint, width, n_images in rows:
        yield from _problems_of(layout, store, EmbeddingTarget(name, fingerprint, width), n_images, hashes=hashes)
    for name in sorted(tables - names):
        where = f"vectors/{name}.lance"
        yield Problem(where, "belongs to no embedding of the catalogue", "move or remove it yourself")


def _problems_of(
    layout: Layout, store: VectorStore, target: EmbeddingTarget, n_images: int, *, hashes: bool
) -> Iterator[Problem]:
    where = f"embedding '{target.name}'"
    shards = ShardFolder(layout.shard_folder("embedding", target.name), target.fingerprint)
    if target.name not in store.names():
        remedy = "marked as not embedded; run its `glasshouse embed` or `import` again"
        yield Problem(where, "its vectors are missing", remedy, partial(_record, layout, target.name, 0))
        return
    try:
        found = len(store.read(target.name).image_ids) if hashes else len(store.image_ids(target.name))
    except WarehouseError:
        remedy = "removed and marked as not embedded; run its `glasshouse embed` or `import` again"
        yield Problem(where, "its vectors are damaged", remedy, partial(_discard, layout, store, target.name))
        return
    if found != n_images:
        what = f"the catalogue says {n_images} images, LanceDB has {found}"
        remedy = "the catalogue now says what LanceDB has"
        yield Problem(where, what, remedy, partial(_record, layout, target.name, found))
    elif shards.files():
        what = f"{len(shards.files())} shards wait to be stored"
        yield Problem(where, what, "stored", partial(_finish, layout, target, shards))


def _finish(layout: Layout, target: EmbeddingTarget, shards: ShardFolder) -> None:
    with exclusive([layout.lock_file("embedding", target.name)]):
        finalise_embedding(layout, target, shards)


def _discard(layout: Layout, store: VectorStore, name: str) -> None:
    store.drop(name)
    _record(layout, name, 0)


def _record(layout: Layout, name: str, n_images: int) -> None:
    with Catalogue(layout.root).writing() as connection:
        connection.execute(
            "UPDATE embeddings SET n_images = $n, state = CASE WHEN $n > 0 THEN 'ready' ELSE 'extracting' END "
            "WHERE name = $name",
            {"n": n_images, "name": name},
        )
