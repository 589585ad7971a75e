"""Which codes of a batch are kept: the k largest of each vector, or the n·k largest of the batch.

Both are exact. Sorting the batch's n·F values would take as long as the matrix product, so those of the batch are first
thinned out by a bar that is known to be too low: a little below the value that decided the batch before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

BELOW_LAST = 0.9
"""The bar, as a share of the last deciding value; it moves slowly from batch to batch."""

SAMPLE = 65_536
"""Values from which the first bar is guessed."""


class Chosen(NamedTuple):
    """Codes that are kept, ordered by row, then feature: int64 rows and features, float32 values above 0."""

    row: torch.Tensor
    feature: torch.Tensor
    value: torch.Tensor


def row_top(pre_nf: torch.Tensor, k: int) -> Chosen:
    """Keep the k largest values of each row of [n, F], of those above zero."""
    import torch  # late: it takes a second to import

    feature_nk = pre_nf.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
    value_nk = pre_nf.gather(1, feature_nk)
    row_nk = torch.arange(len(pre_nf), device=pre_nf.device)[:, None].expand_as(feature_nk)
    active_nk = value_nk > 0
    return Chosen(row_nk[active_nk], feature_nk[active_nk], value_nk[active_nk])


class BatchTop:
    """Keeps the n·k largest values of each batch; remembers the value that decided the last one, as a first guess."""

    def __init__(self) -> None:
        self.last: float | None = None

    def __call__(self, pre_nf: torch.Tensor, n_kept: int) -> Chosen:
        """Keep the `n_kept` largest values of a contiguous [n, F], of those above zero; ties are all kept."""
        bar = first_bar(pre_nf, n_kept) if self.last is None else BELOW_LAST * self.last
        flat, value = above(pre_nf, bar)
        while len(value) < n_kept and bar > 0:
            bar = bar / 2 if bar > 1e-6 else 0.0
            flat, value = above(pre_nf, bar)
        if len(value) > n_kept:
            kth = value.topk(n_kept, sorted=False).values.min()
            kept = value >= kth
            flat, value = flat[kept], value[kept]
        self.last = float(value.min()) if len(value) else 0.0
        row = flat // pre_nf.shape[1]
        return Chosen(row, flat - row * pre_nf.shape[1], value)


def first_bar(pre_nf: torch.Tensor, n_kept: int) -> float:
    """Guess from evenly spaced values a bar that rather more than `n_kept` are above; not below 0."""
    values = pre_nf.reshape(-1)
    stride = max(1, len(values) // SAMPLE)
    # An odd stride does not fall on the same few features again and again.
    sample = values[:: stride | 1]
    n_above = min(len(sample), 1 + int(1.2 * n_kept * len(sample) / len(values)))
    return max(0.0, BELOW_LAST * float(sample.topk(n_above).values[-1]))


def above(values_nf: torch.Tensor, bar: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat positions (rising) and values of a contiguous [n, F] that exceed the bar."""
    import torch  # late: it takes a second to import

    over_nf = values_nf > bar
    if values_nf.device.type == "cpu":
        import numpy as np

        # numpy skips runs of zeros by machine words; torch's own search takes five times as long.
        flat = torch.from_numpy(np.flatnonzero(over_nf.numpy().reshape(-1)))
    else:
        flat = over_nf.reshape(-1).nonzero().reshape(-1)
    return flat, values_nf.reshape(-1)[flat]
