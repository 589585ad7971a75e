"""transformers: CLIP, SigLIP, DINOv2 (with or without registers) and ViT, from the hub and from local folders.

Specs (after `hf:`): ORG/NAME, or a folder with config.json, model.safetensors and preprocessor_config.json, and the
tokenizer's files where there is a text tower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import EncoderLoader
from glasshouse.plugins.encoders.hooked import HookedEncoder, Tower
from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.plugins.encoders.taps import block_taps
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.hub import hub_errors, one_line
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

FILES = "config.json, model.safetensors and preprocessor_config.json (and the tokenizer's files, for texts)"
PLACE = f"Without a hub, place {FILES} of that model in a folder and use --encoder hf:FOLDER."
VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
VOLATILE_KEYS = frozenset(
    {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "id2label", "label2id"}
)
"""Keys of a configuration that change without the model changing."""


@dataclass(frozen=True)
class Family:
    """How models of one `model_type` are loaded and read.

    Attributes:
        class_name: the class of transformers that holds all that is needed and nothing untrained.
        has_cls: token 0 is CLS.
        embed: a full pass, from the model and a batch to [batch, E].
        padding: how texts are padded for the text tower, or None without one.
        options: for the constructor.
    """

    class_name: str
    has_cls: bool
    embed: Callable[[Any, torch.Tensor], torch.Tensor]
    padding: str | None = None
    options: Mapping[str, Any] | None = None


def _projected(model: Any, batch_bchw: torch.Tensor) -> Any:
    return model.get_image_features(pixel_values=batch_bchw).pooler_output


def _pooled(model: Any, batch_bchw: torch.Tensor) -> Any:
    return model(pixel_values=batch_bchw).pooler_output


def _cls_after_norm(model: Any, batch_bchw: torch.Tensor) -> Any:
    return model(pixel_values=batch_bchw).last_hidden_state[:, 0]


def _image_embeds(model: Any, batch_bchw: torch.Tensor) -> Any:
    return model(pixel_values=batch_bchw).image_embeds


FAMILIES: Mapping[str, Family] = {
    "clip": Family("CLIPModel", True, _projected, padding="longest"),
    "clip_vision_model": Family("CLIPVisionModel", True, _pooled),
    "siglip": Family("SiglipModel", False, _projected, padding="max_length"),
    "siglip_vision_model": Family("SiglipVisionModel", False, _pooled),
    "dinov2": Family("Dinov2Model", True, _cls_after_norm),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", True, _cls_after_norm),
    # The pooler of a ViT is seldom trained, and then drawn at random at every loading.
    "vit": Family("ViTModel", True, _cls_after_norm, options={"add_pooling_layer": False}),
}
PROJECTED_VISION = Family("CLIPVisionModelWithProjection", True, _image_embeds)


@hookimpl
def register_encoders(register: Register[EncoderLoader]) -> None:
    """Register `hf:`."""
    register("hf", EncoderLoader(load, "CLIP, SigLIP, DINOv2 and ViT of transformers, e.g. hf:facebook/dinov2-small"))


def load(name: str, device: str) -> HookedEncoder:
    """Load the encoder that `name` stands for, see the module's docstring.

    Raises:
        ModelError: no such model, one of another kind, or its files cannot be had or read.
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return load_folder(folder.resolve(), device, f"hf:{folder.resolve()}")
    if name.startswith((".", "/", "~")) or not name:
        raise ModelError(f"There is no folder '{name}'. {PLACE}")
    with hub_errors(f"hf:{name}", PLACE):
        return _load(name, device, f"hf:{name}")


def load_folder(folder: Path, device: str, spec: str) -> HookedEncoder:
    """Load a folder in transformers' layout; `spec` is the name it goes by.

    Raises:
        ModelError: files are missing or do not fit each other.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json. A folder of transformers holds {FILES}.")
    try:
        return _load(str(folder), device, spec)
    except ModelError:
        raise
    except Exception as error:  # the library raises whatever its parts raise
        raise ModelError(
            f"{folder} cannot be loaded by transformers: {one_line(error)}. A folder of transformers holds {FILES}."
        ) from error


def _load(source: str, device: str, spec: str) -> HookedEncoder:
    transformers = _library()
    with _quiet(transformers):
        config = transformers.AutoConfig.from_pretrained(source)
        family = _family(config, spec)
        model, report = getattr(transformers, family.class_name).from_pretrained(
            source, dtype="float32", output_loading_info=True, **(family.options or {})
        )
        processor = transformers.AutoImageProcessor.from_pretrained(source, backend="pil")
    _check_loaded(report, spec)
    transform = transform_of(processor, spec)
    tower = Tower(
        model=model,
        taps=_taps(model, family, transform),
        embed_images=lambda batch_bchw: family.embed(model, batch_bchw),
        embed_texts=_text_embedder(model, source, spec, family.padding) if family.padding else None,
        transform=transform,
        architecture={"library": "transformers", "class": family.class_name, "config": stable_config(model.config)},
    )
    return HookedEncoder(spec, tower, device)


def _family(config: Any, spec: str) -> Family:
    if "CLIPVisionModelWithProjection" in (config.architectures or ()):
        return PROJECTED_VISION
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"{spec} is a model of type '{config.model_type}'. hf: reads {', '.join(FAMILIES)}; "
            "for CNNs and other transformers use timm:NAME."
        )
    return FAMILIES[config.model_type]


def _check_loaded(report: Mapping[str, Any], spec: str) -> None:
    """Refuse weights with holes: transformers fills them with random numbers."""
    missing = sorted(map(str, report.get("missing_keys") or ()))
    mismatched = sorted(str(entry[0]) for entry in report.get("mismatched_keys") or ())
    if missing or mismatched:
        raise ModelError(
            f"The weights of {spec} do not fit its configuration: {len(missing)} tensors are missing and "
            f"{len(mismatched)} have another shape, first {(missing + mismatched)[0]}. Get its files again."
        )


def _taps(model: Any, family: Family, transform: ImageTransform) -> dict[str, Any]:
    vision = getattr(model, "vision_model", model)
    config = vision.config
    patch = config.patch_size
    patch_hw = (patch, patch) if isinstance(patch, int) else tuple(patch)
    rows, columns = (side // step for side, step in zip(transform.output_size, patch_hw, strict=True))
    n_prefix = int(family.has_cls) + int(getattr(config, "num_register_tokens", 0))
    return block_taps(_blocks(vision, config.num_hidden_layers), n_prefix, (rows, columns))


def _blocks(vision: nn.Module, n_blocks: int) -> Iterator[nn.Module]:
    """The list of blocks: every family keeps it under another name, but there is one of this length."""
    from torch import nn  # late: it takes a second to import

    for module in vision.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
            return module.children()
    raise ModelError(f"{type(vision).__name__} has no list of {n_blocks} blocks: this transformers is not known.")


def transform_of(processor: Any, spec: str) -> ImageTransform:
    """Translate an image processor of transformers.

    Raises:
        ModelError: it does something that `ImageTransform` cannot say.
    """
    from PIL import Image  # late: a tenth of a second

    def setting(name: str, default: Any = None) -> Any:
        return getattr(processor, name, default)

    size, crop = dict(setting("size") or {}), dict(setting("crop_size") or {})
    size = {key: value for key, value in size.items() if value is not None}
    if setting("do_pad") or (setting("do_resize") and set(size) not in ({"shortest_edge"}, {"height", "width"})):
        raise ModelError(f"{spec}: its preprocessing (size {size}, do_pad {setting('do_pad')}) is not supported.")
    shortest = size.get("shortest_edge")
    if not setting("do_center_crop") and (shortest or not setting("do_resize")):
        raise ModelError(f"{spec}: its preprocessing makes tensors of many sizes, which cannot be stacked.")
    resize_to = (shortest, shortest) if shortest else (size.get("height"), size.get("width"))
    normalize = setting("do_normalize")
    return ImageTransform(
        resize="none" if not setting("do_resize") else "shortest" if shortest else "squash",
        resize_to=(int(resize_to[0] or 0), int(resize_to[1] or 0)),
        interpolation=Image.Resampling(setting("resample", Image.Resampling.BILINEAR)).name.lower(),
        crop_to=(int(crop["height"]), int(crop["width"])) if setting("do_center_crop") else None,
        crop_rounding="floor",
        rescale=float(setting("rescale_factor")) if setting("do_rescale") else 1.0,
        mean=tuple(setting("image_mean")) if normalize else (0.0, 0.0, 0.0),
        std=tuple(setting("image_std")) if normalize else (1.0, 1.0, 1.0),
    )


def stable_config(config: Any) -> dict[str, Any]:
    """What a configuration says beyond its class's defaults, without what changes from release to release."""

    def stable(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stable(inner) for key, inner in value.items() if key not in VOLATILE_KEYS}
        return value

    return {"model_type": config.model_type, **stable(config.to_diff_dict())}


def _text_embedder(model: Any, source: str, spec: str, padding: str) -> Callable[[Sequence[str]], torch.Tensor]:
    """Texts to embeddings; the tokenizer is loaded when a text first comes."""
    made: list[Any] = []

    def embed_texts(texts: Sequence[str]) -> Any:
        if not made:
            made.append(_tokenizer(source, spec))
        length = model.config.text_config.max_position_embeddings
        tokens = made[0](list(texts), padding=padding, truncation=True, max_length=length, return_tensors="pt")
        device = next(model.parameters()).device
        known = {name: tokens[name].to(device) for name in ("input_ids", "attention_mask") if name in tokens}
        return model.get_text_features(**known).pooler_output

    return embed_texts


def _tokenizer(source: str, spec: str) -> Any:
    transformers = _library()
    place = "Place the tokenizer's files (tokenizer.json, tokenizer_config.json) in the model's folder."
    with hub_errors(f"The tokenizer of {spec}", place), _quiet(transformers):
        # Without its vocabulary transformers makes a tokenizer that knows no words, and says nothing.
        if not any(_has_file(transformers, source, name) for name in VOCABULARY_FILES):
            raise ModelError(f"{spec} has no tokenizer: none of {', '.join(VOCABULARY_FILES)} is there. {place}")
        return transformers.AutoTokenizer.from_pretrained(source)


def _has_file(transformers: Any, source: str, name: str) -> bool:
    """Whether a folder, the hub or its cache has a file."""
    try:
        return transformers.utils.cached_file(source, name) is not None
    except OSError:
        return False


def _library() -> Any:
    # Late: they take seconds to import.
    from glasshouse.plugins.encoders.torchvision_shim import ensure_torchvision_operators

    ensure_torchvision_operators()
    import transformers

    return transformers


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep progress bars and reports of the library off the screen: what matters ends in an exception."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
