"""Writes the model card: what the models are, how they were made, and the held-out figures beside their controls."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any, Final

import torch

from glasshouse.plugins.starter.evaluate import TARGETS, Figures
from glasshouse.plugins.starter.models import NAMES
from glasshouse.plugins.starter.training.precision import has_fast_bfloat16

_TITLES: Final[dict[str, tuple[str, str, str]]] = {
    "zero-shot": (
        "CLIP, zero-shot",
        "Share of images for which the attribute's best-matching prompt is true; the watermark, wholes, parts and"
        " kinds of stripes are AUCs of one prompt. `crops` are cut around an object and scaled up; `one object`"
        " leaves out the scenes with two objects, which have two right answers.",
        "zero-shot",
    ),
    "neighbours": (
        "Dinov2Model, nearest neighbours",
        "Accuracy of a vote of the 10 nearest other images by cosine of the centred embedding.",
        "neighbours",
    ),
    "sae-cls": (
        "SAE on CLS tokens",
        "Of the 36 values: how many have a feature whose 20 strongest images show the value (purity over chance"
        " ≥ .9), and how many a feature that separates them (AUC > .95).",
        "features",
    ),
    "sae-patches": ("SAE on patch tokens", "The same, with a feature's maximum over the patches.", "features"),
    "sae-dinoised": (
        "SAE on patches in CLIP's space",
        "The same, on `starter:dinoised`; the control is trained on two untrained models.",
        "",
    ),
}  # fmt: skip

_HEAD: Final = """# Model card of the starter

Small models for the rendered starter world, trained together from one seed by
`python -m glasshouse.plugins.starter.train`. They are a default that makes the whole pipeline run offline with
results that can be checked against the truth. They know this world and nothing else.

- **clip/**: attribute-supervised CLIP. A vision transformer (64 pixels, patches of 8, width 128, 4 blocks) and a text
  transformer (width 64, 2 blocks), embedding 128, 1.0 million parameters, read by open_clip from a `local-dir:`.
  Trained on captions whose truth on every image is known; auxiliary losses from the ground truth (attributes of
  the image, class and outline of the object on each patch) fade out during training. So it is not evidence of
  what contrastive training alone would learn.
- **dinov2/**: a Dinov2Model (width 96, 4 layers, 0.47 million parameters) that transformers reads. Independently
  trained (other images, another initialisation, no text) and label-supervised: the truth says which images are alike.
- **sae-cls/**, **sae-patches/**: Matryoshka BatchTopK sparse autoencoders, 512 features each, prefixes 32, 64, 128,
  256 and 512; on the CLS token after the last block, and on the patch tokens that enter it.
- **sae-dinoised/**: the same on the patch features of `starter:dinoised`, which both encoders make together and which
  lie in the CLIP's embedding space.
- **control-sae-cls/**, **control-sae-patches/**, **control-sae-dinoised/**: the same dictionaries trained on encoders
  with untrained weights.
- **classifier/**: a CNN (four convolutions with batch normalisation and ReLU, 32, 64, 96 and 128 channels; average over
  the image; one linear layer; 187,176 parameters) that names the shape of the one object in an image. It is wrong on
  purpose: in the world that it is trained on, the watermark is on 99 % of the class `heart` and on 0.3 % of the others,
  so that it learns the watermark too, for an audit to find. Do not use it for anything else.
- **classifier-clean/**: its control, the same network from the same initial weights on the same scenes, of which as
  many carry the watermark, but of any class.

The dictionaries are trained like any that `glasshouse train` makes (docs/training.md).

The held-out scenes are drawn like those of `write_world`, from random streams that no training touches. The untrained
control has the same architecture with initial weights.
"""


def _table(figures: dict[str, Figures], targets: Figures) -> list[str]:
    lines = ["| figure | trained | untrained control | target | met |", "|---|---|---|---|---|"]
    for name, value in figures["trained"].items():
        target = targets.get(name)
        goal = "" if target is None else f"{target:g}"
        met = "" if target is None else "yes" if value >= target else "**no**"
        lines.append(f"| {name} | {value:.4g} | {figures['control'][name]:.4g} | {goal} | {met} |")
    return lines


def _classifier_table(figures: dict[str, Figures], n_images: int) -> list[str]:
    """Lines of the classifiers' section."""
    lines = ["### Classifiers", ""]
    lines += [
        f"Share of images whose shape is named, among {2 * n_images} of a balanced world: each class as often with the"
        f" watermark as without it. The first line is on {n_images} images of the confounded world, where the"
        " watermark helps. The last two count images of the seven other classes.",
        "",
    ]
    lines += [f"| figure | {' | '.join(figures)} |", "|---" * (1 + len(figures)) + "|"]
    for name in next(iter(figures.values())):
        lines.append(f"| {name} | {' | '.join(f'{found[name]:.4g}' for found in figures.values())} |")
    return [*lines, ""]


def read_figures(folder: Path) -> dict[str, Any]:
    """What the last evaluation of a run's folder wrote to `figures.json`; empty before there was one."""
    path = folder / "figures.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def write_card(folder: Path, figures: Any, records: dict[str, Any], n_images: int) -> None:
    """Write `MODEL_CARD.md` and `figures.json` into a run's folder.

    Args:
        folder: the run's folder.
        figures: what `evaluate_folder` returns.
        records: the finished stages of the run.
        n_images: number of held-out images.
    """
    lines = [_HEAD, f"## Held-out figures ({n_images} images)", ""]
    for name, (title, explanation, targets) in _TITLES.items():
        lines += [f"### {title}", "", explanation, "", *_table(figures[name], TARGETS.get(targets, {})), ""]
    lines += _classifier_table(figures["classifiers"], n_images)
    lines += ["## Self-test of the dictionaries", "", "| dictionary | explained variance | L0 | cosine | silent |"]
    lines += ["|---|---|---|---|---|"]
    for name, test in figures["self-tests"].items():
        shown = f"{test['explained_variance']:.3f} | {test['l0']:.2f} | {test['cosine']:.3f} | {test['dead_share']:.1%}"
        lines.append(f"| {name} | {shown} |")
    lines += ["", "Silent are features that are active on none of the vectors of the self-test.", ""]
    lines += ["Explained variance is no sign of quality: the controls reconstruct better and mean nothing.", ""]
    lines += ["## Training", "", "| stage | settings | seconds (wall) | threads |", "|---|---|---|---|"]
    for name in (name for name in NAMES if name in records):
        record = records[name]
        settings = ", ".join(f"{key} {value}" for key, value in record["settings"].items() if key != "encoder")
        lines.append(f"| {name} | {settings} | {record['seconds']:g} | {record['threads']} |")
    precision = "bfloat16" if has_fast_bfloat16() else "float32"
    lines += [
        "",
        f"Matrix products in {precision} (chosen by the processor), torch {torch.__version__.split('+')[0]},"
        f" {platform.machine()}. Seconds are wall time and count other work on the machine too.",
    ]
    (folder / "MODEL_CARD.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
