"""Small models with random weights, built by the libraries from configurations and saved to folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from glasshouse.plugins.encoders import local
from glasshouse.plugins.encoders.torchvision_shim import ensure_torchvision_operators

ensure_torchvision_operators()

SIZE = 32
TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": SIZE,
}
TINY_TEXT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 40, "max_position_embeddings": 12,
}  # fmt: skip
DINOV2 = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 40, "patch_size": 8}


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Replace every weight: fresh models have many zeros and ones, behind which mistakes could hide."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def save_tokenizer(folder: Path, *, end: str) -> None:
    """A tokenizer of whole words in the layout of transformers."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "<s>", *["a", "red", "blue", "green", "dot", "cat", "dog", "on", "the", "left", "of"]]
    # The end of a text has the highest number: CLIP finds it by that.
    vocabulary = {word: number for number, word in enumerate(words)} | {end: 39}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(f"<s> $A {end}", special_tokens=[("<s>", 2), (end, 39)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", bos_token="<s>", eos_token=end
    ).save_pretrained(folder)


def build_clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    text = TINY_TEXT | {"eos_token_id": 39, "bos_token_id": 2, "pad_token_id": 0}
    config = CLIPConfig(vision_config=TINY | {"patch_size": 8}, text_config=text, projection_dim=20)
    randomise(CLIPModel(config), 0).save_pretrained(folder)
    size = {"shortest_edge": SIZE}
    CLIPImageProcessorPil(size=size, crop_size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    save_tokenizer(folder, end="</s>")


def build_clip_vision(folder: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(**TINY, patch_size=8, projection_dim=20)
    randomise(CLIPVisionModelWithProjection(config), 1).save_pretrained(folder)
    size = {"shortest_edge": SIZE}
    CLIPImageProcessorPil(size=size, crop_size={"height": SIZE, "width": SIZE}).save_pretrained(folder)


def build_siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    text = TINY_TEXT | {"hidden_size": 24, "projection_size": 24, "pad_token_id": 0}
    config = SiglipConfig(vision_config=TINY | {"patch_size": 8}, text_config=text)
    randomise(SiglipModel(config), 2).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    save_tokenizer(folder, end="</s>")


def build_dinov2(folder: Path) -> None:
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model

    randomise(Dinov2Model(Dinov2Config(**DINOV2)), 3).save_pretrained(folder)
    # Positions are interpolated: trained at 40 pixels, used at 32, as the published ones are at other sizes.
    size = {"shortest_edge": 37}
    BitImageProcessorPil(size=size, crop_size={"height": SIZE, "width": SIZE}).save_pretrained(folder)


def build_dinov2_registers(folder: Path) -> None:
    from transformers import BitImageProcessorPil, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(**DINOV2, num_register_tokens=3)
    randomise(Dinov2WithRegistersModel(config), 4).save_pretrained(folder)
    size = {"shortest_edge": 37}
    BitImageProcessorPil(size=size, crop_size={"height": SIZE, "width": SIZE}).save_pretrained(folder)


def build_vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    randomise(ViTForImageClassification(ViTConfig(**TINY, patch_size=8, num_labels=5)), 5).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)


TINY_CNN = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 2, 1]}


def save_cnn(folder: Path, model: torch.nn.Module, seed: int) -> None:
    """A CNN of transformers with batch statistics that do something, and the preprocessing that such models have."""
    from transformers import ConvNextImageProcessorPil

    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
    randomise(model, seed).save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": SIZE}).save_pretrained(folder)


def build_hf_resnet(folder: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    names = {0: "cat", 1: "dog", 2: "cow"}
    config = ResNetConfig(**TINY_CNN, layer_type="basic", id2label=names, label2id={v: k for k, v in names.items()})
    save_cnn(folder, ResNetForImageClassification(config), 8)


def build_hf_resnet_base(folder: Path) -> None:
    from transformers import ResNetConfig, ResNetModel

    save_cnn(folder, ResNetModel(ResNetConfig(**TINY_CNN)), 9)


def build_hf_regnet(folder: Path) -> None:
    from transformers import RegNetConfig, RegNetForImageClassification

    save_cnn(folder, RegNetForImageClassification(RegNetConfig(**TINY_CNN, groups_width=4, num_labels=4)), 10)


def build_hf_convnext(folder: Path) -> None:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1], num_labels=4)
    save_cnn(folder, ConvNextForImageClassification(config), 11)


def build_hf_mobilenet(folder: Path) -> None:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification, MobileNetV2ImageProcessorPil

    config = MobileNetV2Config(depth_multiplier=0.25, num_labels=4, image_size=SIZE)
    save_cnn(folder, MobileNetV2ForImageClassification(config), 12)
    size = {"shortest_edge": 37}
    MobileNetV2ImageProcessorPil(size=size, crop_size={"height": SIZE, "width": SIZE}).save_pretrained(folder)


def build_dinov2_head(folder: Path) -> None:
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2ForImageClassification

    randomise(Dinov2ForImageClassification(Dinov2Config(**DINOV2, num_labels=3)), 13).save_pretrained(folder)
    size = {"shortest_edge": 37}
    BitImageProcessorPil(size=size, crop_size={"height": SIZE, "width": SIZE}).save_pretrained(folder)


OPEN_CLIP_VISION = {"image_size": SIZE, "layers": 4, "width": 24, "head_width": 12, "patch_size": 8}


def build_open_clip(folder: Path, **vision: Any) -> None:
    import open_clip

    folder.mkdir(exist_ok=True)
    text = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    config = {"embed_dim": 20, "vision_cfg": vision or OPEN_CLIP_VISION, "text_cfg": text}
    preprocess = {
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.25, 0.3],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    model = randomise(open_clip.model.CLIP(**config), 6)
    safetensors.torch.save_file(model.state_dict(), str(folder / "open_clip_model.safetensors"))


def build_timm(name: str, folder: Path, **options: Any) -> None:
    import timm

    folder.mkdir(exist_ok=True)
    model = randomise(timm.create_model(name, **options), 7)
    safetensors.torch.save_file(model.state_dict(), str(folder / "model.safetensors"))
    mean_std = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    pretrained = {"input_size": [3, SIZE, SIZE], "interpolation": "bilinear", "crop_pct": 0.875, **mean_std}
    known = {"architecture": name, "num_classes": 7, "model_args": options, "pretrained_cfg": pretrained}
    (folder / "config.json").write_text(json.dumps(known))


BUILDERS: dict[str, Callable[[Path], None]] = {
    "clip": build_clip,
    "clip-vision": build_clip_vision,
    "siglip": build_siglip,
    "dinov2": build_dinov2,
    "dinov2-registers": build_dinov2_registers,
    "vit": build_vit,
    "dinov2-head": build_dinov2_head,
    "hf-resnet": build_hf_resnet,
    "hf-resnet-base": build_hf_resnet_base,
    "hf-regnet": build_hf_regnet,
    "hf-convnext": build_hf_convnext,
    "hf-mobilenet": build_hf_mobilenet,
    "open_clip": build_open_clip,
    "open_clip-resnet": lambda folder: build_open_clip(folder, image_size=SIZE, layers=[1, 1, 2, 1], width=8),
    "open_clip-timm": lambda folder: build_open_clip(
        folder, image_size=SIZE, timm_model_name="test_resnet", timm_pool="avg", timm_proj="linear"
    ),
    "timm-resnet": lambda folder: build_timm("resnet18", folder, num_classes=7, channels=[8, 16, 24, 32]),
    "timm-vit": lambda folder: build_timm(
        "vit_tiny_patch16_224", folder, num_classes=7, img_size=SIZE, patch_size=8, depth=4, embed_dim=24, num_heads=2
    ),
}


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`model_folder(kind)`: a saved model of one of the BUILDERS, built once."""
    root = tmp_path_factory.mktemp("models")

    def build(kind: str) -> Path:
        if not (root / kind).exists():
            BUILDERS[kind](root / kind)
        return root / kind

    return build


@pytest.fixture(scope="session")
def random_images() -> list[Image.Image]:
    """Images of odd sizes, smooth enough to show a wrong filter and rough enough to show a wrong offset."""
    generator = np.random.default_rng(0)
    images = []
    for width, height in [(64, 64), (101, 67), (33, 200), (640, 479), (17, 23), (31, 33), (400, 31)]:
        rough = generator.integers(0, 256, (height, width, 3))
        smooth = 127 * (1 + np.sin(np.arange(width)[None, :, None] / 7 + np.arange(height)[:, None, None] / 11))
        images.append(Image.fromarray(((rough + smooth) / 2).astype(np.uint8)))
    return images


@pytest.fixture(scope="module")
def load(model_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """`load(kind)`: the encoder of one of the folders, loaded once."""
    made: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in made:
            made[kind] = local.load(str(model_folder(kind)), "cpu")
        return made[kind]

    return get


@pytest.fixture(scope="module")
def batch_bchw() -> torch.Tensor:
    return torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
