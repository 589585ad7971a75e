"""open_clip: CLIP, SigLIP and relatives from its hub names and from local folders.

Specs (after `open_clip:`):
    ViT-B-32/datacomp_xl_s13b_b90k   architecture / published weights
    ViT-B-32/random:7                the architecture with random weights drawn from seed 7: for benchmarks and
                                     tests, its features mean nothing
    hf-hub:ORG/NAME                  a repository in open_clip's layout
    FOLDER                           open_clip_config.json and open_clip_model.safetensors, and merges.txt.gz where
                                     the model has a byte-pair vocabulary of its own
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import EncoderLoader
from glasshouse.plugins.encoders.hooked import HookedEncoder, Tap, Tower
from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.plugins.encoders.seeds import seed_of, seeded
from glasshouse.plugins.encoders.taps import block_taps, map_taps, timm_taps
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.hub import hub_errors, one_line
from glasshouse.schema.errors import ModelError

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
MERGES_FILE = "merges.txt.gz"
PLACE = (
    f"Without a hub, place {CONFIG_FILE} and {WEIGHTS_FILE} of that model in a folder and use "
    "--encoder open_clip:FOLDER."
)


@hookimpl
def register_encoders(register: Register[EncoderLoader]) -> None:
    """Register `open_clip:`."""
    register(
        "open_clip", EncoderLoader(load, "CLIP models of open_clip, e.g. open_clip:ViT-B-32/datacomp_xl_s13b_b90k")
    )


def load(name: str, device: str) -> HookedEncoder:
    """Load the encoder that `name` stands for, see the module's docstring.

    Raises:
        ModelError: no such model, or its files cannot be had or read.
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        folder = folder.resolve()
        return load_folder(folder, device, f"open_clip:{folder}")
    spec = f"open_clip:{name}"
    if name.startswith("hf-hub:"):
        return _load_published(spec, name, None, device)
    architecture, _, tag = name.partition("/")
    _check_architecture(name, architecture)
    seed = seed_of(spec, tag)
    if seed is not None:
        return _load_random(spec, architecture, seed, device)
    _check_tag(architecture, tag)
    return _load_published(spec, architecture, tag, device)


def load_folder(folder: Path, device: str, spec: str) -> HookedEncoder:
    """Load a folder in open_clip's layout; `spec` is the name it goes by.

    Raises:
        ModelError: files are missing, or do not fit each other.
    """
    looked_for = f"An open_clip folder holds {CONFIG_FILE} and {WEIGHTS_FILE}."
    if not (folder / CONFIG_FILE).is_file():
        raise ModelError(f"{folder} has no {CONFIG_FILE}. {looked_for}")
    if not any((*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.pth"))):
        raise ModelError(f"{folder} has no weights. {looked_for}")
    open_clip = _library()
    try:
        with _quiet():
            model = open_clip.create_model(f"local-dir:{folder}", precision="fp32", pretrained_text=False)
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
    except Exception as error:  # the library raises whatever its parts raise
        raise ModelError(f"{folder} cannot be loaded by open_clip: {one_line(error)}. {looked_for}") from error
    return HookedEncoder(spec, _tower(model, config, lambda: _folder_tokenizer(folder, config)), device)


def _load_published(spec: str, name: str, tag: str | None, device: str) -> HookedEncoder:
    open_clip = _library()
    with hub_errors(spec, PLACE), _quiet():
        model = open_clip.create_model(name, pretrained=tag, precision="fp32", require_pretrained=True)
        config = open_clip.get_model_config(name)
    return HookedEncoder(spec, _tower(model, config, lambda: _named_tokenizer(spec, name)), device)


def _load_random(spec: str, architecture: str, seed: int, device: str) -> HookedEncoder:
    open_clip = _library()
    with seeded(seed), _quiet():
        model = open_clip.create_model(architecture, precision="fp32", pretrained_text=False)
    config = open_clip.get_model_config(architecture)
    return HookedEncoder(spec, _tower(model, config, lambda: _named_tokenizer(spec, architecture)), device)


def _tower(model: Any, config: dict[str, Any], tokenizer: Callable[[], Any]) -> Tower:
    """Put an open_clip model together; the tokenizer is made when a text first comes."""
    model.eval()
    made: list[Any] = []

    def embed_texts(texts: Sequence[str]) -> Any:
        if not made:
            made.append(tokenizer())
        device = next(model.parameters()).device
        return model.encode_text(made[0](list(texts)).to(device), normalize=False)

    transform = transform_of(model.visual.preprocess_cfg)
    return Tower(
        model=model,
        taps=taps_of(model.visual, transform.output_size),
        embed_images=lambda batch_bchw: model.encode_image(batch_bchw, normalize=False),
        embed_texts=embed_texts,
        transform=transform,
        architecture={"library": "open_clip", "class": type(model).__name__, "config": config},
    )


def taps_of(visual: Any, images_hw: tuple[int, int]) -> dict[str, Tap]:
    """Hook points of an image tower: open_clip's own transformer, a timm trunk, or its ResNet."""
    if hasattr(visual, "transformer"):
        rows, columns = visual.grid_size
        if not visual.transformer.batch_first:
            # Older releases ran their blocks sequence first; what a hook reads there would be transposed.
            raise ModelError("This open_clip runs its blocks sequence first. Install open_clip_torch 3 or newer.")
        return block_taps(visual.transformer.resblocks, 1, (int(rows), int(columns)))
    if hasattr(visual, "trunk"):
        return timm_taps(visual.trunk, images_hw)
    return map_taps(visual, images_hw, "nchw")


def transform_of(config: dict[str, Any]) -> ImageTransform:
    """Translate open_clip's preprocessing configuration for evaluation."""
    size = config["size"]
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    mode = config["resize_mode"]
    interpolation = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
    if mode == "shortest" and height != width:
        mode, interpolation = "fill", "bicubic"  # open_clip's transform for other than square images has no choice
    fill = int(config["fill_color"])
    return ImageTransform(
        resize={"shortest": "shortest", "longest": "fit", "squash": "squash", "fill": "fill"}[mode],  # type: ignore[arg-type]
        resize_to=(height, width),
        interpolation=interpolation,
        crop_to=None if mode == "squash" else (height, width),
        mean=_three(config["mean"]),
        std=_three(config["std"]),
        fill_color=(fill, fill, fill),
    )


def _three(value: Any) -> tuple[float, float, float]:
    """One number for all channels, or one for each."""
    numbers = [float(value)] * 3 if isinstance(value, int | float) else [float(number) for number in value]
    return numbers[0], numbers[1], numbers[2]


def _folder_tokenizer(folder: Path, config: dict[str, Any]) -> Any:
    open_clip = _library()
    if (folder / MERGES_FILE).is_file():
        # open_clip's configuration can name no vocabulary beside itself, so its tokenizer is built here.
        context_length = config.get("text_cfg", {}).get("context_length", 77)
        return open_clip.SimpleTokenizer(bpe_path=str(folder / MERGES_FILE), context_length=context_length)
    try:
        return open_clip.get_tokenizer(f"local-dir:{folder}")
    except Exception as error:
        raise ModelError(
            f"The tokenizer of {folder} cannot be loaded: {one_line(error)}. "
            "Place its files (tokenizer.json, tokenizer_config.json) in that folder."
        ) from error


def _named_tokenizer(spec: str, name: str) -> Any:
    place = "Without a hub, place the model with its tokenizer's files in a folder and use --encoder open_clip:FOLDER."
    with hub_errors(f"The tokenizer of {spec}", place):
        return _library().get_tokenizer(name)


def _check_architecture(name: str, architecture: str) -> None:
    known = _library().list_models()
    if architecture in known:
        return
    if name.startswith((".", "/", "~")) or Path(name).exists():
        raise ModelError(f"There is no folder {name}; an open_clip folder holds {CONFIG_FILE} and {WEIGHTS_FILE}.")
    close = get_close_matches(architecture, known, n=5, cutoff=0.5)
    raise ModelError(
        f"open_clip has no architecture '{architecture}'. Close ones: {', '.join(close) or 'none'}. "
        "`python -c 'import open_clip; print(open_clip.list_models())'` lists them all."
    )


def _check_tag(architecture: str, tag: str) -> None:
    tags = _library().list_pretrained_tags_by_model(architecture)
    if tag.lower().replace("-", "_") not in tags:
        raise ModelError(
            f"open_clip has no weights '{tag}' of {architecture}. Known: {', '.join(tags) or 'none'}. "
            f"Write open_clip:{architecture}/WEIGHTS."
        )


def _library() -> Any:
    # Late: they take seconds to import.
    from glasshouse.plugins.encoders.torchvision_shim import ensure_torchvision_operators

    ensure_torchvision_operators()
    import open_clip

    return open_clip


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's own log off the screen: what matters ends in an exception or is checked beforehand."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
