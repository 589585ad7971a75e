"""The starter's dictionaries: which recipe each has. They are trained like any other, by `glasshouse.plugins.training`.

All vectors lie in memory, so a round of the shuffle buffer is an epoch.
"""

from __future__ import annotations

from typing import Final

import torch

from glasshouse.plugins.training.buffer import ShuffleBuffer
from glasshouse.plugins.training.recipe import Recipe
from glasshouse.plugins.training.trainer import Trained, Trainer

N_FEATURES: Final = 512
PREFIXES: Final = (32, 64, 128, 256, 512)
K: Final[dict[str, int]] = {"cls": 8, "patches": 7, "dinoised": 6}
"""Active features for each vector, by dictionary."""
BATCH: Final = 1_024
LEARNING_RATE: Final = 2e-3
AUXILIARY_K: Final = 32
"""Chosen, like the 7 of the patches, on the world of seed 1; the shipped weights and their figures are of seed 0."""


def recipe(name: str, seed: int, steps: int) -> Recipe:
    """The recipe of the dictionary on `cls`, `patches` or `dinoised`."""
    return Recipe(
        kind="matryoshka",
        n_features=N_FEATURES,
        k=K[name],
        prefixes=PREFIXES,
        steps=steps,
        batch=BATCH,
        learning_rate=LEARNING_RATE,
        seed=seed,
        auxiliary_k=AUXILIARY_K,
    )


def train_sae(acts_nd: torch.Tensor, held_out_nd: torch.Tensor, chosen: Recipe) -> Trained:
    """Train on activations [n, width] in memory."""
    return Trainer(ShuffleBuffer(acts_nd.numpy(), chosen.batch, chosen.seed), chosen, held_out_nd).run()
