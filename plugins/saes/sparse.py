"""From a dense block of pre-activations to sparse codes: the hot path of extraction.

Almost every entry is zero, so the cost is one pass over the block to find the few that are not. On the CPU torch's own
`nonzero` takes longer than the matrix product; comparing with all threads and searching the bytes with numpy, which
skips runs of zeros by machine words, does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from glasshouse.warehouse.contracts import SparseCodes

if TYPE_CHECKING:
    import torch


def sparse_codes(values_nf: torch.Tensor, active_nf: torch.Tensor, first_row: int = 0) -> SparseCodes:
    """Collect the entries of `values_nf` where `active_nf`, ordered by row, then feature.

    Args:
        values_nf: float32, contiguous.
        active_nf: bool, contiguous, on the same device.
        first_row: the number of the block's first row.
    """
    # Late: this module is imported with every command, and numpy and torch take time.
    import numpy as np
    import torch

    n_features = values_nf.shape[1]
    if values_nf.device.type == "cpu":
        flat = np.flatnonzero(active_nf.numpy().reshape(-1))
        row, feature = np.divmod(flat, n_features)
        row += first_row
        return SparseCodes(
            torch.from_numpy(row.astype(np.int32)),
            torch.from_numpy(feature.astype(np.int32)),
            torch.from_numpy(values_nf.numpy().reshape(-1)[flat]),
        )
    row_k, feature_k = torch.nonzero(active_nf, as_tuple=True)
    value_k = values_nf[row_k, feature_k]
    return SparseCodes((row_k + first_row).int().cpu(), feature_k.int().cpu(), value_k.cpu())


def joined(blocks: list[SparseCodes]) -> SparseCodes:
    """Put the codes of consecutive blocks of rows together."""
    import torch  # late: it takes a second to import

    if not blocks:
        empty = torch.zeros(0, dtype=torch.int32)
        return SparseCodes(empty, empty, torch.zeros(0))
    if len(blocks) == 1:
        return blocks[0]
    return SparseCodes(*(torch.cat(part) for part in zip(*blocks, strict=True)))


def keep(codes: SparseCodes, kept: torch.Tensor) -> SparseCodes:
    """The codes where `kept`."""
    return SparseCodes(codes.row[kept], codes.feature[kept], codes.value[kept])


def sparse_product(codes: SparseCodes, n_rows: int, decoder_fd: torch.Tensor) -> torch.Tensor:
    """Codes times decoder, [n_rows, D], without the codes' dense form."""
    import torch  # late: it takes a second to import

    device = decoder_fd.device
    starts = torch.zeros(n_rows + 1, dtype=torch.int64)
    starts[1:] = torch.bincount(codes.row, minlength=n_rows).cumsum(0)
    # A bag of embeddings with weights is this product, and it never builds a sparse matrix.
    return torch.nn.functional.embedding_bag(
        codes.feature.to(device, torch.int64),
        decoder_fd,
        starts[:-1].to(device),
        mode="sum",
        per_sample_weights=codes.value.to(device),
    )
