"""transformers: CLIP, SigLIP, DINOv2 (with or without registers), ViT and CNNs, from the hub and from local folders.

CNNs are all models for image classification whose base gives a map and its pooled features: ResNet, ConvNeXT, RegNet,
MobileNet, EfficientNet, BiT. A classifier is loaded exactly where the checkpoint has one: its configuration's
`architectures` name a …ForImageClassification.

Specs (after `hf:`): ORG/NAME, or a folder with config.json, model.safetensors and preprocessor_config.json, and the
tokenizer's files where there is a text tower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import EncoderLoader
from glasshouse.plugins.encoders.hooked import HookedEncoder, Tower
from glasshouse.plugins.encoders.image_processors import transform_of
from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.plugins.encoders.taps import block_taps, map_taps
from glasshouse.plugins.encoders.transformers_texts import library, quiet, text_embedder
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.hub import hub_errors, one_line
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

FILES = "config.json, model.safetensors and preprocessor_config.json (and the tokenizer's files, for texts)"
PLACE = f"Without a hub, place {FILES} of that model in a folder and use --encoder hf:FOLDER."
CLASSIFIER = "AutoModelForImageClassification"
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
        may_classify: there is a …ForImageClassification of it, whose base is this class.
    """

    class_name: str
    has_cls: bool
    embed: Callable[[Any, torch.Tensor], torch.Tensor]
    padding: str | None = None
    options: Mapping[str, Any] | None = None
    may_classify: bool = False


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
    "dinov2": Family("Dinov2Model", True, _cls_after_norm, may_classify=True),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", True, _cls_after_norm, may_classify=True),
    # The pooler of a ViT is seldom trained, and then drawn at random at every loading.
    "vit": Family("ViTModel", True, _cls_after_norm, options={"add_pooling_layer": False}, may_classify=True),
}
PROJECTED_VISION = Family("CLIPVisionModelWithProjection", True, _image_embeds)


@hookimpl
def register_encoders(register: Register[EncoderLoader]) -> None:
    """Register `hf:`."""
    register(
        "hf", EncoderLoader(load, "CLIP, SigLIP, DINOv2, ViT and CNNs of transformers, e.g. hf:facebook/dinov2-small")
    )


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
    transformers = library()
    with quiet(transformers):
        config = transformers.AutoConfig.from_pretrained(source)
        family = _family(config, spec)
        class_name, options = _class_of(config, family)
        model, report = getattr(transformers, class_name).from_pretrained(
            source, dtype="float32", output_loading_info=True, **options
        )
        processor = transformers.AutoImageProcessor.from_pretrained(source, backend="pil")
    _check_loaded(report, spec)
    transform = transform_of(processor, spec)
    head = model if _has_head(config) and class_name == CLASSIFIER else None
    base = model if head is None else model.base_model
    tower = _cnn(model, base, transform, spec) if family is None else _known(base, family, transform, source, spec)
    if head is not None:
        tower.head = None if tower.model is head else head
        tower.classify = lambda batch_bchw: head(pixel_values=batch_bchw).logits
        tower.class_names = class_names_of(head.config)
    return HookedEncoder(spec, tower, device)


def _class_of(config: Any, family: Family | None) -> tuple[str, Mapping[str, Any]]:
    """The class to load, and options for it."""
    if _has_head(config) and (family is None or family.may_classify):
        return CLASSIFIER, {}
    return ("AutoModel", {}) if family is None else (family.class_name, family.options or {})


def _known(model: Any, family: Family, transform: ImageTransform, source: str, spec: str) -> Tower:
    """A model of one of the FAMILIES. Its classifier is no part of its identity: it was once left out."""
    return Tower(
        model=model,
        taps=_taps(model, family, transform),
        embed_images=lambda batch_bchw: family.embed(model, batch_bchw),
        embed_texts=text_embedder(model, source, spec, family.padding) if family.padding else None,
        transform=transform,
        architecture={"library": "transformers", "class": family.class_name, "config": stable_config(model.config)},
    )


def _cnn(model: Any, base: Any, transform: ImageTransform, spec: str) -> Tower:
    """A model of any other type, as long as it gives a map and pooled features.

    Args:
        model: all of it, with the classifier where there is one.
        base: without the classifier; its module paths are the hook points.
        transform: its preprocessing.
        spec: its name, for messages.
    """
    import torch  # late: it takes a second to import

    model.eval()
    with torch.inference_mode():
        output = base(pixel_values=torch.zeros(1, 3, *transform.output_size))
    last, pooled = (getattr(output, name, None) for name in ("last_hidden_state", "pooler_output"))
    if last is None or pooled is None or last.ndim != 4 or (base is model and _has_head(model.config)):
        raise _not_read(model.config, spec)
    return Tower(
        model=model,
        taps=map_taps(base, transform.output_size, "nchw"),
        embed_images=lambda batch_bchw: base(pixel_values=batch_bchw).pooler_output.flatten(1),
        transform=transform,
        architecture={"library": "transformers", "class": type(base).__name__, "config": stable_config(model.config)},
    )


def _family(config: Any, spec: str) -> Family | None:
    """How a model is read, or None for one that may be a CNN."""
    if "CLIPVisionModelWithProjection" in (config.architectures or ()):
        return PROJECTED_VISION
    if config.model_type in FAMILIES:
        return FAMILIES[config.model_type]
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    if config.model_type not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        raise _not_read(config, spec)
    return None


def _not_read(config: Any, spec: str) -> ModelError:
    return ModelError(
        f"{spec} is a model of type '{config.model_type}'. hf: reads {', '.join(FAMILIES)}, and CNNs such as resnet, "
        "convnext, regnet and mobilenet_v2; for other models use timm:NAME."
    )


def _has_head(config: Any) -> bool:
    return any(name.endswith("ForImageClassification") for name in config.architectures or ())


def class_names_of(config: Any) -> list[str] | None:
    """Names of a classifier's outputs; None where they are transformers' own placeholders, LABEL_0 and so on."""
    names = [str(name) for _, name in sorted((config.id2label or {}).items())]
    return None if names == [f"LABEL_{number}" for number in range(len(names))] else names


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


def stable_config(config: Any) -> dict[str, Any]:
    """What a configuration says beyond its class's defaults, without what changes from release to release."""

    def stable(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stable(inner) for key, inner in value.items() if key not in VOLATILE_KEYS}
        return value

    return {"model_type": config.model_type, **stable(config.to_diff_dict())}
