"""torchvision: its classifiers, with published weights, from local state dicts, or with random weights.

Specs (after `torchvision:`):
    resnet50                          the best published weights of an architecture
    resnet50.IMAGENET1K_V1            others of them
    resnet50@FILE                     a state dict of yours (.pth read with weights_only, or .safetensors)
    resnet50.IMAGENET1K_V1@FILE       the published file, fetched elsewhere: its preprocessing and class names too
    resnet50/random:7                 random weights drawn from seed 7: for benchmarks and tests
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import EncoderLoader
from glasshouse.plugins.encoders.heads import embedding_before_head
from glasshouse.plugins.encoders.hooked import HookedEncoder, Tower
from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.plugins.encoders.seeds import seed_of, seeded
from glasshouse.plugins.encoders.state_dicts import fill, read_state_dict
from glasshouse.plugins.encoders.taps import block_taps, map_taps
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.hub import PATIENCE_SECONDS, one_line
from glasshouse.plugins.saes.inert_pickle import load_tensors
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from glasshouse.plugins.encoders.tapping import Tap

IMAGENET = ImageTransform(
    resize="shortest",
    resize_to=(256, 256),
    interpolation="bilinear",
    crop_to=(224, 224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
"""What torchvision's classifiers were trained with, unless their weights say otherwise."""

WITH_SIDE_CLASSIFIERS = ("googlenet", "inception_v3")
SIDE_CLASSIFIERS = ("aux", "AuxLogits")
OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")


@hookimpl
def register_encoders(register: Register[EncoderLoader]) -> None:
    """Register `torchvision:`."""
    register("torchvision", EncoderLoader(load, "classifiers of torchvision, e.g. torchvision:resnet50"))


def load(name: str, device: str) -> HookedEncoder:
    """Load the encoder that `name` stands for, see the module's docstring.

    Raises:
        ModelError: no such model, or its weights cannot be had, read or put in.
    """
    rest, at, path = name.partition("@")
    rest, slash, random = rest.partition("/")
    architecture, _, tag = rest.partition(".")
    _check_name(architecture)
    weights = _weights(architecture, tag) if tag else None
    if at:
        file = Path(path).expanduser().resolve()
        spec = f"torchvision:{rest}@{file}"
        return _encoder(_from_file(spec, architecture, weights, file), spec, device, architecture, weights)
    spec = f"torchvision:{name}"
    if slash:
        seed = None if tag else seed_of(spec, random)
        if seed is None:
            raise ModelError(
                f"{spec} names no weights. Write torchvision:{architecture}, torchvision:{architecture}@FILE or "
                f"torchvision:{architecture}/random:0."
            )
        with seeded(seed):
            model = _built(architecture, **_options(architecture, init_weights=True))
        return _encoder(model, spec, device, architecture, None)
    weights = weights or _weights(architecture, "DEFAULT")
    return _encoder(_published(spec, architecture, weights), spec, device, architecture, weights)


def _encoder(model: Any, spec: str, device: str, architecture: str, weights: Any) -> HookedEncoder:
    model.eval()
    transform = IMAGENET if weights is None else transform_of(weights.transforms())
    names = None if weights is None else [str(name) for name in weights.meta["categories"]]
    tower = Tower(
        model=model,
        taps=taps_of(model, transform.output_size),
        embed_images=embedding_before_head(spec, model, transform.output_size, model),
        transform=transform,
        architecture={
            "library": "torchvision",
            "architecture": architecture,
            "transform_input": bool(getattr(model, "transform_input", False)),
        },
        classify=model,
        class_names=names,
    )
    return HookedEncoder(spec, tower, device)


def taps_of(model: nn.Module, images_hw: tuple[int, int]) -> dict[str, Tap]:
    """Hook points: blocks of a ViT, module paths of everything else."""
    blocks: Any = getattr(getattr(model, "encoder", None), "layers", None)
    if blocks is not None and hasattr(model, "patch_size") and hasattr(model, "class_token"):
        patch = int(model.patch_size)  # type: ignore[arg-type]  # torch types every attribute as a module
        return block_taps(blocks.children(), 1, (images_hw[0] // patch, images_hw[1] // patch))
    return map_taps(model, images_hw, "nhwc" if type(model).__name__.startswith("Swin") else "nchw")


def transform_of(preset: Any) -> ImageTransform:
    """Translate the preprocessing of published weights (`ImageClassification`)."""
    side, crop = int(preset.resize_size[0]), int(preset.crop_size[0])
    mean, std = tuple(map(float, preset.mean)), tuple(map(float, preset.std))
    return ImageTransform(
        resize="shortest",
        resize_to=(side, side),
        interpolation=str(preset.interpolation.value),
        crop_to=(crop, crop),
        mean=mean,  # type: ignore[arg-type]  # three channels
        std=std,  # type: ignore[arg-type]
    )


def _published(spec: str, architecture: str, weights: Any) -> Any:
    """Fetch published weights into torch's cache unless they lie there, and build the model."""
    import urllib.request  # late: it brings a mail client's worth of modules

    import torch  # late: it takes a second to import

    file = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
    if not file.is_file():
        elsewhere = (
            f"Without a network, fetch {weights.url} elsewhere and type torchvision:{architecture}.{weights.name}@FILE."
        )
        try:
            request = urllib.request.Request(weights.url, method="HEAD")
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS):
                pass  # torch's own download waits for ever
            file.parent.mkdir(parents=True, exist_ok=True)
            hash_in_name = file.stem.rpartition("-")[2]
            torch.hub.download_url_to_file(weights.url, str(file), hash_in_name, progress=False)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
            inner = getattr(error, "reason", None)
            reason = inner if isinstance(inner, OSError) else error
            raise ModelError(
                f"{spec} cannot be loaded: its weights cannot be fetched ({one_line(reason)}). {elsewhere}"
            ) from error
    load_tensors(file)  # torchvision itself would unpickle whatever is in it
    return _built(architecture, weights=weights)


def _from_file(spec: str, architecture: str, weights: Any, file: Path) -> Any:
    """Build a model with as many classes as a state dict has, and fill it."""
    state = read_state_dict(file, f"{spec}: ")
    state = {OLD_DENSENET_NAME.sub(r"\1\2.", name): tensor for name, tensor in state.items()}
    options = _options(architecture, init_weights=False)
    if architecture in WITH_SIDE_CLASSIFIERS:
        options["aux_logits"] = any(name.startswith(SIDE_CLASSIFIERS) for name in state)
        options["transform_input"] = weights is not None
    if architecture.startswith("vit_") and weights is not None:
        options["image_size"] = int(weights.transforms().crop_size[0])
    model = _built(architecture, **options)
    head = f"{_head_of(model)}.weight"
    n_classes = len(state.get(head, ()))
    if n_classes and n_classes != len(model.state_dict()[head]):
        model = _built(architecture, **options, num_classes=n_classes)
    fill(model, state, file, f"torchvision's {architecture}")
    return model


def _head_of(model: nn.Module) -> str:
    """Path of the layer that gives the logits; torchvision declares it last."""
    import torch  # late: it takes a second to import

    layers: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) and not name.startswith(SIDE_CLASSIFIERS)
    ]
    return layers[-1]


def _options(architecture: str, *, init_weights: bool) -> dict[str, Any]:
    """What must be said to these two so that they do not warn."""
    return {"init_weights": init_weights} if architecture in WITH_SIDE_CLASSIFIERS else {}


def _built(architecture: str, weights: Any = None, **options: Any) -> Any:
    return _models().get_model(architecture, weights=weights, **options)


def _weights(architecture: str, tag: str) -> Any:
    """Published weights of an architecture by their name.

    Raises:
        ModelError: there are none of this name.
    """
    known: Mapping[str, Any] = _models().get_model_weights(architecture).__members__
    if tag not in known:
        names = [name for name in known if name != "DEFAULT"]
        raise ModelError(f"torchvision has no weights '{tag}' of {architecture}. Known: {', '.join(names)}.")
    return known[tag]


def _check_name(architecture: str) -> None:
    models = _models()
    known = models.list_models(module=models)
    if architecture not in known:
        close = get_close_matches(architecture, known, n=5, cutoff=0.5)
        raise ModelError(
            f"torchvision has no classifier '{architecture}'. Close ones: {', '.join(close) or 'none'}. "
            "`python -c 'import torchvision; print(torchvision.models.list_models(module=torchvision.models))'` lists "
            "them all."
        )


def _models() -> Any:
    # Late: they take seconds to import.
    from glasshouse.plugins.encoders.torchvision_shim import ensure_torchvision_operators

    ensure_torchvision_operators()
    import torchvision

    return torchvision.models
