"""What is asked of a training, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glasshouse.plugins.training.trainer import CHECKPOINT_EVERY

DEFAULT_L0 = 12


def default_l0(n_features: int) -> int:
    """Return 12, or a quarter of the features where that is less: a small dictionary is sparse too."""
    return min(DEFAULT_L0, max(1, n_features // 4))


@dataclass(frozen=True)
class Request:
    """What is asked for. None leaves the choice to the defaults in docs/training.md.

    Attributes:
        hook: hook point.
        tokens: token policy.
        n_features: F.
        kind: `topk`, `batchtopk` or `matryoshka`.
        prefixes: of a Matryoshka dictionary; see `parse_prefixes`.
        l0: k, active features for each vector; None for 12, or a quarter of F where that is less.
        steps: optimizer steps.
        epochs: passes over the images, instead of steps.
        batch: vectors a step.
        learning_rate: the highest.
        seed: of weights, orders and the split.
        held_out: share of the images that is not trained on.
        buffer: MiB of memory for vectors.
        disk: MiB of the buffer's file when they do not fit into memory.
        checkpoint_every: steps.
        batch_size: images per forward pass.
        workers: threads that decode.
    """

    hook: str
    tokens: str
    n_features: int
    kind: str = "batchtopk"
    prefixes: str | None = None
    l0: int | None = None
    steps: int | None = None
    epochs: float | None = None
    batch: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    held_out: float = 0.05
    buffer: int = 1_024
    disk: int = 16_384
    checkpoint_every: int = CHECKPOINT_EVERY
    batch_size: int = 64
    workers: int | None = None


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        file: the dictionary, or None when the run was stopped before the end.
        step: steps done.
        steps: steps in all.
        resumed_at: the step that it went on from; None when it began anew.
        was_done: whether the folder held the finished dictionary already.
        n_images: images that are trained on.
        n_held_out: images that are not.
        n_failed: images that could not be read.
        n_not_finite: vectors left out because they hold NaN or infinity.
        streamed: whether the vectors went through a buffer that holds a part of them at a time.
        curves: measurements, first to last.
        figures: the held-out figures of the dictionary in the file; empty when it was stopped.
    """

    file: Path | None
    step: int
    steps: int
    resumed_at: int | None
    was_done: bool
    n_images: int
    n_held_out: int
    n_failed: int
    n_not_finite: int
    streamed: bool
    curves: list[dict[str, Any]]
    figures: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**vars(self), "file": None if self.file is None else str(self.file)}
