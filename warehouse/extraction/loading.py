"""Pictures on their way to the encoder: read, verified, decoded and pre-processed in threads beside the forward pass.

Pillow and the hash release the GIL, so threads are enough, and nothing has to be pickled. At most `ahead` + 1 batches
are in memory at any time, however many images there are.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glasshouse.schema.errors import GlasshouseError, SourceError
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.intake.pictures import decode, read_bytes

if TYPE_CHECKING:
    import duckdb
    import torch
    from PIL import Image


@dataclass(frozen=True)
class StoredPath:
    """One place where an image's bytes can be read; the columns of `image_paths`."""

    path: str
    container: str | None
    byte_offset: int | None
    byte_count: int | None
    cached: str | None


@dataclass(frozen=True)
class StoredImage:
    """An image of the catalogue and every place where it was seen."""

    image_id: int
    sha256: str
    paths: tuple[StoredPath, ...]


@dataclass(frozen=True)
class LoadedBatch:
    """The images of one block that could be read, as a tensor [b, 3, H, W] or None if none could."""

    image_ids: list[int]
    batch_bchw: torch.Tensor | None
    failures: list[tuple[int, str]]


def stored_images(connection: duckdb.DuckDBPyConnection, image_ids: Sequence[int] | None = None) -> list[StoredImage]:
    """Read images of the catalogue with their paths, in the order of image_id; all unless some are named."""
    wanted = None if image_ids is None else [int(image_id) for image_id in image_ids]
    rows = connection.execute(read_sql("queries/stored_images.sql"), {"image_ids": wanted}).fetchall()
    return [
        StoredImage(image_id, sha256, tuple(StoredPath(p["p"], p["c"], p["o"], p["n"], p["k"]) for p in paths or ()))
        for image_id, sha256, paths in rows
    ]


def read_image(image: StoredImage, root: Path) -> Image.Image:
    """Decode one image from the first place that still has its bytes, as RGB.

    Raises:
        SourceError: no place has them; the reason is that of the first.
    """
    reason: GlasshouseError | None = None
    for place in image.paths:
        try:
            data = read_bytes(place.path, place.container, place.byte_offset, place.byte_count, place.cached, root)
            if hashlib.sha256(data).hexdigest() != image.sha256:
                raise SourceError("the file has changed since it was added; run `glasshouse add` on it again")
            return decode(data)
        except OSError as error:
            reason = reason or SourceError(f"cannot be read: {error.strerror or error}")
        except GlasshouseError as error:
            reason = reason or error
    raise reason or SourceError("no file holds this picture any more: another one has taken its place")


class BatchLoader:
    """Iterates over blocks of images as `LoadedBatch`es.

    Args:
        blocks: the images of each batch.
        preprocess: the encoder's, from an RGB picture to a float32 tensor [3, H, W]; thread-safe.
        root: the warehouse's folder, where relative paths start.
        workers: threads.
        ahead: batches that are prepared while another one is computed on.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[StoredImage]],
        preprocess: Callable[[Image.Image], torch.Tensor],
        root: Path,
        *,
        workers: int,
        ahead: int,
    ) -> None:
        self._blocks = blocks
        self._preprocess = preprocess
        self._root = root
        self._workers = workers
        self._ahead = ahead

    def __iter__(self) -> Iterator[LoadedBatch]:
        """Yield the batches in order."""
        pending: deque[tuple[Sequence[StoredImage], list[Future[torch.Tensor]]]] = deque()
        blocks = iter(self._blocks)
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="glasshouse-decode")
        try:
            while True:
                while len(pending) <= self._ahead and (block := next(blocks, None)) is not None:
                    pending.append((block, [pool.submit(self._load, image) for image in block]))
                if not pending:
                    return
                yield _collect(*pending.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, image: StoredImage) -> torch.Tensor:
        return self._preprocess(read_image(image, self._root))


def _collect(block: Sequence[StoredImage], futures: Sequence[Future[torch.Tensor]]) -> LoadedBatch:
    """Wait for a block and stack what could be read."""
    import torch

    image_ids, tensors, failures = [], [], []
    for image, future in zip(block, futures, strict=True):
        try:
            tensors.append(future.result())
            image_ids.append(image.image_id)
        except GlasshouseError as error:
            failures.append((image.image_id, str(error)))
    return LoadedBatch(image_ids, torch.stack(tensors) if tensors else None, failures)
