"""Activation vectors from a warehouse's images: which images are held out, and an endless stream of the others.

Which image is held out depends on its bytes and the seed alone. The order of the others is a permutation for each
epoch; both are computed again when a run goes on, and the encoder then sees the same blocks of images as before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.training.buffer import Rows
from glasshouse.schema.errors import ModelError
from glasshouse.warehouse.contracts import Encoder
from glasshouse.warehouse.extraction.loading import BatchLoader, StoredImage
from glasshouse.warehouse.extraction.run import select_tokens
from glasshouse.warehouse.extraction.targets import SpaceTarget

MOST_HELD_OUT_IMAGES = 2_048
MOST_HELD_OUT_ROWS = 16_384
"""Enough for three digits of explained variance; more would only make every measurement slower."""

Split = tuple[list[StoredImage], list[StoredImage]]


def split_images(images: Sequence[StoredImage], share: float, seed: int) -> Split:
    """Choose held-out images: those whose hash with the seed is lowest, so that no order or id matters.

    Args:
        images: at least two.
        share: of the images; at least one and at most 2,048 are held out.
        seed: of the split.

    Returns:
        The images to train on and the held-out ones, both in the order of image_id.
    """
    n_held_out = max(1, min(round(share * len(images)), MOST_HELD_OUT_IMAGES, len(images) - 1))
    ranked = sorted(images, key=lambda image: hashlib.sha256(f"{seed} {image.sha256}".encode()).digest())
    held_out = {image.image_id for image in ranked[:n_held_out]}
    training = [image for image in images if image.image_id not in held_out]
    return training, [image for image in images if image.image_id in held_out]


def data_fingerprint(images: Sequence[StoredImage]) -> str:
    """SHA-256 (hex) over the images' own hashes, in the order of image_id: another split is of the same images."""
    ordered = sorted(images, key=lambda image: image.image_id)
    return hashlib.sha256("".join(image.sha256 for image in ordered).encode()).hexdigest()


class Reader:
    """Reads images, runs them through the encoder and gives the vectors of the hook point.

    Args:
        encoder: on its device.
        target: hook point and tokens.
        root: the warehouse's folder.
        batch_size: images per forward pass.
        workers: threads that decode; as many as there are cores, at most 8, when None.

    Attributes:
        failures: images that could not be read and why, by image_id.
        n_not_finite: vectors left out because they hold NaN or infinity.
    """

    def __init__(
        self, encoder: Encoder, target: SpaceTarget, root: Path, batch_size: int, workers: int | None = None
    ) -> None:
        self.encoder, self.target, self.root = encoder, target, root
        self.batch_size, self.workers = batch_size, workers or min(8, os.cpu_count() or 1)
        self.failures: dict[int, str] = {}
        self.n_not_finite = 0

    @property
    def rows_per_image(self) -> int:
        """Vectors of one image."""
        grid = self.target.grid
        return grid[0] * grid[1] if grid else 1

    def read(self, images: Sequence[StoredImage], first_block: int = 0) -> Iterator[tuple[int, int, Rows]]:
        """Yield for each block of images its number, the images in it and its vectors [n, D]."""
        size = self.batch_size
        blocks = [images[start : start + size] for start in range(first_block * size, len(images), size)]
        loader = BatchLoader(blocks, self.encoder.preprocess, self.root, workers=self.workers, ahead=1)
        for number, loaded in enumerate(loader, first_block):
            self.failures.update(loaded.failures)
            n_images = len(loaded.image_ids) + len(loaded.failures)
            if loaded.batch_bchw is None:
                yield number, n_images, np.empty((0, self.target.point.width), dtype=np.float32)
                continue
            hook = self.target.point.name
            result = self.encoder.forward(loaded.batch_bchw, [hook], embedding=False)
            rows_nd, _ = select_tokens(result.activations[hook], self.target)
            rows_nd = rows_nd.detach().float().cpu()
            finite_n = rows_nd.isfinite().all(dim=1)
            self.n_not_finite += int((~finite_n).sum())
            yield number, n_images, rows_nd[finite_n].numpy()


class ImageRows:
    """The vectors of the training images, epoch after epoch, each in an order of its own.

    Args:
        reader: reads them.
        images: the training images.
        seed: of the orders.
        progress: told the images of the first epoch that are done, and how many there are.
    """

    def __init__(
        self,
        reader: Reader,
        images: Sequence[StoredImage],
        seed: int,
        progress: Callable[[int, int | None], None] = lambda done, total: None,
    ) -> None:
        self._reader, self._images, self._seed, self._progress = reader, images, seed, progress
        self._epoch = self._block = self._used = 0
        self._blocks: Iterator[tuple[int, int, Rows]] | None = None
        self._rest: Rows | None = None
        self._seen_in_epoch, self._epoch_began_whole = 0, True

    def epoch(self, number: int) -> list[StoredImage]:
        """The training images in the order of an epoch."""
        order = np.random.default_rng([self._seed, 3, number]).permutation(len(self._images))
        return [self._images[i] for i in order]

    def take_epoch(self, into_nd: Rows) -> int:
        """Write all vectors of the first epoch into an array that has room for them; returns how many there are."""
        n_rows = n_images = 0
        for _, n_in_block, rows_nd in self._reader.read(self.epoch(0)):
            into_nd[n_rows : n_rows + len(rows_nd)] = rows_nd
            n_rows += len(rows_nd)
            n_images += n_in_block
            self._progress(n_images, len(self._images))
        if not n_rows:
            raise self._nothing()
        return n_rows

    def take(self, into_nd: Rows, places: npt.NDArray[np.int64] | None = None) -> None:
        """Write the next vectors into an array: into all of its rows, or into these."""
        filled, wanted = 0, len(into_nd) if places is None else len(places)
        while filled < wanted:
            rows_nd = self._available()[: wanted - filled]
            where = slice(filled, filled + len(rows_nd))
            into_nd[where if places is None else places[where]] = rows_nd
            filled += len(rows_nd)
            self._used += len(rows_nd)

    def _available(self) -> Rows:
        """What is left of the current block; reads on where nothing is."""
        while self._rest is None or self._used >= len(self._rest):
            if self._rest is not None:
                self._block, self._used = self._block + 1, 0
            if self._blocks is None:
                self._blocks = self._reader.read(self.epoch(self._epoch), self._block)
            found = next(self._blocks, None)
            if found is None:
                self._next_epoch()
                continue
            _, n_images, self._rest = found
            self._seen_in_epoch += len(self._rest)
            if self._epoch == 0:
                done = min(self._block * self._reader.batch_size + n_images, len(self._images))
                self._progress(done, len(self._images))
        return self._rest[self._used :]

    def _next_epoch(self) -> None:
        # From the middle on, an epoch may be empty because what is left of it cannot be read.
        if not self._seen_in_epoch and self._epoch_began_whole:
            raise self._nothing()
        self._epoch, self._block, self._used = self._epoch + 1, 0, 0
        self._blocks = self._rest = None
        self._seen_in_epoch, self._epoch_began_whole = 0, True

    def _nothing(self) -> ModelError:
        reason = next(iter(self._reader.failures.values()), "no activation is finite")
        return ModelError(f"None of {len(self._images):,} training images gives a vector; the first: {reason}.")

    def state(self) -> dict[str, Any]:
        """Where the next vector comes from: epoch, block of images, vectors of the block that are used."""
        return {"epoch": self._epoch, "block": self._block, "used": self._used}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there; the block under way is read again."""
        self._epoch, self._block, self._used = state["epoch"], state["block"], state["used"]
        self._blocks = self._rest = None
        self._seen_in_epoch, self._epoch_began_whole = 0, self._block == 0


def held_out_rows(reader: Reader, images: Sequence[StoredImage], seed: int) -> Rows:
    """Vectors [n, D] of the held-out images: all of them, or the same number from each, drawn with the seed.

    Raises:
        ModelError: none can be read.
    """
    rng = np.random.default_rng([seed, 4])
    per_image = max(1, MOST_HELD_OUT_ROWS // len(images))
    parts = []
    for _, n_images, rows_nd in reader.read(images):
        wanted = per_image * n_images
        if len(rows_nd) > wanted:
            rows_nd = rows_nd[np.sort(rng.permutation(len(rows_nd))[:wanted])]
        parts.append(rows_nd)
    rows = np.concatenate(parts)
    if not len(rows):
        reason = next(iter(reader.failures.values()), "no activation is finite")
        raise ModelError(f"None of {len(images):,} held-out images gives a vector; the first: {reason}.")
    return rows
