"""Trains Matryoshka BatchTopK sparse autoencoders on activations.

Every prefix of the dictionary has to reconstruct the input by itself (Bussmann et al. 2025, arXiv 2503.17547), and in
each batch the k largest activations per row on average are kept (Bussmann et al. 2024, arXiv 2412.06410). For use
on single images the batch's choice becomes one threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F

from glasshouse.plugins.starter.dictionary import Dictionary

N_FEATURES: Final = 512
PREFIXES: Final = (32, 64, 128, 256, 512)
K: Final[dict[str, int]] = {"cls": 8, "patches": 6}
STEPS: Final = 2_500
BATCH: Final = 1_024
LEARNING_RATE: Final = 2e-3
_DEAD_AFTER: Final = 150
"""Steps without activity after which a feature counts as dead and is taught the residual."""
_AUXILIARY_WEIGHT: Final = 1 / 32
_AUXILIARY_K: Final = 32


def batch_top_k(codes_nf: torch.Tensor, k: int) -> torch.Tensor:
    """Keep the n * k largest entries of a batch [n, features] and set the others to zero."""
    kth = codes_nf.flatten().topk(len(codes_nf) * k, sorted=True).values[-1]
    return codes_nf * (codes_nf >= kth)


class _Trainee:
    """Parameters in training, in units in which the inputs have mean norm 1."""

    def __init__(self, acts_nd: torch.Tensor, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        width = acts_nd.shape[1]
        directions_fd = torch.randn(N_FEATURES, width, generator=generator)
        self.w_dec_fd = F.normalize(directions_fd, dim=1).requires_grad_()
        self.w_enc_df = self.w_dec_fd.detach().T.clone().contiguous().requires_grad_()
        self.b_enc_f = torch.zeros(N_FEATURES, requires_grad=True)
        self.b_dec_d = acts_nd.mean(0).clone().requires_grad_()
        self.idle_f = torch.zeros(N_FEATURES, dtype=torch.long)

    def parameters(self) -> list[torch.Tensor]:
        return [self.w_enc_df, self.b_enc_f, self.w_dec_fd, self.b_dec_d]

    def loss(self, acts_nd: torch.Tensor, k: int) -> torch.Tensor:
        """Mean error over the prefixes, and the error of dead features on what is left over."""
        all_codes_nf = torch.relu((acts_nd - self.b_dec_d) @ self.w_enc_df + self.b_enc_f)
        codes_nf = batch_top_k(all_codes_nf, k)
        decoded_nd = self.b_dec_d.expand_as(acts_nd)
        error, start = acts_nd.new_zeros(()), 0
        for end in PREFIXES:
            decoded_nd = decoded_nd + codes_nf[:, start:end] @ self.w_dec_fd[start:end]
            error = error + (acts_nd - decoded_nd).square().sum(1).mean() / len(PREFIXES)
            start = end
        active_f = (codes_nf.detach() > 0).any(0)
        self.idle_f = torch.where(active_f, 0, self.idle_f + 1)
        dead_f = self.idle_f > _DEAD_AFTER
        if int(dead_f.sum()) < 2:
            return error
        leftover_nd = (acts_nd - decoded_nd).detach()
        # Without the ReLU, so that a feature that is negative everywhere still learns.
        dead_codes = (acts_nd - self.b_dec_d).detach() @ self.w_enc_df[:, dead_f] + self.b_enc_f[dead_f]
        top = dead_codes.topk(min(_AUXILIARY_K, dead_codes.shape[1]), dim=1)
        sparse = torch.zeros_like(dead_codes).scatter(1, top.indices, top.values.relu())
        auxiliary = (leftover_nd - sparse @ self.w_dec_fd[dead_f]).square().sum(1).mean()
        return error + _AUXILIARY_WEIGHT * auxiliary

    @torch.no_grad()
    def normalise(self) -> None:
        self.w_dec_fd.copy_(F.normalize(self.w_dec_fd, dim=1))


def train_sae(
    acts_nd: torch.Tensor, k: int, seed: int, steps: int = STEPS, report: Callable[[int, float], None] | None = None
) -> Dictionary:
    """Train on activations [n, width]; the returned tensors apply to activations in their own units."""
    unit = float(acts_nd.norm(dim=1).mean())
    trainee = _Trainee(acts_nd / unit, seed)
    optimizer = torch.optim.Adam(trainee.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(seed + 1)
    for step in range(steps):
        done = step / steps
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 50, 4 * (1 - done))
        rows = torch.randint(len(acts_nd), (BATCH,), generator=generator)
        loss = trainee.loss(acts_nd[rows] / unit, k)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        trainee.normalise()
        if report is not None:
            report(step + 1, float(loss.detach()))
    return _finish(trainee, acts_nd, unit, k, generator)


@torch.no_grad()
def _finish(trainee: _Trainee, acts_nd: torch.Tensor, unit: float, k: int, generator: torch.Generator) -> Dictionary:
    """Fold the unit into the tensors and find the threshold at which k features per row are active."""
    w_enc_df, b_enc_f, w_dec_fd, b_dec_d = (p.detach() for p in trainee.parameters())
    rows = torch.randint(len(acts_nd), (16 * BATCH,), generator=generator)
    codes_nf = torch.relu((acts_nd[rows] / unit - b_dec_d) @ w_enc_df + b_enc_f)
    threshold = codes_nf.flatten().topk(len(rows) * k).values[-1]
    # Features come out in units of the inputs (decoder rows keep norm 1), so that they compare across models.
    return Dictionary(w_enc_df, b_enc_f * unit, w_dec_fd, b_dec_d * unit, threshold.reshape(1) * unit)
