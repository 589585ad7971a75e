"""The shuffle buffer: every vector once an epoch or once a pass, the same after a resume, in memory as in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glasshouse.plugins.training.buffer import ShuffleBuffer, new_file, old_file, rows_within
from glasshouse.schema.errors import UsageError, WarehouseError


class Counting:
    """A source whose n-th vector is n, n."""

    def __init__(self) -> None:
        self.n_given = 0

    def take(self, into_nd: Any, places: Any = None) -> None:
        n_rows = len(into_nd) if places is None else len(places)
        rows = np.arange(self.n_given, self.n_given + n_rows, dtype=np.float32)[:, None].repeat(2, 1)
        into_nd[slice(None) if places is None else places] = rows
        self.n_given += n_rows

    def state(self) -> dict[str, Any]:
        return {"given": self.n_given}

    def restore(self, state: dict[str, Any]) -> None:
        self.n_given = state["given"]


def numbers(buffer: ShuffleBuffer, n_batches: int) -> list[list[int]]:
    return [[int(row[0]) for row in buffer.next().tolist()] for _ in range(n_batches)]


def streaming(n_rows: int = 40, batch: int = 5) -> ShuffleBuffer:
    source, rows_nd = Counting(), np.zeros((n_rows, 2), dtype=np.float32)
    source.take(rows_nd)
    return ShuffleBuffer(rows_nd, batch, 7, source)


def test_an_epoch_holds_every_vector_once_in_another_order() -> None:
    rows_nd = np.arange(23, dtype=np.float32)[:, None]
    drawn = numbers(ShuffleBuffer(rows_nd, 5, 0), 12)
    epochs = [[number for batch in drawn[i : i + 4] for number in batch] for i in (0, 4, 8)]
    for epoch in epochs:
        assert len(set(epoch)) == 20 and set(epoch) <= set(range(23)), "whole batches, each vector once"
        assert epoch != sorted(epoch)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    left_out = [set(range(23)) - set(epoch) for epoch in epochs]
    assert left_out[0] != left_out[1], "the tail of an epoch is not always the same"
    assert numbers(ShuffleBuffer(rows_nd, 5, 1), 4) != drawn[:4]


def test_a_stream_gives_every_vector_once_and_mixes_them() -> None:
    drawn = [number for batch in numbers(streaming(), 200) for number in batch]
    assert len(set(drawn)) == len(drawn) == 1_000
    missing = set(range(900)) - set(drawn)
    assert len(missing) < 40, "what is not drawn still lies in the buffer"
    distance = np.abs(np.array(drawn) - np.arange(1_000))
    assert distance.mean() > 10
    assert max(drawn[:20]) < 40, "nothing comes before it was read"


@pytest.mark.parametrize("n_before", [0, 1, 3, 4, 5, 8, 11, 12])
def test_a_stream_goes_on_where_it_was(n_before: int) -> None:
    """Whether the state is of the beginning, the middle or the end of a round."""
    undisturbed, killed = streaming(), streaming()
    expected = numbers(undisturbed, 30)
    numbers(killed, n_before)
    state, rows_nd = killed.state(), killed.rows_nd
    again = ShuffleBuffer(rows_nd, 5, 7, Counting())
    again.restore(state)
    assert numbers(again, 30 - n_before) == expected[n_before:]


def test_a_refill_that_was_cut_off_is_repeated() -> None:
    undisturbed, killed = streaming(), streaming()
    expected = numbers(undisturbed, 12)
    numbers(killed, 4)
    state = killed.state()
    assert state["position"] == 20
    cut_off = Counting()
    cut_off.restore(state["source"])
    cut_off.take(killed.rows_nd, killed._order[:9])
    again = ShuffleBuffer(killed.rows_nd, 5, 7, Counting())
    again.restore(state)
    assert numbers(again, 8) == expected[4:]


def test_a_file_holds_the_same_rows_and_is_found_again(tmp_path: Path) -> None:
    file = tmp_path / "rows"
    assert old_file(file, 10, 4) is None
    rows_nd = new_file(file, 10, 4)
    rows_nd[:] = np.arange(40).reshape(10, 4)
    rows_nd.flush()  # type: ignore[attr-defined]
    assert file.stat().st_size == 160
    again = old_file(file, 10, 4)
    assert again is not None and np.array_equal(again, np.arange(40).reshape(10, 4))
    assert old_file(file, 11, 4) is None
    assert rows_within(1, 4) == 2**20 // 16


def test_a_disk_without_room_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match=r"for the shuffle buffer: .*smaller --disk"):
        new_file(tmp_path / "rows", 2**45, 1_024)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_larger_than_what_there_is_is_one_clear_error() -> None:
    with pytest.raises(UsageError, match="A batch of 30 vectors is too large for 20 of them"):
        ShuffleBuffer(np.zeros((40, 2), dtype=np.float32), 30, 0, Counting())
