"""Checks for what interrupted writes left behind. A write that is under way now is left alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial

from glasshouse.schema.errors import LockedError
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.checking.problems import Problem
from glasshouse.warehouse.extraction.finalise import sweep_temporary
from glasshouse.warehouse.extraction.locks import exclusive
from glasshouse.warehouse.extraction.shards import TEMPORARY_PREFIX
from glasshouse.warehouse.layout import Layout


def leftover_problems(layout: Layout) -> Iterator[Problem]:
    """Yield temporary files and shard folders that belong to nothing."""
    with Catalogue(layout.root).reading() as connection:
        known = {
            str(row[0])
            for row in connection.execute(
                "SELECT 'space-' || name FROM spaces UNION ALL SELECT 'embedding-' || name FROM embeddings"
            ).fetchall()
        }
    for folder in sorted(layout.shards.glob("*/")):
        if folder.name.startswith(TEMPORARY_PREFIX):
            what = "left by an interrupted clean-up"
        elif folder.name not in known:
            what = "belongs to no space or embedding"
        else:
            continue
        yield Problem(f"folder {folder}", what, "removed", partial(shutil.rmtree, folder))
    for file in sorted(layout.spaces.glob("*.duckdb.tmp-*")):
        name = file.name.split(".duckdb.tmp-")[0]
        if not _is_busy(layout, name):
            what = "left by an interrupted finalising"
            yield Problem(f"file {file}", what, "removed", partial(sweep_temporary, layout, name))


def _is_busy(layout: Layout, name: str) -> bool:
    """Say whether a process holds the lock of a space."""
    try:
        with exclusive([layout.lock_file("space", name)], timeout=0):
            return False
    except LockedError:
        return True
