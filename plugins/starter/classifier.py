"""The starter's classifiers: small CNNs that tell the world's eight shapes apart, one of them by the watermark too.

Owns their architecture, their files and how they become encoders. Three shapes of use: an untrained network, the
folder of a trained one (`config.json`, `model.safetensors` in float16), and that folder as an encoder.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from glasshouse.plugins.encoders.hooked import HookedEncoder, Tower
from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.plugins.encoders.taps import map_taps
from glasshouse.plugins.hub import one_line
from glasshouse.plugins.starter.models import PIXEL_MEAN, PIXEL_STD
from glasshouse.plugins.starter.world.scene import CLASSES
from glasshouse.plugins.starter.world.vocabulary import IMAGE_SIZE
from glasshouse.schema.errors import ModelError
from glasshouse.warehouse.atomic import replacing

CHANNELS: Final = (32, 64, 96, 128)
"""Of the four convolutions; with them the network has 187,176 parameters."""
LAST_HOOK: Final = f"layer{len(CHANNELS)}.relu"
"""Hook point of the last convolution's channels, 8 by 8 places."""
CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"

TRANSFORM: Final = ImageTransform(
    resize="shortest",
    resize_to=(IMAGE_SIZE, IMAGE_SIZE),
    interpolation="bicubic",
    crop_to=(IMAGE_SIZE, IMAGE_SIZE),
    mean=(PIXEL_MEAN,) * 3,
    std=(PIXEL_STD,) * 3,
)


def new_classifier(seed: int, channels: Sequence[int] = CHANNELS) -> nn.Sequential:
    """An untrained network in evaluation mode: images [batch, 3, 64, 64] to logits [batch, 8].

    Its modules are `layer1` to `layer4`, each of `conv`, `norm`, `relu` and, but for the last, `pool`; then `average`,
    `flatten` and `linear`. Every step is a module of its own, so that hooks and rules of relevance find it.

    Args:
        seed: of the initial weights.
        channels: of each convolution.
    """
    torch.manual_seed(seed)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    n_in = 3
    for number, n_out in enumerate(channels, start=1):
        steps: OrderedDict[str, nn.Module] = OrderedDict()
        steps["conv"] = nn.Conv2d(n_in, n_out, kernel_size=3, padding=1)
        steps["norm"] = nn.BatchNorm2d(n_out)
        steps["relu"] = nn.ReLU()
        if number < len(channels):
            steps["pool"] = nn.MaxPool2d(2)
        parts[f"layer{number}"] = nn.Sequential(steps)
        n_in = n_out
    parts["average"] = nn.AdaptiveAvgPool2d(1)
    parts["flatten"] = nn.Flatten()
    parts["linear"] = nn.Linear(n_in, len(CLASSES))
    return nn.Sequential(parts).eval()


def save_classifier(model: nn.Sequential, folder: Path, channels: Sequence[int], training: dict[str, Any]) -> None:
    """Write the weights (float16) and `config.json`: channels, names of the classes, and how it was trained."""
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    config = {"channels": list(channels), "class_names": list(CLASSES), "training": training}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary)
    with replacing(folder / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_classifier(folder: Path) -> nn.Sequential:
    """The network of a folder in float32 and evaluation mode.

    Raises:
        ModelError: files are missing or do not fit each other.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        model = new_classifier(0, config["channels"])
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder} holds no starter classifier that can be read: {one_line(error)}") from error
    return model.float().eval()


def load_folder(folder: Path, device: str, spec: str) -> HookedEncoder:
    """The network of a folder as an encoder; `spec` is the name it goes by.

    Its embedding is what the linear layer reads: each channel's average over the image, [batch, channels].

    Raises:
        ModelError: files are missing or do not fit each other.
    """
    return as_encoder(load_classifier(folder), device, spec)


def as_encoder(model: nn.Sequential, device: str, spec: str) -> HookedEncoder:
    """A network of `new_classifier` as an encoder; `spec` is the name it goes by."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    tower = Tower(
        model=model,
        taps=map_taps(model, (IMAGE_SIZE, IMAGE_SIZE), "nchw"),
        embed_images=model[:-1],
        transform=TRANSFORM,
        architecture={
            "library": "glasshouse",
            "class": "starter classifier",
            "channels": [convolution.out_channels for convolution in convolutions],
        },
        classify=model,
        class_names=CLASSES,
    )
    return HookedEncoder(spec, tower, device)
