"""Imported tables into shards, and from there through the same finalising as an extraction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glasshouse.schema.errors import SourceError, UsageError
from glasshouse.warehouse import surface
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.extraction.finalise import finalise_embedding, finalise_space, images_of
from glasshouse.warehouse.extraction.locks import exclusive
from glasshouse.warehouse.extraction.rows import ROW_SCHEMA, shard_rows
from glasshouse.warehouse.extraction.run import embedding_schema
from glasshouse.warehouse.extraction.shards import ShardFolder, ShardRecord, covered
from glasshouse.warehouse.extraction.targets import EmbeddingTarget, is_registered
from glasshouse.warehouse.importing.keys import ImageKey
from glasshouse.warehouse.importing.tables import FeatureTable, VectorTable
from glasshouse.warehouse.intake.add import load_joiner
from glasshouse.warehouse.intake.joining import Unjoined
from glasshouse.warehouse.intake.paths import encodable
from glasshouse.warehouse.intake.report import RowCounts
from glasshouse.warehouse.intake.storing import record_intake, replace_rows
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.quoting import check_name
from glasshouse.warehouse.vectors import VectorStore

IMAGES_PER_SHARD = 4096

MAX_CELLS_PER_SHARD = 1 << 28
"""Images times features of one shard: ranking takes twelve bytes for each."""

MAX_GUESSED_FEATURES = 10_000_000
"""Beyond it a highest feature is more likely a mistake than the width of an autoencoder."""

MAX_FEATURES = 2**31 - 1

Rejected = list[tuple[int, str, str]]
"""Row number (from 1), key and reason of what could not be used."""


@dataclass(frozen=True)
class ImportReport:
    """What an import did: images given, images of the warehouse that have rows now, what was rejected."""

    name: str
    n_given: int
    n_new: int
    n_rejected: int
    examples: list[str] = field(default_factory=list)


def import_features(
    layout: Layout, name: str, table: FeatureTable, source: str, n_features: int | None
) -> ImportReport:
    """Make a space of activations computed elsewhere.

    Args:
        layout: of the warehouse.
        name: of the space.
        table: the activations.
        source: what the rejected rows are filed under.
        n_features: F; the matrix's width or the highest feature plus one when None.

    Raises:
        UsageError: the name belongs to other activations, or a feature lies beyond `n_features`.
        SourceError: nothing of it can be used; then nothing is recorded.
    """
    check_name("a space", name)
    width = _width(table, n_features)
    image_b, rejected = _join(layout, table.keys)
    _require_some(bool((image_b >= 0).any()), "images", rejected)
    good_n, bad = _usable(table, image_b)
    _require_some(len(good_n) > 0 or not bad, "activations", bad)
    rejected += bad
    fingerprint = _digest(table.keys, width, table.row_n, table.feature_n, table.value_n)
    with exclusive([layout.lock_file("space", name)]):
        _register_space(layout, name, fingerprint, source, width)
        shards = ShardFolder(layout.shard_folder("space", name), fingerprint)
        shards.sweep()
        known = images_of(layout.space_file(name)) | covered(shards.records())
        row_n, feature_n, value_n = table.row_n[good_n], table.feature_n[good_n], table.value_n[good_n]
        image_n = image_b[row_n]
        order = np.lexsort((feature_n, image_n))
        rows = (image_n[order], feature_n[order], value_n[order])
        _write_space_shards(shards, np.unique(image_b[image_b >= 0]), known, rows, width)
        n_new = finalise_space(layout, name, fingerprint, width, shards, has_tokens=False)
    surface.write_attach_sql(layout)
    return _report(layout, name, "features", source, table.keys, n_new, rejected)


def _width(table: FeatureTable, n_features: int | None) -> int:
    """Settle F; a width that nobody announced must be plausible, since every feature costs time and space."""
    if n_features is not None and not 1 <= n_features <= MAX_FEATURES:
        raise UsageError(f"There cannot be {n_features} features; from 1 to {MAX_FEATURES:,} are possible.")
    if not table.keys:
        raise SourceError("There is nothing to import: no image is named.")
    highest = int(table.feature_n.max(initial=-1))
    width = n_features or table.n_features or highest + 1
    if width < 1:
        raise SourceError(
            "There is nothing to import: no image has a feature. If that is right, say how many features there are "
            "(--n-features, in Python n_features=)."
        )
    if highest >= width:
        raise UsageError(f"Feature {highest} lies beyond the {width} features that were announced.")
    if n_features is None and width > MAX_GUESSED_FEATURES:
        raise SourceError(
            f"That would make {width:,} features, and more than {MAX_GUESSED_FEATURES:,} are probably a mistake. If it "
            "is right, say how many there are (--n-features, in Python n_features=)."
        )
    return width


def _require_some(is_some: bool, what: str, rejected: Rejected) -> None:
    """Stop an import of which nothing can be used before it takes a name."""
    if not is_some:
        row, key, reason = min(rejected)
        raise SourceError(
            f"None of the {what} can be used, so nothing was imported ({len(rejected):,} rejected; e.g. row {row}, "
            f"'{key}': {reason})."
        )


def _write_space_shards(
    shards: ShardFolder,
    images: npt.NDArray[np.int64],
    known: set[int],
    rows: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]],
    n_features: int,
) -> None:
    """Write rows, ordered by image and feature, a few thousand images at a time."""
    image_n, feature_n, value_n = rows
    n_per_shard = max(1, min(IMAGES_PER_SHARD, MAX_CELLS_PER_SHARD // n_features))
    for start in range(0, len(images), n_per_shard):
        block = images[start : start + n_per_shard]
        if known.issuperset(block.tolist()):
            continue
        begin, end = np.searchsorted(image_n, [block[0], block[-1] + 1])
        position = np.searchsorted(block, image_n[begin:end])
        table = shard_rows(position, feature_n[begin:end], value_n[begin:end], block, None, n_features)
        keep = [image for image in block.tolist() if image not in known]
        if len(keep) < len(block):
            import pyarrow.compute as pc

            table = table.filter(pc.is_in(table["image_id"], value_set=pa.array(keep, pa.int32())))
        shards.write(table.cast(ROW_SCHEMA), ShardRecord(shards.fingerprint, keep))


def import_embeddings(layout: Layout, name: str, table: VectorTable, source: str) -> ImportReport:
    """Make an embedding of vectors computed elsewhere.

    Raises:
        UsageError: the name belongs to other vectors.
        SourceError: none of the vectors can be used; then nothing is recorded.
    """
    check_name("an embedding", name)
    if not table.keys:
        raise SourceError("There is nothing to import: no image is named.")
    image_b, rejected = _join(layout, table.keys)
    sound_b = np.asarray(np.isfinite(table.vectors_ne).all(axis=1))
    rejected += [
        (int(row) + 1, str(table.keys[row]), "the vector has NaN or infinite entries")
        for row in np.flatnonzero((image_b >= 0) & ~sound_b)
    ]
    _require_some(bool(((image_b >= 0) & sound_b).any()), "vectors", rejected)
    width = table.vectors_ne.shape[1]
    target = EmbeddingTarget(name, _digest(table.keys, width, table.vectors_ne), width)
    with exclusive([layout.lock_file("embedding", name)]):
        _register_embedding(layout, target, source)
        shards = ShardFolder(layout.shard_folder("embedding", name), target.fingerprint)
        shards.sweep()
        known = VectorStore(layout.vectors).image_ids(name) | covered(shards.records())
        rows = [row for row in np.argsort(image_b) if image_b[row] >= 0 and sound_b[row] and image_b[row] not in known]
        schema = embedding_schema(width)
        for start in range(0, len(rows), IMAGES_PER_SHARD):
            block = rows[start : start + IMAGES_PER_SHARD]
            ids = image_b[block].astype(np.int32)
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(table.vectors_ne[block].reshape(-1)), width)
            shards.write(
                pa.table([pa.array(ids), vectors], schema=schema), ShardRecord(shards.fingerprint, ids.tolist())
            )
        n_new = finalise_embedding(layout, target, shards)
    return _report(layout, name, "embeddings", source, table.keys, n_new, rejected)


def _register_space(layout: Layout, name: str, fingerprint: str, source: str, n_features: int) -> None:
    with Catalogue(layout.root).writing() as connection:
        if not is_registered(connection, "space", name, fingerprint):
            connection.execute(
                "INSERT INTO spaces BY NAME SELECT $name AS name, $fingerprint AS fingerprint, "
                "'imported' AS tokens, $source AS sae_spec, $n_features AS n_features, 'extracting' AS state, "
                "0 AS n_images, 0 AS n_activations, now() AT TIME ZONE 'UTC' AS created_at",
                {"name": name, "fingerprint": fingerprint, "source": source, "n_features": n_features},
            )


def _register_embedding(layout: Layout, target: EmbeddingTarget, source: str) -> None:
    with Catalogue(layout.root).writing() as connection:
        if not is_registered(connection, "embedding", target.name, target.fingerprint):
            connection.execute(
                "INSERT INTO embeddings BY NAME SELECT $name AS name, $fingerprint AS fingerprint, "
                "$source AS encoder_spec, $width AS width, 'extracting' AS state, 0 AS n_images, "
                "now() AT TIME ZONE 'UTC' AS created_at",
                {"name": target.name, "fingerprint": target.fingerprint, "source": source, "width": target.width},
            )


def _join(layout: Layout, keys: Sequence[ImageKey]) -> tuple[npt.NDArray[np.int64], Rejected]:
    """Find each key's image_id, −1 where there is none; the second key of one image is rejected."""
    catalogue = Catalogue(layout.root)
    joiner = load_joiner(catalogue, layout.root)
    with catalogue.reading() as connection:
        counted = connection.execute("SELECT count(*) FROM images").fetchone()
    n_images = int(counted[0]) if counted else 0
    image_b = np.full(len(keys), -1, dtype=np.int64)
    rejected: Rejected = []
    first: dict[int, ImageKey] = {}
    for row, key in enumerate(keys):
        found = _by_id(key, n_images) if isinstance(key, int) else joiner.resolve(key)
        if isinstance(found, Unjoined):
            rejected.append((row + 1, encodable(str(key)), encodable(found.reason)))
        elif found in first:
            rejected.append((row + 1, str(key), f"this picture is given already, as '{first[found]}'"))
        else:
            first[found] = key
            image_b[row] = found
    return image_b, rejected


def _by_id(key: int, n_images: int) -> int | Unjoined:
    return key if 0 <= key < n_images else Unjoined(f"there is no image_id {key}")


def _usable(table: FeatureTable, image_b: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.intp], Rejected]:
    """Choose the activations that can be stored; zeros are no activations and no error either."""
    joined_n = image_b[table.row_n] >= 0
    sound_n = np.isfinite(table.value_n) & (table.value_n >= 0) & (table.feature_n >= 0)
    rejected: Rejected = [
        (
            int(n) + 1,
            str(table.keys[table.row_n[n]]),
            f"feature {table.feature_n[n]} has the value {table.value_n[n]}; features and values must not be negative, "
            "and values must be finite",
        )
        for n in np.flatnonzero(joined_n & ~sound_n)
    ]
    good = np.flatnonzero(joined_n & sound_n & (table.value_n > 0))
    pair_n = table.row_n[good] * (table.feature_n.max(initial=0) + 1) + table.feature_n[good]
    _, first = np.unique(pair_n, return_index=True)
    for n in np.setdiff1d(good, good[first]):
        rejected.append((int(n) + 1, str(table.keys[table.row_n[n]]), f"feature {table.feature_n[n]} is given twice"))
    return good[np.sort(first)], rejected


def _digest(keys: Sequence[ImageKey], width: int, *arrays: npt.NDArray[np.generic]) -> str:
    digest = hashlib.sha256(repr((width, list(keys))).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _report(
    layout: Layout, name: str, kind: str, source: str, keys: Sequence[ImageKey], n_new: int, rejected: Rejected
) -> ImportReport:
    """File what was rejected and count."""
    rejected.sort()
    rows = pa.table(
        {
            "kind": pa.array([kind] * len(rejected), pa.string()),
            "source": pa.array([source] * len(rejected), pa.string()),
            "row_number": pa.array([row for row, _, _ in rejected], pa.int64()),
            "key": pa.array([key for _, key, _ in rejected], pa.string()),
            "reason": pa.array([reason for _, _, reason in rejected], pa.string()),
        }
    )
    counts = RowCounts(source, kind, n_used=len(keys) - len({key for _, key, _ in rejected}))  # type: ignore[arg-type]
    counts.n_rejected = len(keys) - counts.n_used
    with Catalogue(layout.root).writing() as connection:
        replace_rows(connection, "rejected_rows", rows, "source = $source AND kind = $kind", source=source, kind=kind)
        record_intake(connection, counts)
    examples = [f"{key}: {reason}" for _, key, reason in rejected[:5]]
    return ImportReport(name, len(keys), n_new, len(rejected), examples)
