"""The training loop: batches from the buffer, measurements on held-out vectors, checkpoints, the finished dictionary.

A run that is killed goes on from its last checkpoint and ends with the same numbers as an undisturbed one, on the same
machine with the same number of threads: parameters, optimizer, orders and the buffer's place are all in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.form import CommonForm
from glasshouse.plugins.training import checkpoint as checkpoints
from glasshouse.plugins.training.buffer import ShuffleBuffer
from glasshouse.plugins.training.figures import Figures, figures_of
from glasshouse.plugins.training.model import StepResult, Trainee
from glasshouse.plugins.training.recipe import Recipe
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch

N_STATISTICS = 65_536
"""Vectors from which mean and scale are taken at the start, and the threshold at the end."""
N_MEASUREMENTS = 20
CHECKPOINT_EVERY = 200

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Trained:
    """What came of a run.

    Attributes:
        form: tensors of the dictionary in the activations' own units, float32 on the CPU.
        recipe: what was trained.
        figures: on the held-out vectors, of `form` with its final threshold.
        curves: the measurements, first to last.
        step: steps done.
        stopped: whether it was stopped before the end.
    """

    form: CommonForm
    recipe: Recipe
    figures: Figures
    curves: list[dict[str, Any]]
    step: int
    stopped: bool


class Trainer:
    """One training.

    Args:
        buffer: gives the batches.
        recipe: what is trained.
        held_out_nd: vectors [n, D] that are not trained on.
        folder: where checkpoints and curves go; None keeps none.
        identity: the settings that a checkpoint must have been made with.
        device: `cpu` or `cuda`.
        checkpoint_every: steps from one checkpoint to the next.
        kept: plain values that go into every checkpoint for whoever resumes it.
        report: told of every measurement.
    """

    def __init__(
        self,
        buffer: ShuffleBuffer,
        recipe: Recipe,
        held_out_nd: torch.Tensor,
        *,
        folder: Path | None = None,
        identity: Mapping[str, Any] | None = None,
        device: str = "cpu",
        checkpoint_every: int = CHECKPOINT_EVERY,
        kept: Callable[[], dict[str, Any]] = dict,
        report: Callable[[dict[str, Any]], None] = lambda point: None,
    ) -> None:
        self.buffer, self.recipe, self.held_out_nd = buffer, recipe, held_out_nd
        self.folder, self.identity = folder, dict(identity or {})
        self.checkpoint_every, self.kept, self.report = checkpoint_every, kept, report
        self.step = 0
        self.curves: list[dict[str, Any]] = []
        self._saved_step: int | None = None
        mean_d, scale = statistics(buffer.some(N_STATISTICS))
        self.trainee = Trainee(recipe, mean_d, scale, device)
        buffer.before_refill = self.save

    def resume(self, found: checkpoints.Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.trainee.restore(found.tensors, found.values["trainee"])
        self.buffer.restore(found.values["buffer"])
        self.step, self.curves = found.values["step"], found.values["curves"]
        self._saved_step = self.step

    def save(self) -> None:
        """Write a checkpoint, unless the last one is of this very step."""
        if self.folder is None or self._saved_step == self.step:
            return
        tensors, values = self.trainee.state()
        plain = {"step": self.step, "trainee": values, "buffer": self.buffer.state(), "curves": self.curves}
        plain["kept"] = self.kept()
        checkpoints.save(self.folder, checkpoints.Checkpoint(tensors, plain, self.identity))
        self._saved_step = self.step

    def run(self, stop: Callable[[], bool] = lambda: False, progress: Progress = lambda done, total: None) -> Trained:
        """Train to the end, or until `stop` says so.

        Raises:
            ModelError: the loss is not finite.
            OSError: a checkpoint cannot be written.
        """
        steps = self.recipe.steps
        measure_every = max(1, steps // N_MEASUREMENTS)
        self.save()
        while self.step < steps and not stop():
            # The buffer asks for a checkpoint before it overwrites rows: up to here a step is done or not begun.
            result = self.trainee.step(self.buffer.next(), self.step)
            self._check(result)
            self.step += 1
            progress(self.step, steps)
            if self.step % measure_every == 0 or self.step == steps:
                self._measure(result)
            if self.step % self.checkpoint_every == 0:
                self.save()
        self.save()
        return self._finished()

    def _check(self, result: StepResult) -> None:
        if math.isfinite(result.loss) and math.isfinite(result.gradient_norm):
            return
        kept = f"; the checkpoint of step {self._saved_step} is kept in {self.folder}" if self.folder else ""
        raise ModelError(
            f"The loss of step {self.step + 1} is {result.loss}, the length of its gradient {result.gradient_norm}: "
            f"training cannot go on{kept}. Try a --learning-rate below {self.recipe.learning_rate:g} and another --out."
        )

    def _measure(self, result: StepResult) -> None:
        """Add a point to the curves."""
        found = figures_of(self._sae(self.trainee.form()), self.held_out_nd)
        point = {
            "step": self.step,
            "vectors": self.step * self.recipe.batch,
            "loss": result.loss,
            "learning_rate": self.recipe.rate(self.step - 1),
            "idle_share": result.n_dead / self.recipe.n_features,
            **found.as_dict(),
        }
        self.curves.append(point)
        if self.folder is not None:
            checkpoints.write_curves(self.folder, self.curves)
        self.report(point)

    def _finished(self) -> Trained:
        """The dictionary as it is now, with the threshold that gives k active features on the buffer's vectors."""
        done = self.step == self.recipe.steps
        exact = done and self.recipe.kind != "topk"
        threshold = self.trainee.threshold_for(self.buffer.some(N_STATISTICS)) if exact else None
        form = self.trainee.form(threshold)
        found = figures_of(self._sae(form), self.held_out_nd)
        return Trained(form, self.recipe, found, self.curves, self.step, stopped=not done)

    def _sae(self, form: CommonForm) -> CommonSae:
        if not all(bool(tensor.isfinite().all()) for tensor in form.tensors().values()):
            raise ModelError(
                f"The weights hold NaN or infinity after step {self.step}. Try a --learning-rate below "
                f"{self.recipe.learning_rate:g} and another --out."
            )
        return CommonSae("in training", form, self.trainee.device, prefixes=self.recipe.prefixes)


def statistics(rows_nd: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Mean [D] of some vectors, and what makes their mean squared norm 1.

    Raises:
        ModelError: all of them are zero, or some are not finite.
    """
    mean_square = float(rows_nd.double().square().sum(1).mean())
    if not (math.isfinite(mean_square) and mean_square > 0):
        raise ModelError(
            f"The mean squared norm of the activations is {mean_square}: nothing can be learnt from them. "
            "Check the hook point."
        )
    return rows_nd.double().mean(0).float(), mean_square**-0.5
