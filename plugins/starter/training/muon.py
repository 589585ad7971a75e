"""Muon: momentum whose update is made orthogonal (Jordan et al. 2024, "Muon: An optimizer for hidden layers").

The orthogonal factor of the momentum comes from five Newton-Schulz steps with the coefficients of that work. Used for
the matrices inside transformer blocks; everything else is left to AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import nn

_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS: Final = 5


def orthogonalise(matrix_rc: torch.Tensor) -> torch.Tensor:
    """A matrix [rows, columns] with the singular vectors of the input and singular values near 1."""
    tall = matrix_rc.shape[0] > matrix_rc.shape[1]
    x: torch.Tensor = matrix_rc.T if tall else matrix_rc
    x = x / (x.norm() + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, then `orthogonalise`, scaled by sqrt(max(1, rows / columns))."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                direction = weight.grad.lerp(momentum, group["momentum"])
                scale = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.add_(orthogonalise(direction), alpha=-group["lr"] * scale)
