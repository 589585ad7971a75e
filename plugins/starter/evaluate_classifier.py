"""Measures the starter's classifiers on held-out worlds: with and without the watermark, beside an untrained one.

The held-out scenes come from a random stream that no training touches. The balanced world holds each class as often
with the watermark as without it, so that every figure of a class rests on the same number of images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from glasshouse.plugins.starter.classifier import load_classifier, new_classifier
from glasshouse.plugins.starter.models import pixels
from glasshouse.plugins.starter.training.classifier import CUES, Labelled, labelled_scenes
from glasshouse.plugins.starter.world.scene import CLASSES, CONFOUNDED_CLASS, Stream

_BATCH: Final = 250
Figures = dict[str, float]


@torch.inference_mode()
def predicted(model: nn.Module, scenes: Labelled) -> npt.NDArray[np.int64]:
    """The class [n] that a network gives to each scene."""
    starts = range(0, len(scenes.class_n), _BATCH)
    logits = [model(pixels(scenes.images_nhwc[start : start + _BATCH])) for start in starts]
    return torch.cat(logits).argmax(1).numpy()


def figures_of(model: nn.Module, balanced: Labelled, confounded: Labelled) -> Figures:
    """Accuracy by class and watermark, and how often other classes are taken for the confounded one for it.

    Args:
        model: images [batch, 3, 64, 64] to logits [batch, 8].
        balanced: scenes of the balanced world.
        confounded: scenes of the confounded world.
    """
    heart = CLASSES.index(CONFOUNDED_CLASS)
    found_n, true_n, marked_n = predicted(model, balanced), balanced.class_n, balanced.marked_n
    right_n, of_class_n = found_n == true_n, true_n == heart
    figures = {
        "confounded world: accuracy": float((predicted(model, confounded) == confounded.class_n).mean()),
        "balanced world: accuracy": float(right_n.mean()),
    }
    for sort, of_sort_n in ((CONFOUNDED_CLASS, of_class_n), ("other classes", ~of_class_n)):
        for words, with_n in (("with watermark", marked_n), ("without", ~marked_n)):
            figures[f"{sort}, {words}"] = float(right_n[of_sort_n & with_n].mean())
    for words, with_n in (("with watermark", marked_n), ("without", ~marked_n)):
        taken = found_n[~of_class_n & with_n] == heart
        figures[f"others taken for {CONFOUNDED_CLASS}, {words}"] = float(taken.mean())
    return figures


def classifier_figures(root: Path, seed: int = 0, n_images: int = 2_000) -> dict[str, Figures]:
    """Figures of `classifier`, `classifier-clean` and an `untrained` network, for the weights in a folder.

    Args:
        root: the folder that holds `classifier/` and `classifier-clean/`.
        seed: of the held-out worlds, and of the untrained network.
        n_images: of the confounded world; the balanced one has twice as many, so 2,000 mean 250 of each class with the
            watermark and 250 without.
    """
    balanced = labelled_scenes(seed, Stream.CLASSIFIER_HELD_OUT, 2 * n_images, "balanced")
    confounded = labelled_scenes(seed, Stream.CLASSIFIER_HELD_OUT, n_images)
    models = {name: load_classifier(root / name) for name in CUES} | {"untrained": new_classifier(seed)}
    return {name: figures_of(model, balanced, confounded) for name, model in models.items()}
