"""Trains the starter's models from a seed: `python -m glasshouse.plugins.starter.train [--seed 0] [--out DIR]`.

Five stages, each skipped when its result is already in the folder: CLIP, Dinov2Model, sparse autoencoders (and their
controls), the classifier (and its control), evaluation with the model card. With the default seed and plan the result
is the shipped weights, up to the arithmetic of the processor. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch

from glasshouse.plugins.starter.card import read_figures, write_card
from glasshouse.plugins.starter.evaluate import N_IMAGES, evaluate_folder
from glasshouse.plugins.starter.evaluate_classifier import classifier_figures
from glasshouse.plugins.starter.training.stages import Plan, Run, classifier_stage, clip_stage, dinov2_stage, sae_stage


def evaluate_stage(run: Run, n_held_out: int = N_IMAGES) -> None:
    """Measure the weights of a run and write its model card."""
    run.say(f"evaluate: {n_held_out} held-out images")
    figures = evaluate_folder(run.folder, run.plan.seed, n_held_out)
    write_card(run.folder, figures, run.records, n_held_out)
    run.say(f"evaluate: done, see {run.folder / 'MODEL_CARD.md'}")


def classify_stage(run: Run, n_held_out: int = N_IMAGES) -> None:
    """Train the classifiers; in a folder that has been measured, bring its card up to date with them."""
    classifier_stage(run)
    known = read_figures(run.folder)
    if known:
        figures = {**known, "classifiers": classifier_figures(run.folder, run.plan.seed, n_held_out)}
        write_card(run.folder, figures, run.records, n_held_out)
        run.say(f"classifier: figures brought up to date in {run.folder / 'MODEL_CARD.md'}")


STAGES: Final[dict[str, Callable[[Run], None]]] = {
    "clip": clip_stage,
    "dinov2": dinov2_stage,
    "sae": sae_stage,
    "classifier": classify_stage,
    "evaluate": evaluate_stage,
}


def train(folder: Path, plan: Plan, stages: Sequence[str] = tuple(STAGES)) -> None:
    """Run the named stages, in the order given, in a folder; those that are done are skipped."""
    torch.use_deterministic_algorithms(True)
    run = Run(folder, plan)
    for stage in stages:
        STAGES[stage](run)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m glasshouse.plugins.starter.train", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("starter-weights"), help="folder of the run (default: starter-weights)"
    )
    parser.add_argument("--quick", action="store_true", help="a rehearsal with poor weights")
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=tuple(STAGES),
        default=tuple(STAGES),
        help="only these; clip, dinov2 and classifier may run side by side in processes of their own (default: all)",
    )
    options = parser.parse_args(arguments)
    plan = Plan.quick(options.seed) if options.quick else Plan.full(options.seed)
    train(options.out, plan, options.stages)


if __name__ == "__main__":
    main()
