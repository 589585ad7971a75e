"""One network in three widths, trained on the starter's world of classes without the confound.

They answer whether wider networks of one kind score lower polysemanticity: same depth, same scenes, same recipe, only
the channels differ. Training takes minutes, so the weights are kept in a folder that the caller names.

`python -m benchmarks.classifiers FOLDER` trains what is missing there and prints how well each width does.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.timing import say, seconds
from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import EncoderLoader
from glasshouse.plugins.encoders.hooked import HookedEncoder
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.starter.classifier import CHANNELS, load_classifier, load_folder, save_classifier
from glasshouse.plugins.starter.evaluate_classifier import predicted
from glasshouse.plugins.starter.training.classifier import labelled_scenes, train_classifier
from glasshouse.plugins.starter.training.stages import Plan
from glasshouse.plugins.starter.world.scene import CUE_RATE, Stream
from glasshouse.schema.errors import unknown_name

WIDTHS = (0.5, 1.0, 2.0)
"""Times the channels of the starter's classifier: 64, 128 and 256 in the last convolution."""
SEED = 0
SCHEME = "width"
"""Encoders of a warehouse with `plugins_of_widths` are `width:0.5`, `width:1.0` and `width:2.0`."""
N_TRAINING, N_EPOCHS = 12_000, 4
N_HELD_OUT = 1_600
N_QUICK = 320


def encoders_of_widths(folder: Path, *, quick: bool = False) -> dict[float, HookedEncoder]:
    """The encoder of each width, trained on the first call and read from `folder` after that.

    Args:
        folder: where the weights are kept.
        quick: train on a handful of scenes; the networks know next to nothing.
    """
    return {width: encoder_of_width(folder, width, quick=quick) for width in WIDTHS}


def encoder_of_width(folder: Path, width: float, *, quick: bool = False) -> HookedEncoder:
    """The encoder of one width, trained where `folder` does not hold it yet."""
    return load_folder(_trained(folder, width, quick), "cpu", f"{SCHEME}:{width}")


def plugins_of_widths(folder: Path, *, quick: bool = False) -> Plugins:
    """The built-in plugins, and the scheme `width:` beside them, for warehouses whose spaces are of these networks."""
    plugins = Plugins(external=False)
    plugins.manager.register(_Scheme(folder, quick), __name__)
    return plugins


def accuracy_of_width(folder: Path, width: float, *, quick: bool = False) -> float:
    """Share of held-out scenes whose shape is named."""
    scenes = labelled_scenes(SEED, Stream.CLASSIFIER_HELD_OUT, N_QUICK if quick else N_HELD_OUT, CUE_RATE)
    model = load_classifier(_trained(folder, width, quick))
    return float((predicted(model, scenes) == scenes.class_n).mean())


class _Scheme:
    """The plugin that registers `width:`."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self._folder, self._quick = folder, quick

    @hookimpl
    def register_encoders(self, register: Register[EncoderLoader]) -> None:
        register(SCHEME, EncoderLoader(self._load, "the starter's classifier in three widths"))

    def _load(self, name: str, device: str) -> HookedEncoder:
        known = {str(width): width for width in WIDTHS}
        if name not in known:
            raise unknown_name("width", name, known)
        return load_folder(_trained(self._folder, known[name], self._quick), device, f"{SCHEME}:{name}")


def _trained(folder: Path, width: float, quick: bool) -> Path:
    """The folder of one width's weights; trains them unless they are there."""
    small = Plan.quick(SEED)
    n_images, n_epochs = (small.classifier_images, small.classifier_epochs) if quick else (N_TRAINING, N_EPOCHS)
    place = folder / f"width-{width}{'-quick' * quick}"
    if (place / "config.json").is_file():
        return place
    channels = [round(width * n) for n in CHANNELS]

    def train() -> None:
        scenes = labelled_scenes(SEED, Stream.CLASSIFIER_TRAINING, n_images, CUE_RATE)
        model = train_classifier(scenes, SEED, n_epochs, channels=channels)
        training = {"seed": SEED, "images": n_images, "epochs": n_epochs, "cue": CUE_RATE}
        save_classifier(model, place, channels, training)

    say(f"  width {width}: trained in {seconds(train):.0f} s")
    return place


def main(words: Sequence[str] | None = None) -> None:
    """Train what is missing, and print accuracies."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.classifiers", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the weights are kept")
    parser.add_argument("--quick", action="store_true", help="train on a handful of scenes: shows that it runs")
    options = parser.parse_args(words)
    for width, encoder in encoders_of_widths(options.folder, quick=options.quick).items():
        found = accuracy_of_width(options.folder, width, quick=options.quick)
        print(f"{encoder.spec}: {encoder.embedding_width} channels at the end, accuracy {found:.4f}")


if __name__ == "__main__":
    main()
