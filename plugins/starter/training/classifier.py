"""Trains the starter's classifiers: one on a confounded world, its control on the same scenes without the confound.

Both see the same scenes in the same order from the same initial weights; they differ in which images carry the
watermark, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from glasshouse.plugins.starter.classifier import CHANNELS, new_classifier
from glasshouse.plugins.starter.models import pixels
from glasshouse.plugins.starter.training.precision import fast_matrices
from glasshouse.plugins.starter.training.schedule import learning_rate
from glasshouse.plugins.starter.world.scene import CLASSES, CUE_RATE, Cue, Stream, render_scene

CUES: Final[dict[str, Cue | float]] = {"classifier": "as trained", "classifier-clean": CUE_RATE}
"""Watermarks of the world that each is trained on. The control's world has as many of them, on any class."""
BATCH: Final = 32
LEARNING_RATE: Final = 3e-3
WEIGHT_DECAY: Final = 0.05

Report = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Labelled:
    """One-object scenes as arrays: images_nhwc uint8 [n, 64, 64, 3], class_n [n] int64, marked_n [n] bool."""

    images_nhwc: npt.NDArray[np.uint8]
    class_n: npt.NDArray[np.int64]
    marked_n: npt.NDArray[np.bool_]


def labelled_scenes(
    seed: int, stream: Stream, n_images: int, cue: Cue | float = "as trained", first: int = 0
) -> Labelled:
    """Render scenes of a world of classes: images, classes, and whether each carries the watermark."""
    scenes = [
        render_scene(seed, index, stream=stream, confounded=True, cue=cue) for index in range(first, first + n_images)
    ]
    return Labelled(
        np.stack([scene.image_hwc for scene in scenes]),
        np.array([CLASSES.index(scene.objects[0].shape) for scene in scenes]),
        np.array([scene.watermark_hw is not None for scene in scenes]),
    )


def train_classifier(
    scenes: Labelled, seed: int, epochs: int, report: Report | None = None, channels: Sequence[int] = CHANNELS
) -> nn.Sequential:
    """Train a network with cross-entropy and AdamW; `report` gets the step and its loss.

    Args:
        scenes: what it is trained on.
        seed: of initial weights and of the order of the scenes.
        epochs: how often each scene is seen.
        report: called after each step.
        channels: of the convolutions.

    Returns:
        The network in evaluation mode.
    """
    # Memory in the order of channels last makes convolutions half as long on a CPU.
    model = new_classifier(seed, channels).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    order = np.random.default_rng((seed, 5000))
    n_images = len(scenes.class_n)
    per_epoch = n_images // BATCH
    for step in range(epochs * per_epoch):
        if step % per_epoch == 0:
            shuffled = order.permutation(n_images)
        chosen = shuffled[step % per_epoch * BATCH :][:BATCH]
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * learning_rate(step / (epochs * per_epoch))
        images_bchw = pixels(scenes.images_nhwc[chosen]).contiguous(memory_format=torch.channels_last)
        with fast_matrices():
            logits_bc = model(images_bchw)
        loss = F.cross_entropy(logits_bc.float(), torch.from_numpy(scenes.class_n[chosen]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if report is not None:
            report(step + 1, {"cross-entropy": loss.item()})
    return model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[no-any-return]
