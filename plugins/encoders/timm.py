"""timm: CNNs and ViTs, from the hub and from local folders.

Specs (after `timm:`):
    resnet50.a1_in1k      published weights
    resnet50/random:7     the architecture with random weights drawn from seed 7: for benchmarks and tests, its
                          features mean nothing
    hf-hub:ORG/NAME       a repository in timm's layout
    FOLDER                config.json and model.safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import EncoderLoader
from glasshouse.plugins.encoders.hooked import HookedEncoder, Tower
from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.plugins.encoders.seeds import seed_of, seeded
from glasshouse.plugins.encoders.taps import timm_taps
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.hub import hub_errors, one_line
from glasshouse.schema.errors import ModelError

PLACE = (
    "Without a hub, place config.json and model.safetensors of that model in a folder and use --encoder timm:FOLDER."
)
FOLDER_HOLDS = "A timm folder holds config.json and model.safetensors."


@hookimpl
def register_encoders(register: Register[EncoderLoader]) -> None:
    """Register `timm:`."""
    register("timm", EncoderLoader(load, "CNNs and ViTs of timm, e.g. timm:resnet50.a1_in1k"))


def load(name: str, device: str) -> HookedEncoder:
    """Load the encoder that `name` stands for, see the module's docstring.

    Raises:
        ModelError: no such model, or its files cannot be had or read.
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return load_folder(folder.resolve(), device, f"timm:{folder.resolve()}")
    spec, timm = f"timm:{name}", _library()
    if name.startswith("hf-hub:"):
        with hub_errors(spec, PLACE):
            return _encoder(timm.create_model(name, pretrained=True), spec, device, published=True)
    architecture, _, random = name.partition("/")
    seed = seed_of(spec, random) if random else None
    if seed is not None:
        _check_name(architecture, with_weights=False)
        with seeded(seed):
            return _encoder(timm.create_model(architecture, pretrained=False), spec, device)
    if name.startswith((".", "/", "~")) or random:
        raise ModelError(f"There is no folder {name}. {FOLDER_HOLDS}")
    _check_name(name, with_weights=True)
    with hub_errors(spec, PLACE):
        return _encoder(timm.create_model(name, pretrained=True), spec, device, published=True)


def load_folder(folder: Path, device: str, spec: str) -> HookedEncoder:
    """Load a folder in timm's layout; `spec` is the name it goes by.

    Raises:
        ModelError: files are missing or do not fit each other.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json. {FOLDER_HOLDS}")
    if not any((*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.pth"))):
        raise ModelError(f"{folder} has no weights. {FOLDER_HOLDS}")
    try:
        return _encoder(_library().create_model(f"local-dir:{folder}", pretrained=True), spec, device)
    except ModelError:
        raise
    except Exception as error:  # the library raises whatever its parts raise
        raise ModelError(f"{folder} cannot be loaded by timm: {one_line(error)}. {FOLDER_HOLDS}") from error


def _encoder(model: Any, spec: str, device: str, *, published: bool = False) -> HookedEncoder:
    from timm.data import resolve_model_data_config  # late: _library() has imported it already

    model.eval()
    transform = transform_of(resolve_model_data_config(model), spec)
    known = model.pretrained_cfg or {}
    tower = Tower(
        model=model,
        taps=timm_taps(model, transform.output_size),
        embed_images=lambda batch_bchw: model.forward_head(model.forward_features(batch_bchw), pre_logits=True),
        transform=transform,
        architecture={
            "library": "timm",
            "class": type(model).__name__,
            "architecture": known.get("architecture"),
            "model_args": _json_able(known.get("model_args") or {}),
        },
    )
    if getattr(model, "num_classes", 0):
        tower.classify = lambda batch_bchw: model.forward_head(model.forward_features(batch_bchw))
        tower.class_names = class_names_of(known, int(model.num_classes), published=published)
    return HookedEncoder(spec, tower, device)


def class_names_of(known: Mapping[str, Any], n_classes: int, *, published: bool) -> list[str] | None:
    """Names of a classifier's outputs, where the model's configuration says them.

    Args:
        known: the model's `pretrained_cfg`; `label_names` (a list, or numbers to names) and `label_descriptions`
            (names to words) come from config.json.
        n_classes: of the model; other numbers of names are those of another classifier.
        published: the weights are those that `known` speaks of. Then a tag that ends in `in1k` says that its outputs
            are the 1,000 classes of ImageNet, whose words timm knows.
    """
    from timm.data import ImageNetInfo  # late: _library() has imported it already

    labels, words = known.get("label_names") or (), dict(known.get("label_descriptions") or {})
    if isinstance(labels, Mapping):  # JSON turns numbers into strings
        labels = [labels[key] for number in range(len(labels)) if (key := str(number)) in labels]
    if len(labels) == n_classes:
        return [str(words.get(label, label)) for label in labels]
    if published and n_classes == 1000 and str(known.get("tag") or "").endswith("in1k"):
        return [str(name) for name in ImageNetInfo().label_descriptions()]
    return None


def transform_of(config: Mapping[str, Any], spec: str) -> ImageTransform:
    """Translate timm's data configuration for evaluation.

    Raises:
        ModelError: the model takes something else than three colour channels.
    """
    channels, height, width = config["input_size"]
    if channels != 3:
        raise ModelError(f"{spec} takes images of {channels} channels; only models of 3 are supported.")
    scaled = (math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"]))
    mode = {"squash": "squash", "border": "fit"}.get(config["crop_mode"]) or (
        "shortest" if scaled[0] == scaled[1] else "fill"
    )
    mean, std = tuple(map(float, config["mean"])), tuple(map(float, config["std"]))
    border = tuple(round(255 * value) for value in mean) if mode == "fit" else (0, 0, 0)
    return ImageTransform(
        resize=mode,  # type: ignore[arg-type]  # one of the four above
        resize_to=scaled,
        interpolation="bicubic" if config["interpolation"] == "random" else config["interpolation"],
        crop_to=(height, width),
        mean=mean,  # type: ignore[arg-type]  # three channels
        std=std,  # type: ignore[arg-type]
        fill_color=border,  # type: ignore[arg-type]
    )


def _check_name(name: str, *, with_weights: bool) -> None:
    timm = _library()
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.5)
        raise ModelError(
            f"timm has no model '{architecture}'. Close ones: {', '.join(close) or 'none'}. "
            "`python -c 'import timm; print(timm.list_models())'` lists them all."
        )
    weights = timm.list_pretrained(f"{architecture}.*") or timm.list_pretrained(architecture)
    if with_weights and tag and name not in weights:
        raise ModelError(f"timm has no weights '{tag}' of {architecture}. Known: {', '.join(weights) or 'none'}.")


def _json_able(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _library() -> Any:
    # Late: they take seconds to import.
    from glasshouse.plugins.encoders.torchvision_shim import ensure_torchvision_operators

    ensure_torchvision_operators()
    import timm

    return timm
