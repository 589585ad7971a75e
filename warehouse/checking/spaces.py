"""Checks of the feature spaces: the catalogue's record against the file and the shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import duckdb

from glasshouse.warehouse.catalogue import Catalogue, first_line
from glasshouse.warehouse.checking.problems import Problem
from glasshouse.warehouse.extraction.finalise import finalise_space
from glasshouse.warehouse.extraction.locks import exclusive
from glasshouse.warehouse.extraction.recording import record_space
from glasshouse.warehouse.extraction.shards import ShardFolder
from glasshouse.warehouse.extraction.targets import kept_words
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.quoting import identifier
from glasshouse.warehouse.space_file import keep_of, space_file

SPACE_TABLES = ("space", "space_images", "activations", "token_activations", "image_top_features", "feature_stats")


@dataclass(frozen=True)
class _Record:
    """The catalogue's record of a space that has a file."""

    name: str
    fingerprint: str
    n_features: int
    n_images: int
    n_activations: int
    has_tokens: bool
    keep: int | None
    is_ready: bool

    def shards(self, layout: Layout) -> ShardFolder:
        return ShardFolder(layout.shard_folder("space", self.name), self.fingerprint)


def space_problems(layout: Layout, *, hashes: bool) -> Iterator[Problem]:
    """Yield what is wrong with files of spaces; shards under way are nobody's problem. `hashes` reads every value."""
    with Catalogue(layout.root).reading() as connection:
        names = {str(row[0]) for row in connection.execute("SELECT name FROM spaces").fetchall()}
        rows = connection.execute(
            "SELECT name, fingerprint, n_features, n_images, n_activations, tokens = 'patches', keep, state = 'ready' "
            "FROM spaces ORDER BY name"
        ).fetchall()
    for record in (_Record(*row) for row in rows):
        # An extraction that keeps the strongest images only has a file before it is ready: what it was folded into.
        if record.is_ready or (record.keep is not None and layout.space_file(record.name).is_file()):
            yield from _problems_of(layout, record, hashes=hashes)
    for file in sorted(layout.spaces.glob("*.duckdb")):
        if file.stem not in names:
            yield Problem(f"file {file}", "belongs to no space of the catalogue", "move or remove it yourself")


def _problems_of(layout: Layout, record: _Record, *, hashes: bool) -> Iterator[Problem]:
    where = f"space '{record.name}'"
    found = _inspect(layout, record, hashes=hashes)
    if isinstance(found, str):
        remedy = "marked as not extracted; run its `glasshouse extract` or `import` again"
        yield Problem(where, found, remedy, partial(_forget, layout, record.name))
    elif not record.is_ready:
        return
    elif found != (record.n_images, record.n_activations):
        what = (
            f"the catalogue says {record.n_images} images and {record.n_activations} activations, the file has "
            f"{found[0]} and {found[1]}"
        )
        yield Problem(where, what, "the catalogue now says what the file has", partial(_record, layout, record))
    elif record.shards(layout).files():
        what = f"{len(record.shards(layout).files())} shards wait to be finalised"
        yield Problem(where, what, "finalised", partial(_finish, layout, record))


def _inspect(layout: Layout, record: _Record, *, hashes: bool) -> tuple[int, int] | str:
    """Return the numbers of images and activations in a space's file, or what is wrong with it."""
    file = layout.space_file(record.name)
    if not file.is_file():
        return f"its file {file} is missing"
    try:
        with space_file(file) as connection:
            row = connection.execute(
                "SELECT (SELECT fingerprint FROM space), (SELECT count(*) FROM space_images), "
                "(SELECT count(*) FROM activations)"
            ).fetchone()
            keep = keep_of(connection)
            # Files of older versions lack the histograms.
            tables = SPACE_TABLES if record.keep is None else (*SPACE_TABLES, "feature_histograms")
            for table in tables if hashes else ():
                # DuckDB compares each block with its checksum as it reads it.
                connection.execute(f"SELECT bit_xor(hash(rows)) FROM {identifier(table)} AS rows").fetchall()
    except duckdb.Error as error:
        return f"its file {file} cannot be read: {first_line(error)}"
    if row is None or row[0] != record.fingerprint:
        return f"its file {file} was made from other weights than the catalogue says"
    if keep != record.keep:
        return f"its file {file} keeps {kept_words(keep)}, the catalogue says {kept_words(record.keep)}"
    return int(row[1]), int(row[2])


def _record(layout: Layout, record: _Record) -> None:
    with exclusive([layout.lock_file("space", record.name)]):
        record_space(layout, record.name, record.shards(layout).records())


def _finish(layout: Layout, record: _Record) -> None:
    with exclusive([layout.lock_file("space", record.name)]):
        shards = record.shards(layout)
        finalise_space(
            layout,
            record.name,
            record.fingerprint,
            record.n_features,
            shards,
            has_tokens=record.has_tokens,
            keep=record.keep,
        )


def _forget(layout: Layout, name: str) -> None:
    """Set the record back; a file that cannot be trusted is kept beside under another name."""
    file = layout.space_file(name)
    if file.exists():
        file.replace(file.with_name(f"{file.name}.damaged"))
    with Catalogue(layout.root).writing() as connection:
        connection.execute(
            "UPDATE spaces SET state = 'extracting', n_images = 0, n_activations = 0 WHERE name = $name",
            {"name": name},
        )
