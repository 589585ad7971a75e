"""Monosemanticity: do the features of an SAE score above neurons and controls?

Populations are compared, not features: within one dictionary the score follows purity only loosely. Embeddings are
centred; features that are active on fewer than ten images are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks.truth.world import Floats, World

CONTROLS = ("random", "shuffled_cls", "untrained_cls")
CENTRED: dict[str, Any] = {"embedding": "dinov2", "centre": True}
N_ACTIVE = 10


def scores(world: World, space: str, variant: str) -> Floats:
    """MS of the features of a space, those without a score left out."""
    rows = world.rows("monosemanticity", space, **CENTRED, variant=variant)
    return np.asarray(rows.filter(rows["n_images"] >= N_ACTIVE)["ms"].drop_nulls().to_numpy())


def random_pairs(world: World, variant: str) -> float:
    """Mean similarity of random pairs of images, to which a feature without meaning comes close."""
    run = world.warehouse.analyze("monosemanticity", "random", **CENTRED, variant=variant)[-1].run
    return float(run.notes["mu"])


def auc(one: Floats, other: Floats) -> float:
    """Chance that a score of `one` is above one of `other`; ties count by half."""
    ranks = rankdata(np.concatenate([one, other]))[: len(one)]
    return float((ranks.sum() - len(one) * (len(one) + 1) / 2) / (len(one) * len(other)))
