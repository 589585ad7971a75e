"""The stages of a training run: each writes its files and a record, and is skipped when both are there.

A run is a folder. `training.json` in it holds one record per finished stage: seed, steps, pictures, seconds and the
hash of the weights that it wrote; a stage is done again when any of these disagree.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from glasshouse.plugins.starter.activations import (
    ClipActivations,
    Images,
    clip_activations,
    dinoised_activations,
    untrained_root,
)
from glasshouse.plugins.starter.classifier import CHANNELS, save_classifier
from glasshouse.plugins.starter.models import (
    clip_vocab_size,
    load_clip,
    new_clip,
    weights_sha256,
)
from glasshouse.plugins.starter.training.classifier import CUES, labelled_scenes, train_classifier
from glasshouse.plugins.starter.training.clip import N_CAPTIONS, save_clip, train_clip
from glasshouse.plugins.starter.training.data import PictureSet, make_pictures
from glasshouse.plugins.starter.training.dinov2 import save_dinov2, train_dinov2
from glasshouse.plugins.starter.training.sae import recipe, train_sae
from glasshouse.plugins.starter.training.tokens import write_merges
from glasshouse.plugins.starter.world.scene import Cue, Stream, render_scene
from glasshouse.plugins.training.saving import save_trained

HOOK: Final = {"cls": "blocks.3.resid_post", "patches": "blocks.2.resid_post", "dinoised": "dinoised"}
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
    classifier_images: int
    classifier_epochs: int

    @classmethod
    def full(cls, seed: int) -> Plan:
        """The plan of the shipped weights: under 40 minutes on two idle cores."""
        return cls(seed, 40_000, 2_000, 30_000, 700, 5_000, 1_500, 6_000, 8)

    @classmethod
    def quick(cls, seed: int) -> Plan:
        """A rehearsal of a minute or two that checks the machinery; its weights are poor."""
        return cls(seed, 2_000, 30, 2_000, 20, 500, 100, 320, 1)


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
    """Train the dictionaries on the encoders of this run, and the same on untrained encoders as controls."""
    plan = run.plan
    weights = {name: weights_sha256(name, run.folder) for name in ("clip", "dinov2")}
    for control in (False, True):
        activations = _Activations(run, control)
        for name in HOOK:
            chosen = recipe(name, plan.seed, plan.sae_steps)
            settings: dict[str, Any] = {"seed": plan.seed, "images": plan.sae_images, "steps": plan.sae_steps}
            settings |= {"k": chosen.k, "encoder": weights["clip"]}

            def work(folder: Path, name: str = name, activations: _Activations = activations) -> None:
                chosen = recipe(name, plan.seed, plan.sae_steps)
                held_out_nd = activations.held_out(name)
                trained = train_sae(activations.training(name), held_out_nd, chosen)
                origin = _origin(name, None if activations.control else weights)
                about = {"images": plan.sae_images, "data": "scenes of the starter's world"}
                found = save_trained(folder, trained, held_out_nd, origin, about, half=True)
                run.say(f"  explained variance {found.explained_variance:.3f}, L0 {found.l0:.2f}")

            run.stage(f"{'control-' * control}sae-{name}", settings, work)


def classifier_stage(run: Run) -> None:
    """Train the classifier of the confounded world and its control."""
    plan = run.plan
    for name, cue in CUES.items():
        settings = {"seed": plan.seed, "images": plan.classifier_images, "epochs": plan.classifier_epochs, "cue": cue}

        def work(folder: Path, cue: Cue | float = cue, settings: dict[str, Any] = settings) -> None:
            scenes = labelled_scenes(plan.seed, Stream.CLASSIFIER_TRAINING, plan.classifier_images, cue)
            model = train_classifier(scenes, plan.seed, plan.classifier_epochs, run.report())
            save_classifier(model, folder, CHANNELS, settings)

        run.stage(name, settings, work)


class _Activations:
    """Activations of the run's encoders (or of untrained ones), computed when a stage first asks for them."""

    def __init__(self, run: Run, control: bool) -> None:
        self.control = control
        self._run = run
        self._clip, self._dinoised = dict[Stream, ClipActivations](), dict[Stream, torch.Tensor]()

    def training(self, name: str) -> torch.Tensor:
        """Rows [n, 128] to train on."""
        return self._rows(name, Stream.SAE_TRAINING, self._run.plan.sae_images)

    def held_out(self, name: str) -> torch.Tensor:
        """Rows [n, 128] for the self-test."""
        return self._rows(name, Stream.HELD_OUT, N_SELF_TEST)

    def _rows(self, name: str, stream: Stream, n_images: int) -> torch.Tensor:
        if name == "dinoised":
            if stream not in self._dinoised:
                self._dinoised[stream] = self._of_dinoised(self._images(stream, n_images))
            return self._dinoised[stream].flatten(0, 1)
        if stream not in self._clip:
            folder, seed = self._run.folder / "clip", self._run.plan.seed
            model = new_clip(clip_vocab_size(folder), seed) if self.control else load_clip(folder)
            self._clip[stream] = clip_activations(model, self._images(stream, n_images))
        acts = self._clip[stream]
        return acts.cls_nd if name == "cls" else acts.patches_ntd.flatten(0, 1)

    def _of_dinoised(self, images_nhwc: Images) -> torch.Tensor:
        if not self.control:
            return dinoised_activations(self._run.folder, images_nhwc)
        with untrained_root(self._run.folder, self._run.plan.seed) as folder:
            return dinoised_activations(folder, images_nhwc)

    def _images(self, stream: Stream, n_images: int) -> Images:
        seed = self._run.plan.seed
        return np.stack([render_scene(seed, index, stream=stream).image_hwc for index in range(n_images)])


def _origin(name: str, weights: dict[str, str] | None) -> dict[str, Any]:
    """What a dictionary was trained on; `weights` are the hashes of the encoders, None for untrained ones.

    `dinoised` has two weights files; the CLIP's, in whose space the vectors lie, stands for it.
    """
    encoder = "starter:dinoised" if name == "dinoised" else "starter:clip"
    return {
        "hook": HOOK[name],
        "tokens": "cls" if name == "cls" else "patches",
        "encoder": encoder if weights else f"untrained {encoder}",
        "encoder_weights_sha256": weights["clip"] if weights else None,
    }
