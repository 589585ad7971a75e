"""What changing one feature of the SAE's code adds to a token: decode(code') − decode(code)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.warehouse.contracts import SparseAutoencoder, SparseCodes

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]


class Change(NamedTuple):
    """To what a feature is set where it is active: activation a becomes factor · a + value."""

    factor: float
    value_f: Floats
    """[F]"""


class Deltas(NamedTuple):
    """What is added to the tokens of the jobs whose feature is active: [active jobs, t, D], and their positions."""

    active: Ints
    delta_jtd: torch.Tensor
    removed_j: Floats


class TokenEdits:
    """The codes of a batch's tokens, and what changing one feature of them adds to the tokens.

    Args:
        sae: of the space.
        acts_btd: the tokens that are its rows.
        change: to what activations are set.
        seed: of the random directions.
    """

    def __init__(self, sae: SparseAutoencoder, acts_btd: torch.Tensor, change: Change, seed: int) -> None:
        self._sae = sae
        self._change = change
        self._seed = seed
        self._n_tokens, self._width = acts_btd.shape[1:]
        self._acts_nd = acts_btd.reshape(-1, self._width)
        codes = sae.encode(self._acts_nd)
        self._row, self._feature, self._value = (part.numpy() for part in codes)
        self._starts = np.searchsorted(self._row, np.arange(len(self._acts_nd) + 1))
        self._decoded_nd = sae.decode(codes, len(self._acts_nd), self._acts_nd)
        self.decoded_btd = self._decoded_nd.reshape(acts_btd.shape)

    def deltas(self, row_j: Ints, feature_j: Ints, is_random_j: npt.NDArray[np.bool_]) -> Deltas:
        """Return what the jobs add to the tokens; jobs whose feature is nowhere active are left out."""
        import torch  # late: it takes a second to import

        job_r, token_r = self._active_tokens(row_j, feature_j)
        active, place_r = np.unique(job_r, return_inverse=True)
        delta_jtd = torch.zeros(len(active), self._n_tokens, self._width, device=self._acts_nd.device)
        removed_j = np.zeros(len(active))
        if len(active):
            codes, removed_r = self._changed(token_r, feature_j[job_r])
            rows = torch.as_tensor(token_r, device=self._acts_nd.device)
            delta_rd = self._sae.decode(codes, len(token_r), self._acts_nd[rows]) - self._decoded_nd[rows]
            for feature in np.unique(feature_j[is_random_j]):
                of = torch.as_tensor(np.flatnonzero(is_random_j[job_r] & (feature_j[job_r] == feature)))
                of = of.to(delta_rd.device)
                delta_rd[of] = delta_rd[of].norm(dim=1, keepdim=True) * self._direction(int(feature)).to(delta_rd)
            places = torch.as_tensor(place_r, device=delta_jtd.device)
            delta_jtd[places, rows % self._n_tokens] = delta_rd
            np.maximum.at(removed_j, place_r, removed_r)
        return Deltas(active, delta_jtd, removed_j)

    def _active_tokens(self, row_j: Ints, feature_j: Ints) -> tuple[Ints, Ints]:
        """Return job and token row of each place where a job's feature is active, by job, then token."""
        jobs, rows = [], []
        for job, (row, feature) in enumerate(zip(row_j, feature_j, strict=True)):
            first, end = self._starts[row * self._n_tokens], self._starts[(row + 1) * self._n_tokens]
            found = self._row[first:end][self._feature[first:end] == feature]
            jobs.append(np.full(len(found), job))
            rows.append(found)
        return np.concatenate(jobs), np.concatenate(rows)

    def _changed(self, token_r: Ints, feature_r: Ints) -> tuple[SparseCodes, Floats]:
        """Return the codes of the given tokens with one feature of each changed, and |a' − a|."""
        import torch  # late: it takes a second to import

        counts_r = self._starts[token_r + 1] - self._starts[token_r]
        row_k = np.repeat(np.arange(len(token_r)), counts_r)
        place_k = np.arange(counts_r.sum()) - np.repeat(np.cumsum(counts_r) - counts_r, counts_r)
        place_k = place_k + self._starts[token_r][row_k]
        feature_k, value_k = self._feature[place_k], self._value[place_k].copy()
        own_k = feature_k == feature_r[row_k]
        old_r = value_k[own_k]
        value_k[own_k] = self._change.factor * old_r + self._change.value_f[feature_r]
        removed_r = np.abs(value_k[own_k] - old_r)
        kept_k = value_k > 0
        parts = (row_k[kept_k].astype(np.int32), feature_k[kept_k], value_k[kept_k])
        return SparseCodes(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts)), removed_r

    def _direction(self, feature: int) -> torch.Tensor:
        """Return the random unit vector [D] that stands beside a feature."""
        import torch  # late: it takes a second to import

        direction_d = np.random.default_rng([self._seed, feature]).normal(size=self._width)
        return torch.from_numpy((direction_d / np.linalg.norm(direction_d)).astype(np.float32))
