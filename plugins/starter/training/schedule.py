"""What changes in the course of a training: learning rate, kept patches, share of easy pictures."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from glasshouse.plugins.starter.training.data import GRID, PictureSet

_WARM_UP: Final = 0.03
_EASY_AT_FIRST: Final = 0.35
_EASY_UNTIL: Final = 0.30


def learning_rate(progress: float) -> float:
    """Factor of the learning rate: a short linear rise, then one cosine down to 2 %."""
    if progress < _WARM_UP:
        return (progress + 1e-3) / _WARM_UP
    done = (progress - _WARM_UP) / (1 - _WARM_UP)
    return float(0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * done)))


def n_kept_patches(progress: float) -> int:
    """How many of the 64 patches a training step sees: few at first, all at the end."""
    return 28 if progress < 0.45 else 44 if progress < 0.7 else GRID * GRID


def kept_patches(patch_facts_bt: npt.NDArray[np.uint64], n_kept: int, rng: np.random.Generator) -> torch.Tensor:
    """Indices [batch, n_kept], ascending: patches with something on them first, then random ones."""
    if n_kept == GRID * GRID:
        return torch.arange(n_kept).expand(len(patch_facts_bt), -1)
    priority_bt = rng.random(patch_facts_bt.shape) + (patch_facts_bt > 0)
    chosen_bk = np.argpartition(-priority_bt, n_kept, axis=1)[:, :n_kept]
    return torch.from_numpy(np.sort(chosen_bk, axis=1))


class Batches:
    """Draws the pictures of a step: easy ones are 35 % at first and none after 30 % of the steps."""

    def __init__(self, pictures: PictureSet, batch_size: int, rng: np.random.Generator) -> None:
        self._easy = np.flatnonzero(pictures.easy_n)
        self._others = np.flatnonzero(~pictures.easy_n)
        self._batch_size, self._rng = batch_size, rng

    def draw(self, progress: float) -> npt.NDArray[np.int64]:
        """Indices of one batch."""
        share = _EASY_AT_FIRST * max(0.0, 1.0 - progress / _EASY_UNTIL)
        n_easy = min(round(share * self._batch_size), len(self._easy))
        easy = self._rng.choice(self._easy, n_easy, replace=False)
        others = self._rng.choice(self._others, self._batch_size - n_easy, replace=False)
        return np.concatenate([easy, others])
