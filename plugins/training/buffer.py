"""The shuffle buffer: activation vectors in memory or in a file of bounded size, from which batches are drawn.

It works in rounds. When everything fits, a round is an epoch: a permutation of all rows. Otherwise a round uses up a
random half of the rows, and their places are filled with the next rows of the source. A refill happens between two
batches only, and writes only to places that are used up; so a run that was killed in the middle of it repeats it, and
goes on with the same rows in the same places.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from glasshouse.schema.errors import UsageError, WarehouseError

if TYPE_CHECKING:
    import torch

FILE_NAME = "activations.buffer"
BYTES_PER_NUMBER = 4
"""float32, in memory as in the file, so that where the rows lie changes nothing in the result."""

Rows = npt.NDArray[np.float32]


class RowSource(Protocol):
    """An endless stream of activation vectors with a place to go on from."""

    def take(self, into_nd: Rows, places: npt.NDArray[np.int64] | None = None) -> None:
        """Write the next vectors into an array: into all of its rows, or into these."""

    def state(self) -> dict[str, Any]:
        """Where the next vector comes from, as plain values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there."""


class ShuffleBuffer:
    """Rows [n, D] from which batches are drawn.

    Args:
        rows_nd: the rows; a view of a file when they lie on disk.
        batch: rows in a batch.
        seed: of the orders.
        source: where used rows are replaced from; None when all rows there are lie in the buffer.
        before_refill: called before rows are overwritten: whoever keeps checkpoints takes one now.
    """

    def __init__(
        self,
        rows_nd: Rows,
        batch: int,
        seed: int,
        source: RowSource | None = None,
        before_refill: Callable[[], None] = lambda: None,
    ) -> None:
        self.rows_nd, self.batch, self.seed, self.source = rows_nd, batch, seed, source
        self.before_refill = before_refill
        self._round = self._position = 0
        # Whole batches only: none is drawn from two rounds.
        usable = len(rows_nd) if source is None else len(rows_nd) // 2
        self._in_round = usable // batch * batch
        if not self._in_round:
            raise UsageError(
                f"A batch of {batch:,} vectors is too large for {usable:,} of them. Give a smaller --batch, more "
                "images, or a larger --buffer and --disk."
            )
        self._order = self._ordered()

    def _ordered(self) -> npt.NDArray[np.int64]:
        """The permutation of a round: from seed and number, so that it need not be kept."""
        return np.random.default_rng([self.seed, 1, self._round]).permutation(len(self.rows_nd))

    def next(self) -> torch.Tensor:
        """The next batch [batch, D]."""
        import torch  # late: it takes a second to import

        if self._position == self._in_round:
            self._turn()
        places = self._order[self._position : self._position + self.batch]
        self._position += self.batch
        return torch.from_numpy(self.rows_nd[places])

    def _turn(self) -> None:
        if self.source is not None:
            self.before_refill()
            self.source.take(self.rows_nd, self._order[: self._in_round])
            if isinstance(self.rows_nd, np.memmap):
                self.rows_nd.flush()
        self._round, self._position = self._round + 1, 0
        self._order = self._ordered()

    def some(self, n_most: int) -> torch.Tensor:
        """Rows [n, D] drawn from those that are here, the same ones for the same seed and content."""
        import torch  # late: it takes a second to import

        n_rows = min(n_most, len(self.rows_nd))
        places = np.random.default_rng([self.seed, 2]).permutation(len(self.rows_nd))[:n_rows]
        return torch.from_numpy(np.ascontiguousarray(self.rows_nd[np.sort(places)]))

    def close(self) -> None:
        """Let go of the rows; a file of them may be removed then."""
        self.rows_nd = self.rows_nd[:0].copy()

    def state(self) -> dict[str, Any]:
        """Where the next batch comes from, as plain values; the rows themselves are not in it."""
        source = None if self.source is None else self.source.state()
        return {"round": self._round, "position": self._position, "source": source}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from there, with the rows of then."""
        self._round, self._position = state["round"], state["position"]
        self._order = self._ordered()
        if self.source is not None:
            self.source.restore(state["source"])


def rows_within(mebibytes: int, width: int) -> int:
    """How many vectors of this width lie within so many MiB."""
    return (mebibytes << 20) // (BYTES_PER_NUMBER * width)


def new_file(file: Path, n_rows: int, width: int) -> Rows:
    """Make a file of n_rows × width numbers and map it.

    Raises:
        WarehouseError: the disk has no room for it.
    """
    size = n_rows * width * BYTES_PER_NUMBER
    try:
        # Reserved at once: a file with holes would end the process, without a word, when the disk runs full.
        with file.open("wb") as opened:
            os.posix_fallocate(opened.fileno(), 0, size)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise WarehouseError(
            f"{file} needs {size / 2**20:,.0f} MiB for the shuffle buffer: {error.strerror or error}. Free some "
            "space, or give a smaller --disk."
        ) from error
    return np.memmap(file, dtype=np.float32, mode="r+", shape=(n_rows, width))


def old_file(file: Path, n_rows: int, width: int) -> Rows | None:
    """Map a file that was filled before; None when there is none of that size."""
    if not file.is_file() or file.stat().st_size != n_rows * width * BYTES_PER_NUMBER:
        return None
    return np.memmap(file, dtype=np.float32, mode="r+", shape=(n_rows, width))
