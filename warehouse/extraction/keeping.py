"""Which rows a space with `keep` still needs: those that can be among a feature's N strongest images.

A row is dropped when N images of the space's file beat it, or N of its own batch. So a shard relies on nothing but the
file that was there when it was written, and says on how many images that stood. When shards have grown as large as
`FOLD_BYTES` they are folded into the file, which raises what new rows must beat: what is on disk does not grow with the
number of images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.extraction.rows import BEYOND_TOP, NOT_POOLED
from glasshouse.warehouse.extraction.shards import ShardFolder, ShardRecord
from glasshouse.warehouse.space_file import space_file

FOLD_BYTES = 16 << 20
"""Size of a space's shards at which they go into its file, unless that is larger itself."""

Keys = npt.NDArray[np.uint64]


def place_keys(value_n: npt.NDArray[np.float32], image_n: npt.NDArray[np.integer]) -> Keys:
    """Return a number for each row of a feature that is larger for the stronger; of equal values, for the lower image.

    Values are above 0, where the bits of a float32 are in the order of the numbers.
    """
    bits_n = np.ascontiguousarray(value_n, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return (bits_n << np.uint64(32)) | (np.uint64(2**32 - 1) - image_n.astype(np.uint64))


class Keeper:
    """What new rows of a space have to beat.

    Args:
        file: of the space; it need not be there yet.
        keep: N.
        n_features: F.

    Attributes:
        keep: N.
        n_behind: images of the file, which the floors come from.
        n_folded: images that went into the file since.
        spent: records of the shards that went there, for their failures.
    """

    def __init__(self, file: Path, keep: int, n_features: int) -> None:
        self.keep = keep
        self.n_folded = 0
        self.spent: list[ShardRecord] = []
        self._file = file
        self._n_features = n_features
        self.refresh()

    def refresh(self) -> None:
        """Take the floors from the file as it is now: the place key of each feature's N-th image, 0 below N images."""
        self.n_behind = 0
        self._floor_f = np.zeros(self._n_features, dtype=np.uint64)
        if not self._file.exists():
            return
        with space_file(self._file) as connection:
            row = connection.execute("SELECT count(*) FROM space_images").fetchone()
            found = connection.execute(read_sql("queries/kept_floors.sql"), {"keep": self.keep}).fetchnumpy()
        self.n_behind = int(row[0]) if row else 0
        self._floor_f[found["feature_id"]] = place_keys(found["value"], found["image_id"])

    def kept(self, rows: pa.Table) -> pa.Table:
        """Return the rows of one batch, of `ROW_SCHEMA`, that can be among the N strongest images of their feature.

        None has the rank of an image's top feature: those are not kept.
        """
        image_r, feature_r, value_r, rank_r = (
            rows[name].to_numpy() for name in ("image_id", "feature_id", "value", "rank")
        )
        pooled = np.flatnonzero(rank_r != NOT_POOLED)
        key_p = place_keys(value_r[pooled], image_r[pooled])
        is_above_p = key_p > self._floor_f[feature_r[pooled]]
        pooled, key_p = pooled[is_above_p], key_p[is_above_p]
        pooled = pooled[_among_first(feature_r[pooled], key_p, self.keep)]
        kept_r = np.zeros(len(rank_r), dtype=bool)
        kept_r[pooled] = True
        new_rank_r = np.where(kept_r, BEYOND_TOP, NOT_POOLED).astype(np.int8)
        if len(pooled) and rows["token"].null_count == 0:
            image_ids, place_r = np.unique(image_r, return_inverse=True)
            pair_r = place_r * self._n_features + feature_r
            is_kept = np.zeros(len(image_ids) * self._n_features, dtype=bool)
            is_kept[pair_r[pooled]] = True
            kept_r = is_kept[pair_r]
        column = rows.schema.get_field_index("rank")
        rows = rows.set_column(column, rows.schema.field("rank"), pa.array(new_rank_r))
        return rows.filter(pa.array(kept_r))

    def is_due(self, shards: ShardFolder) -> bool:
        """Say whether the shards have grown enough to be folded into the file."""
        return shards.n_bytes() >= enough_to_fold(self._file)


def enough_to_fold(file: Path) -> int:
    """Return how many bytes of shards are folded into a space's file: as many as it has, since it is sorted anew."""
    return max(FOLD_BYTES, file.stat().st_size if file.exists() else 0)


def _among_first(feature_p: npt.NDArray[np.int32], key_p: Keys, keep: int) -> npt.NDArray[np.bool_]:
    """Say which rows are among the `keep` of the highest keys of their feature."""
    if len(feature_p) == 0 or np.bincount(feature_p).max() <= keep:
        return np.ones(len(feature_p), dtype=bool)
    order = np.lexsort((~key_p, feature_p))
    sorted_p = feature_p[order]
    within = np.arange(len(order)) - np.searchsorted(sorted_p, sorted_p)
    is_first = np.empty(len(order), dtype=bool)
    is_first[order] = within < keep
    return is_first


def remove_unsound(shards: ShardFolder, keep: int, known: set[int]) -> list[Path]:
    """Remove shards whose rows were chosen by a file that is not there any more; their images are then missing.

    That is so where the file was damaged and set aside, or another one was put in its place. Shards that are in the
    file already are left: finalising knows them.

    Args:
        shards: of the space.
        keep: N.
        known: images of the space's file.

    Returns:
        The shards that were removed.
    """
    removed = []
    for file, record in shards.entries():
        n_known = len(known.intersection(record.images))
        if record.images and n_known == len(record.images):
            continue
        stands = record.n_behind in (0, len(known)) and n_known == 0
        if record.keep != keep or not stands or not shards.has_summary(file):
            shards.remove(file)
            removed.append(file)
    return removed
