"""Measures the starter's models on held-out scenes, each figure beside that of an untrained control.

The held-out scenes are those of the world as `write_world` makes it, from a stream of their own. Used by the
training script for the model card, and by tests and benchmarks on the shipped weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from glasshouse.plugins.starter.activations import (
    ClipActivations,
    clip_activations,
    dinoised_activations,
    dinov2_embeddings,
    text_embeddings,
    untrained_root,
)
from glasshouse.plugins.starter.dictionary import Dictionary
from glasshouse.plugins.starter.evaluate_classifier import classifier_figures
from glasshouse.plugins.starter.measures import (
    auc_table,
    choice_accuracy,
    feature_figures,
    neighbour_accuracies,
    value_table,
)
from glasshouse.plugins.starter.models import (
    Tokenizer,
    clip_tokenizer,
    clip_vocab_size,
    load_clip,
    load_dinov2,
    new_clip,
    new_dinov2,
)
from glasshouse.plugins.starter.training.data import Picture, cropped_picture
from glasshouse.plugins.starter.world.captions import prompt
from glasshouse.plugins.starter.world.scene import Scene, Stream, render_scene
from glasshouse.plugins.starter.world.vocabulary import CORE_ATTRIBUTES, PARTS, STRIPE_KINDS, WHOLES

N_IMAGES: Final = 2_000
Figures = dict[str, float]

TARGETS: Final[dict[str, Figures]] = {
    "zero-shot": {
        **dict.fromkeys(CORE_ATTRIBUTES, 0.98), "shape": 0.97, "texture": 0.96, "watermark": 0.99,
        "polygon or round": 0.98, "warm or cool": 0.98, "crops: shape": 0.94,
    },
    "neighbours": {**dict.fromkeys(CORE_ATTRIBUTES, 0.85), "shape": 0.87, "texture": 0.83, "watermark": 0.98},
    "features": {"values with a pure feature": 34.0, "values with AUC > .95": 24.0},
}  # fmt: skip
"""What the shipped weights are meant to reach. `watermark` among the zero-shot figures is an AUC."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out scenes, one crop around an object of each, and their truth as bit sets."""

    scenes: list[Scene]

    @cached_property
    def images_nhwc(self) -> npt.NDArray[np.uint8]:
        """Images [n, 64, 64, 3]."""
        return np.stack([scene.image_hwc for scene in self.scenes])

    @cached_property
    def facts_n(self) -> npt.NDArray[np.uint64]:
        """Bits [n] of every value that is true of anything in the scene."""
        return np.array([scene.all_facts for scene in self.scenes], dtype=np.uint64)

    @cached_property
    def true_nv(self) -> npt.NDArray[np.bool_]:
        """Truth [n, 36] of the core values."""
        return value_table(self.facts_n)

    @cached_property
    def _crops(self) -> list[Picture]:
        streams = ((scene, (scene.seed, int(Stream.HELD_OUT) + 1, scene.index)) for scene in self.scenes)
        return [cropped_picture(scene, np.random.default_rng(stream)) for scene, stream in streams]

    @cached_property
    def crops_nhwc(self) -> npt.NDArray[np.uint8]:
        """Crops [n, 64, 64, 3]."""
        return np.stack([crop.image_hwc for crop in self._crops])

    @cached_property
    def crop_facts_n(self) -> npt.NDArray[np.uint64]:
        """Bits [n] of every value that is certain of the crop."""
        certain = [[crop.facts.scene[0], *(facts for facts, _ in crop.facts.objects)] for crop in self._crops]
        return np.array([reduce(or_, facts) for facts in certain], dtype=np.uint64)


def held_out(seed: int = 0, n_images: int = N_IMAGES) -> HeldOut:
    """Render the held-out scenes of a seed."""
    return HeldOut([render_scene(seed, index, stream=Stream.HELD_OUT) for index in range(n_images)])


def _scores(images_nd: torch.Tensor, model: Any, tokenize: Tokenizer, values: tuple[str, ...]) -> Any:
    texts_vd = text_embeddings(model, tokenize, [prompt(value) for value in values])
    return (images_nd @ texts_vd.T).numpy()


def zero_shot_figures(
    model: Any, tokenize: Tokenizer, pictures: HeldOut, acts: ClipActivations | None = None
) -> Figures:
    """Zero-shot accuracy by attribute from the prompts of the vocabulary.

    The watermark, a house, a face, their parts and the kinds of stripes are AUCs of one prompt's similarity; the
    choice between two prompts would be at the mercy of their offset. Crops are judged by what is certain of them.
    """
    images_nd = (acts or clip_activations(model, pictures.images_nhwc)).embedding_nd
    crops_nd = clip_activations(model, pictures.crops_nhwc).embedding_nd
    alone_n = np.array([len(scene.objects) == 1 for scene in pictures.scenes])
    figures: Figures = {}
    choices = {a: v for a, v in CORE_ATTRIBUTES.items() if len(v) > 1}
    choices |= {"polygon or round": ("polygon", "round"), "warm or cool": ("warm", "cool")}
    for attribute, values in choices.items():
        scores_nv, true_nv = _scores(images_nd, model, tokenize, values), value_table(pictures.facts_n, values)
        figures[attribute] = choice_accuracy(scores_nv, true_nv)
        if attribute in ("shape", "texture"):
            figures[f"one object: {attribute}"] = choice_accuracy(scores_nv[alone_n], true_nv[alone_n])
            crop_scores_nv = _scores(crops_nd, model, tokenize, values)
            figures[f"crops: {attribute}"] = choice_accuracy(crop_scores_nv, value_table(pictures.crop_facts_n, values))
    marks = ("watermark", *WHOLES, *PARTS, *STRIPE_KINDS)
    scores_nv, true_nv = _scores(images_nd, model, tokenize, marks), value_table(pictures.facts_n, marks)
    for column, value in enumerate(marks):
        auc = auc_table(scores_nv[:, column : column + 1], true_nv[:, column : column + 1])
        figures[value] = float(auc[0, 0])
    return figures


def neighbour_figures(model: Any, pictures: HeldOut) -> Figures:
    """Accuracy by attribute of the ten nearest neighbours in the Dinov2Model's centred embedding."""
    return neighbour_accuracies(dinov2_embeddings(model, pictures.images_nhwc).numpy(), pictures.true_nv)


@torch.no_grad()
def image_codes(dictionary: Dictionary, acts: ClipActivations | torch.Tensor) -> npt.NDArray[np.floating]:
    """Features [n, features] of each image; for a dictionary of patches the maximum over the patches.

    Args:
        dictionary: of CLS or of patches.
        acts: what the CLIP makes of the images, or the patch tokens [n, t, width] of another encoder.
    """
    if isinstance(acts, torch.Tensor):
        patches_ntd = acts
    elif dictionary.description.get("tokens") == "patches":
        patches_ntd = acts.patches_ntd
    else:
        return dictionary.encode(acts.cls_nd).numpy()
    return np.stack([dictionary.encode(tokens_td).amax(0).numpy() for tokens_td in patches_ntd])


def dictionary_figures(dictionary: Dictionary, acts: ClipActivations | torch.Tensor, pictures: HeldOut) -> Figures:
    """Pure and separating features of a dictionary on held-out images."""
    return feature_figures(image_codes(dictionary, acts), pictures.true_nv)


def shortfalls(figures: Figures, targets: Figures) -> dict[str, tuple[float, float]]:
    """(figure, target) of every target that is not met."""
    return {name: (figures[name], target) for name, target in targets.items() if figures[name] < target}


def evaluate_folder(root: Path, seed: int = 0, n_images: int = N_IMAGES) -> dict[str, dict[str, Figures]]:
    """Every figure of the model card for the weights in a folder.

    Returns:
        By section (`zero-shot`, `neighbours`, `sae-cls`, `sae-patches`, `sae-dinoised`) the figures `trained` and
        `control`; under `classifiers` those of each classifier; under `self-tests` the self-test of each dictionary.
    """
    pictures = held_out(seed, n_images)
    tokenize = clip_tokenizer(root / "clip")
    untrained = new_clip(clip_vocab_size(root / "clip"), seed)
    clips = {"trained": load_clip(root / "clip"), "control": untrained}
    encoders = {"trained": load_dinov2(root / "dinov2"), "control": new_dinov2(seed)}
    acts = {kind: clip_activations(model, pictures.images_nhwc) for kind, model in clips.items()}
    figures: dict[str, dict[str, Figures]] = {
        "zero-shot": {k: zero_shot_figures(m, tokenize, pictures, acts[k]) for k, m in clips.items()},
        "neighbours": {kind: neighbour_figures(model, pictures) for kind, model in encoders.items()},
    }
    with untrained_root(root, seed) as empty:
        places = {"trained": root, "control": empty}
        dinoised = {kind: dinoised_activations(place, pictures.images_nhwc) for kind, place in places.items()}
    tests: dict[str, Figures] = {}
    for name in ("sae-cls", "sae-patches", "sae-dinoised"):
        figures[name] = {}
        for kind, folder in (("trained", name), ("control", f"control-{name}")):
            dictionary = Dictionary.load(root / folder)
            found = dinoised[kind] if name == "sae-dinoised" else acts[kind]
            figures[name][kind] = dictionary_figures(dictionary, found, pictures)
            tests[folder] = dictionary.description["self_test"]
    return {**figures, "classifiers": classifier_figures(root, seed, n_images), "self-tests": tests}
