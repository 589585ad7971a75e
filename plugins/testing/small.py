"""A small warehouse with everything an analysis can ask for, and one space with every nasty case."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.starter.demo import build_demo
from glasshouse.warehouse.warehouse import Warehouse

ODD_SPACE = "odd"
"""Features: 0 is active on every image with one value, 1 on one image, 2 on two, 3 on none, 4 and 5 are alike."""


def small_warehouse(root: str | Path, plugins: Plugins | None = None, n_images: int = 60, seed: int = 0) -> Warehouse:
    """Build a small warehouse: the rendered world with labels, captions, masks and ratings by three raters.

    It has the spaces `cls`, `patches` (with token maps) and `odd`, and the embeddings `clip` and `dinov2`. Takes some
    seconds and needs no network.

    Args:
        root: a folder that does not exist yet.
        plugins: beside the built-in ones; None for these alone.
        n_images: of the world, at least 10.
        seed: of the world.
    """
    plugins = plugins or Plugins(external=False)
    warehouse = build_demo(Path(root), n_images, seed, plugins, lambda name: lambda done, total: None).warehouse
    warehouse.import_features(ODD_SPACE, odd_activations(n_images, seed), list(range(n_images)))
    return warehouse


def odd_activations(n_images: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return the activations of the space `odd` [n_images, 7]."""
    rng = np.random.default_rng(seed)
    acts_nk = np.zeros((n_images, 7), dtype=np.float32)
    acts_nk[:, 0] = 1.5
    acts_nk[3, 1] = 2.0
    acts_nk[[4, 5], 2] = (1.0, 1e-30)
    acts_nk[:, 4] = acts_nk[:, 5] = np.maximum(rng.normal(size=n_images), 0)
    acts_nk[:, 6] = rng.exponential(size=n_images) * 1e6
    return acts_nk
