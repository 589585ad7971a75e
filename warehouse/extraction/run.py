"""The extraction loop: batches of images through the encoder once, each target's part of it into a shard.

Rules: batches are blocks of consecutive image ids, so that a run that was killed and resumed sees the same batches as
an undisturbed one and stores the same numbers; the catalogue is not open while computing; a shard is written beside
the next forward pass, at most two at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from glasshouse.warehouse.contracts import Encoder, ForwardResult
from glasshouse.warehouse.extraction.keeping import Keeper
from glasshouse.warehouse.extraction.loading import BatchLoader, LoadedBatch, StoredImage
from glasshouse.warehouse.extraction.rows import ROW_SCHEMA, shard_rows
from glasshouse.warehouse.extraction.self_test import SelfTest, self_test
from glasshouse.warehouse.extraction.shards import ShardFolder, ShardRecord
from glasshouse.warehouse.extraction.summaries import summarise
from glasshouse.warehouse.extraction.targets import EmbeddingTarget, SpaceTarget, Target

if TYPE_CHECKING:
    import torch

DEFAULT_BATCH_SIZE = 64
SELF_TEST_ROWS = 4096
"""Activation vectors that a self-test looks at: enough for two digits, quick at 49,152 features."""

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Work:
    """One target and the images that it lacks; a space that keeps the strongest images only has a `keeper`."""

    target: Target
    shards: ShardFolder
    missing: frozenset[int]
    wants_self_test: bool = False
    keeper: Keeper | None = None


@dataclass(frozen=True)
class RunReport:
    """What a run did: images through the encoder, failures, complaints of self-tests, whether it was stopped early."""

    n_images: int
    n_failed: int
    complaints: list[str]
    stopped: bool


def blocks_of(images: Sequence[StoredImage], wanted: frozenset[int], batch_size: int) -> list[list[StoredImage]]:
    """Cut the wanted images into blocks; a block holds ids from k·batch_size to (k+1)·batch_size."""
    blocks: dict[int, list[StoredImage]] = {}
    for image in images:
        if image.image_id in wanted:
            blocks.setdefault(image.image_id // batch_size, []).append(image)
    return [blocks[key] for key in sorted(blocks)]


def run(
    images: Sequence[StoredImage],
    encoder: Encoder,
    works: Sequence[Work],
    root: Path,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    workers: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress = lambda done, total: None,
    fold: Callable[[Work], None] = lambda work: None,
) -> RunReport:
    """Extract what is missing into shards.

    Args:
        images: all images of the catalogue.
        encoder: on its device.
        works: targets and what each lacks; a block is computed once for all of them.
        root: the warehouse's folder.
        batch_size: images per forward pass.
        workers: threads that decode; as many as there are cores, at most 8, by default.
        stop: asked after every batch; True ends the run with everything so far in shards.
        progress: told images done and images in all.
        fold: puts the shards of a work with a keeper into the space's file, when they have grown large.
    """
    wanted = frozenset[int]().union(*(work.missing for work in works))
    blocks = blocks_of(images, wanted, batch_size)
    loader = BatchLoader(blocks, encoder.preprocess, root, workers=workers or min(8, os.cpu_count() or 1), ahead=1)
    done = n_failed = 0
    stopped = False
    with _ShardWriter() as writer:
        progress(0, len(wanted))
        for loaded in loader:
            _extract_batch(loaded, encoder, works, writer)
            done += len(loaded.image_ids) + len(loaded.failures)
            n_failed += len(loaded.failures)
            progress(done, len(wanted))
            _fold_what_is_due(works, writer, fold)
            if stop() and done < len(wanted):
                stopped = True
                break
    return RunReport(done, n_failed, writer.complaints, stopped)


def _fold_what_is_due(works: Sequence[Work], writer: _ShardWriter, fold: Callable[[Work], None]) -> None:
    for work in works:
        if work.keeper is not None and work.keeper.is_due(work.shards):
            writer.drain()
            fold(work)


def _extract_batch(loaded: LoadedBatch, encoder: Encoder, works: Sequence[Work], writer: _ShardWriter) -> None:
    """Run one block through the encoder once and hand every target its part."""
    ids = np.array(loaded.image_ids, dtype=np.int64)
    result = None
    if loaded.batch_bchw is not None:
        hooks = {work.target.point.name for work in works if isinstance(work.target, SpaceTarget)}
        wants_embedding = any(isinstance(work.target, EmbeddingTarget) for work in works)
        result = encoder.forward(loaded.batch_bchw, sorted(hooks), embedding=wants_embedding)
    for work in works:
        keep_b = np.array([image in work.missing for image in loaded.image_ids], dtype=bool)
        failures = [(image, reason) for image, reason in loaded.failures if image in work.missing]
        if not keep_b.any() and not failures:
            continue
        # The first shard of all carries the self-test, so that a resumed run repeats it exactly.
        first = min(loaded.image_ids + [image for image, _ in loaded.failures])
        tests = work.wants_self_test and first <= min(work.missing)
        table, tested = _part(work.target, result, ids, keep_b, tests=tests)
        record = ShardRecord(
            fingerprint=work.shards.fingerprint,
            images=ids[keep_b].tolist(),
            failures=failures,
            self_test=tested.__dict__ if tested else None,
            keep=work.keeper.keep if work.keeper else None,
            n_behind=work.keeper.n_behind if work.keeper else 0,
        )
        summary = None
        if work.keeper is not None and isinstance(work.target, SpaceTarget):
            summary, table = summarise(table, work.target.n_features), work.keeper.kept(table)
        writer.write(work.shards, table, record, summary)
        writer.note(work.target, tested)


def _part(
    target: Target,
    result: ForwardResult | None,
    ids: np.ndarray[tuple[int], np.dtype[np.int64]],
    keep_b: np.ndarray[tuple[int], np.dtype[np.bool_]],
    *,
    tests: bool,
) -> tuple[pa.Table, SelfTest | None]:
    """Return a target's rows of a batch, for the images it lacks, and its SAE's self-test if asked for."""
    if isinstance(target, EmbeddingTarget):
        return _embedding_rows(target, result, ids, keep_b), None
    if result is None or not keep_b.any():
        return ROW_SCHEMA.empty_table(), None
    acts_btd = result.activations[target.point.name]
    if not keep_b.all():
        acts_btd = acts_btd[keep_b.nonzero()[0]]
    rows_nd, n_tokens = select_tokens(acts_btd, target)
    codes = target.sae.encode(rows_nd)
    parts = (codes.row.numpy(), codes.feature.numpy(), codes.value.numpy())
    table = shard_rows(*parts, ids[keep_b], n_tokens, target.n_features)
    tested = self_test(target.sae, rows_nd[:SELF_TEST_ROWS]) if tests else None
    return table, tested


def select_tokens(acts_btd: torch.Tensor, target: SpaceTarget) -> tuple[torch.Tensor, int | None]:
    """Apply the token policy: rows [n, D], and tokens per image where there are several."""
    if target.tokens == "cls":
        return acts_btd[:, 0], None
    patches_btd = acts_btd[:, target.point.n_prefix :]
    match target.tokens:
        case "mean":
            return patches_btd.mean(dim=1), None
        case "max":
            return patches_btd.amax(dim=1), None
        case "sum":
            return patches_btd.sum(dim=1), None
        case _:
            return patches_btd.flatten(0, 1), patches_btd.shape[1]


def embedding_schema(width: int) -> pa.Schema:
    """Return the rows of an embedding, in shards and in LanceDB: image_id and a float32 vector of this width."""
    return pa.schema(
        [
            pa.field("image_id", pa.int32(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), width), nullable=False),
        ]
    )


def _embedding_rows(
    target: EmbeddingTarget,
    result: ForwardResult | None,
    ids: np.ndarray[tuple[int], np.dtype[np.int64]],
    keep_b: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> pa.Table:
    schema = embedding_schema(target.width)
    if result is None or result.embedding_be is None or not keep_b.any():
        return schema.empty_table()
    vectors_be = result.embedding_be.float().cpu().numpy()[keep_b]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors_be.reshape(-1)), target.width)
    return pa.table([pa.array(ids[keep_b].astype(np.int32)), vectors], schema=schema)


class _ShardWriter:
    """Writes shards in a thread beside the forward pass; an error comes up at the next write or at the end."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="glasshouse-shards")
        self._pending: list[Future[None]] = []

    def __enter__(self) -> _ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            for future in self._pending:
                future.result()

    def write(self, shards: ShardFolder, table: pa.Table, record: ShardRecord, summary: pa.Table | None = None) -> None:
        """Queue one shard; waits while two batches are queued, so that memory stays bounded."""
        while len(self._pending) >= 8 or (self._pending and self._pending[0].done()):
            self._pending.pop(0).result()
        self._pending.append(self._pool.submit(shards.write, table, record, summary))

    def drain(self) -> None:
        """Wait until every shard that was queued is on disk."""
        while self._pending:
            self._pending.pop(0).result()

    def note(self, target: Target, tested: SelfTest | None) -> None:
        """Keep what a self-test complains about."""
        from glasshouse.warehouse.extraction.self_test import complaint

        if tested is not None and isinstance(target, SpaceTarget):
            words = complaint(tested, target.n_features)
            if words:
                self.complaints.append(f"space '{target.name}', SAE {target.sae.spec}: {words}")
