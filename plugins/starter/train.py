"""Trains the starter's models from a seed: `python -m glasshouse.plugins.starter.train [--seed 0] [--out DIR]`.

Four stages, each skipped when its result is already in the folder: CLIP, Dinov2Model, sparse autoencoders (and their
controls), evaluation with the model card. With the default seed and plan the result is the shipped weights, up to the
arithmetic of the processor. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from glasshouse.plugins.starter.card import write_card
from glasshouse.plugins.starter.evaluate import N_IMAGES, evaluate_folder
from glasshouse.plugins.starter.training.stages import Plan, Run, clip_stage, dinov2_stage, sae_stage


def train(folder: Path, plan: Plan, n_held_out: int = N_IMAGES) -> None:
    """Run every stage that is not done yet and write the model card into the folder."""
    torch.use_deterministic_algorithms(True)
    run = Run(folder, plan)
    clip_stage(run)
    dinov2_stage(run)
    sae_stage(run)
    run.say(f"evaluate: {n_held_out} held-out images")
    figures = evaluate_folder(folder, plan.seed, n_held_out)
    write_card(folder, figures, run.records, n_held_out)
    run.say(f"evaluate: done, see {folder / 'MODEL_CARD.md'}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m glasshouse.plugins.starter.train", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("starter-weights"), help="folder of the run (default: starter-weights)"
    )
    parser.add_argument("--quick", action="store_true", help="a rehearsal with poor weights")
    options = parser.parse_args(arguments)
    plan = Plan.quick(options.seed) if options.quick else Plan.full(options.seed)
    train(options.out, plan, 200 if options.quick else N_IMAGES)


if __name__ == "__main__":
    main()
