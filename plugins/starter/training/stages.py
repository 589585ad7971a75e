"""The stages of a training run: each writes its files and a record, and is skipped when both are there.

A run is a folder. `training.json` in it holds one record per finished stage: seed, steps, pictures, seconds and the
hash of the weights that it wrote; a stage is done again when any of these disagree.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from glasshouse.plugins.starter.activations import ClipActivations, clip_activations
from glasshouse.plugins.starter.dictionary import reconstruction
from glasshouse.plugins.starter.models import (
    clip_vocab_size,
    load_clip,
    new_clip,
    weights_sha256,
)
from glasshouse.plugins.starter.training.clip import N_CAPTIONS, save_clip, train_clip
from glasshouse.plugins.starter.training.data import PictureSet, make_pictures
from glasshouse.plugins.starter.training.dinov2 import save_dinov2, train_dinov2
from glasshouse.plugins.starter.training.sae import PREFIXES, K, train_sae
from glasshouse.plugins.starter.training.tokens import write_merges
from glasshouse.plugins.starter.world.scene import Stream, render_scene

HOOK: Final = {"cls": "blocks.3.resid_post", "patches": "blocks.2.resid_post"}
N_SELF_TEST: Final = 500
"""Held-out images for a dictionary's self-test."""


@dataclass(frozen=True)
class Plan:
    """How much to train. The defaults of `full` are what the shipped weights were made with."""

    seed: int
    clip_pictures: int
    clip_steps: int
    dinov2_pictures: int
    dinov2_steps: int
    sae_images: int
    sae_steps: int

    @classmethod
    def full(cls, seed: int) -> Plan:
        """The plan of the shipped weights: under 40 minutes on two idle cores."""
        return cls(seed, 40_000, 2_000, 30_000, 700, 5_000, 1_500)

    @classmethod
    def quick(cls, seed: int) -> Plan:
        """A rehearsal of a minute or two that checks the machinery; its weights are poor."""
        return cls(seed, 2_000, 30, 2_000, 20, 500, 100)


class Run:
    """A training run in a folder: which stages are done, and what is said on stderr."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self._path = folder / "training.json"
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """Records of the finished stages, read anew: two stages may be under way in two processes."""
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else "{}"
        records: dict[str, dict[str, Any]] = json.loads(text)
        return records

    def say(self, text: str) -> None:
        """One line of progress."""
        print(text, file=sys.stderr, flush=True)

    def stage(self, name: str, settings: dict[str, Any], work: Callable[[Path], None]) -> None:
        """Do a stage unless the folder holds its result for the same settings."""
        folder = self.folder / name
        done = self.records.get(name, {})
        if done.get("settings") == settings and done.get("sha256") == _hash(name, self.folder):
            self.say(f"{name}: already there")
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.say(f"{name}: {settings}")
        start, cpu_start = time.monotonic(), time.process_time()
        work(folder)
        for path in folder.iterdir():
            path.chmod(0o644)
        seconds = round(time.monotonic() - start, 1)
        record = {"settings": settings, "seconds": seconds, "sha256": _hash(name, self.folder)}
        record |= {"cpu_seconds": round(time.process_time() - cpu_start, 1), "threads": torch.get_num_threads()}
        records = {**self.records, name: record}
        self._path.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
        self.say(f"{name}: done in {seconds} s")

    def report(self, every: int = 50) -> Callable[[int, dict[str, float]], None]:
        """A callback that prints the losses every so many steps."""

        def print_losses(step: int, losses: dict[str, float]) -> None:
            if step % every == 0:
                values = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
                self.say(f"  step {step}: {values}")

        return print_losses


def _hash(name: str, root: Path) -> str | None:
    try:
        return weights_sha256(name, root)
    except FileNotFoundError:
        return None


def _pictures(run: Run, stream: Stream, n_pictures: int, n_captions: int) -> PictureSet:
    run.say(f"  rendering {n_pictures} pictures")
    return make_pictures(run.plan.seed, int(stream), n_pictures, n_captions)


def clip_stage(run: Run) -> None:
    """Train the CLIP into `clip/`."""
    plan = run.plan

    def work(folder: Path) -> None:
        vocab_size = write_merges(folder)
        pictures = _pictures(run, Stream.CLIP_TRAINING, plan.clip_pictures, N_CAPTIONS)
        model = train_clip(pictures, folder, vocab_size, plan.seed, plan.clip_steps, run.report())
        save_clip(model, folder, vocab_size)

    settings = {"seed": plan.seed, "pictures": plan.clip_pictures, "steps": plan.clip_steps}
    run.stage("clip", settings, work)


def dinov2_stage(run: Run) -> None:
    """Train the Dinov2Model into `dinov2/`."""
    plan = run.plan

    def work(folder: Path) -> None:
        pictures = _pictures(run, Stream.DINOV2_TRAINING, plan.dinov2_pictures, 1)
        save_dinov2(train_dinov2(pictures, plan.seed, plan.dinov2_steps, run.report()), folder)

    settings = {"seed": plan.seed, "pictures": plan.dinov2_pictures, "steps": plan.dinov2_steps}
    run.stage("dinov2", settings, work)


def sae_stage(run: Run) -> None:
    """Train both dictionaries on the CLIP of this run, and the same on an untrained CLIP as controls."""
    plan, encoder = run.plan, weights_sha256("clip", run.folder)
    settings = {"seed": plan.seed, "images": plan.sae_images, "steps": plan.sae_steps, "encoder": encoder}
    for control in (False, True):
        activations = _Activations(run, control)
        for tokens in ("cls", "patches"):

            def work(folder: Path, tokens: str = tokens, activations: _Activations = activations) -> None:
                found = train_sae(activations.training(tokens), K[tokens], plan.seed, plan.sae_steps)
                about = _describe(plan, tokens, None if activations.control else encoder)
                about["self_test"] = reconstruction(found, activations.held_out(tokens))
                replace(found, description=about).save(folder)
                run.say(f"  {about['self_test']}")

            run.stage(f"{'control-' * control}sae-{tokens}", settings, work)


class _Activations:
    """Activations of the run's CLIP (or of an untrained one), computed when a stage first asks for them."""

    def __init__(self, run: Run, control: bool) -> None:
        self.control = control
        self._run, self._acts = run, dict[Stream, ClipActivations]()

    def training(self, tokens: str) -> torch.Tensor:
        """Rows [n, 128] to train on."""
        return self._rows(tokens, Stream.SAE_TRAINING, self._run.plan.sae_images)

    def held_out(self, tokens: str) -> torch.Tensor:
        """Rows [n, 128] for the self-test."""
        return self._rows(tokens, Stream.HELD_OUT, N_SELF_TEST)

    def _rows(self, tokens: str, stream: Stream, n_images: int) -> torch.Tensor:
        if stream not in self._acts:
            folder, seed = self._run.folder / "clip", self._run.plan.seed
            model = new_clip(clip_vocab_size(folder), seed) if self.control else load_clip(folder)
            images = [render_scene(seed, index, stream=stream).image_hwc for index in range(n_images)]
            self._acts[stream] = clip_activations(model, np.stack(images))
        acts = self._acts[stream]
        return acts.cls_nd if tokens == "cls" else acts.patches_ntd.flatten(0, 1)


def _describe(plan: Plan, tokens: str, encoder: str | None) -> dict[str, Any]:
    """The description of a dictionary; `encoder` is the hash of the CLIP's weights, None for an untrained one."""
    return {
        "format": 1,
        "activation": "batchtopk",
        "k": K[tokens],
        "apply_b_dec_to_input": True,
        "normalization": "none",
        "prefixes": list(PREFIXES),
        "hook": HOOK[tokens],
        "tokens": tokens,
        "encoder": "starter:clip" if encoder else "untrained starter:clip",
        "encoder_weights_sha256": encoder,
        "training": {"images": plan.sae_images, "steps": plan.sae_steps, "seed": plan.seed},
    }
