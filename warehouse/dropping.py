"""Removing a space or an embedding. The record goes first: what a crash leaves then is a leftover, not a lie."""

from __future__ import annotations

from glasshouse.warehouse import surface
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.extraction.finalise import sweep_temporary
from glasshouse.warehouse.extraction.locks import exclusive
from glasshouse.warehouse.extraction.shards import ShardFolder
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.results.store import all_runs, forget
from glasshouse.warehouse.vectors import VectorStore


def drop(layout: Layout, kind: str, name: str) -> None:
    """Remove record, data, shards and failures of a `space` or an `embedding`, and all results of a space.

    Raises:
        LockedError: it is being extracted right now.
    """
    delete = {
        "space": "DELETE FROM spaces WHERE name = $name",
        "embedding": "DELETE FROM embeddings WHERE name = $name",
    }[kind]
    with exclusive([layout.lock_file(kind, name)]):
        if kind == "space":
            forget(layout, [run for run in all_runs(Catalogue(layout.root)) if run.space == name])
        with Catalogue(layout.root).writing() as connection:
            connection.execute(delete, {"name": name})
            connection.execute("DELETE FROM failures WHERE source = $source", {"source": f"{kind} {name}"})
        surface.write_attach_sql(layout)
        ShardFolder(layout.shard_folder(kind, name), "").clear()
        if kind == "space":
            sweep_temporary(layout, name)
            layout.space_file(name).unlink(missing_ok=True)
        else:
            VectorStore(layout.vectors).drop(name)
