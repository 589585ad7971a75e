"""The two optimizers of a training: Muon for the matrices inside the blocks, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import nn

from glasshouse.plugins.starter.training.muon import Muon
from glasshouse.plugins.starter.training.schedule import learning_rate

MUON_LR: Final = 0.02
ADAMW_LR: Final = 1e-3


class Optimizers:
    """Updates a model and its auxiliary heads under one schedule of the learning rate."""

    def __init__(self, blocks: Iterable[nn.Module], model: nn.Module, heads: nn.Module) -> None:
        inside = {id(p) for block in blocks for p in block.parameters() if p.ndim == 2}
        parameters = list(model.parameters())
        others = [p for p in parameters if id(p) not in inside]
        self._rates: list[tuple[torch.optim.Optimizer, float]] = [
            (Muon([p for p in parameters if id(p) in inside], lr=MUON_LR), MUON_LR),
            (
                torch.optim.AdamW([*others, *heads.parameters()], lr=ADAMW_LR, weight_decay=0.01, betas=(0.9, 0.98)),
                ADAMW_LR,
            ),
        ]

    def step(self, loss: torch.Tensor, progress: float) -> None:
        """One update from the gradient of a loss; `progress` is the share of steps done, in 0..1."""
        for optimizer, rate in self._rates:
            optimizer.zero_grad(set_to_none=True)
            optimizer.param_groups[0]["lr"] = rate * learning_rate(progress)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer, _ in self._rates:
            optimizer.step()
