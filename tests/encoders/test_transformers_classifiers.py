"""CNNs and classifiers of transformers: hook points, embeddings, logits, names; old identities stay."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from PIL import Image

from glasshouse.plugins.encoders import local
from glasshouse.plugins.encoders.image_processors import transform_of
from glasshouse.plugins.encoders.transformers import stable_config
from glasshouse.plugins.fingerprint import fingerprint
from glasshouse.schema.errors import ModelError

WITH_HEAD = ["vit", "dinov2-head", "hf-resnet", "hf-regnet", "hf-convnext", "hf-mobilenet"]
CNNS = {
    "hf-resnet": "encoder.stages.1",
    "hf-resnet-base": "encoder.stages.2.layers.1",
    "hf-regnet": "encoder.stages.1",
    "hf-convnext": "encoder.stages.1",
    "hf-mobilenet": "layer.3",
}
HOOKS = {**CNNS, "vit": "blocks.2.resid_post", "dinov2-head": "blocks.1.mlp"}


def own_model(kind, folder):
    base = kind.endswith("base")
    return (transformers.AutoModel if base else transformers.AutoModelForImageClassification).from_pretrained(folder)


@pytest.mark.parametrize("kind", WITH_HEAD)
def test_logits_are_the_models_own(load, model_folder, batch_bchw, kind):
    model = own_model(kind, model_folder(kind))
    with torch.no_grad():
        expected_bc = model(batch_bchw).logits
    torch.testing.assert_close(load(kind).forward_logits(batch_bchw), expected_bc)
    assert len(load(kind).class_names) == expected_bc.shape[1]
    same = load(kind).forward_logits(batch_bchw, HOOKS[kind], lambda acts_btd: acts_btd)
    assert torch.equal(same, load(kind).forward_logits(batch_bchw))


def test_names_are_those_of_the_configuration(load):
    assert list(load("hf-resnet").class_names) == ["cat", "dog", "cow"]
    assert list(load("hf-regnet").class_names) == ["0", "1", "2", "3"], "LABEL_0 is no name"


@pytest.mark.parametrize("kind", CNNS)
def test_maps_and_pooled_features(load, model_folder, batch_bchw, kind):
    model = own_model(kind, model_folder(kind))
    taken, hook = [], CNNS[kind]
    model.base_model.get_submodule(hook).register_forward_hook(
        lambda _module, _inputs, output: taken.append(output.clone())
    )
    with torch.no_grad():
        pooled_be = model.base_model(batch_bchw).pooler_output.flatten(1)
    found = load(kind).forward(batch_bchw, [hook])
    torch.testing.assert_close(found.activations[hook], taken[0].flatten(2).transpose(1, 2))
    torch.testing.assert_close(found.embedding_be, pooled_be)
    point = next(point for point in load(kind).hook_points() if point.name == hook)
    assert (point.width, *point.grid) == tuple(taken[0].shape[1:])


def test_a_model_without_a_head_has_no_classifier(load, model_folder):
    for kind in ("hf-resnet-base", "dinov2", "clip"):
        assert local.load(str(model_folder(kind)), "cpu").class_names is None


@pytest.mark.parametrize(
    ("kind", "name", "options"), [("vit", "ViTModel", {"add_pooling_layer": False}), ("dinov2-head", "Dinov2Model", {})]
)
def test_identities_from_before_there_were_heads_stay(load, model_folder, batch_bchw, kind, name, options):
    """The tower alone was fingerprinted, as it was loaded without its head."""
    model = getattr(transformers, name).from_pretrained(model_folder(kind), **options)
    encoder = load(kind)
    architecture = {"library": "transformers", "class": name, "config": stable_config(model.config)}
    description = {"architecture": architecture, "preprocessing": encoder.transform.describe()}
    assert encoder.fingerprint == fingerprint(model.state_dict(), description)
    with torch.no_grad():
        expected_be = model(batch_bchw).last_hidden_state[:, 0]
    torch.testing.assert_close(encoder.forward(batch_bchw, []).embedding_be, expected_be)


def test_the_fingerprint_of_a_cnn_sees_its_head(load, model_folder, tmp_path):
    import safetensors.torch

    copy = shutil.copytree(model_folder("hf-resnet"), tmp_path / "copy")
    weights = safetensors.torch.load_file(copy / "model.safetensors")
    weights["classifier.1.bias"] += 1e-4
    safetensors.torch.save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert local.load(str(copy), "cpu").fingerprint != load("hf-resnet").fingerprint


@pytest.mark.parametrize("kind", ["vit", "hf-resnet"])
def test_gradient_relevance_before_the_head(load, model_folder, batch_bchw, kind):
    """The head is linear: activation × weight, with the mean over places in the CNN."""
    encoder, classes_b = load(kind), torch.tensor([2, 0, 1])
    model = own_model(kind, model_folder(kind))
    hook = "pooler" if kind == "hf-resnet" else "blocks.3.resid_post"
    relevance_btd = encoder.class_relevance(batch_bchw, hook, classes_b, "gradient").relevance_btd
    acts_btd = encoder.forward(batch_bchw, [hook]).activations[hook]
    if kind == "hf-resnet":
        expected_btd = acts_btd * model.classifier[1].weight.detach()[classes_b][:, None]
    else:
        cls_bd = acts_btd[:, 0].clone().requires_grad_()
        logits_bc = model.classifier(model.vit.layernorm(cls_bd))
        (gradient,) = torch.autograd.grad(logits_bc.gather(1, classes_b[:, None]).sum(), cls_bd)
        expected_btd = torch.zeros_like(acts_btd)
        expected_btd[:, 0] = (cls_bd * gradient).detach()
    torch.testing.assert_close(relevance_btd, expected_btd, atol=1e-5, rtol=1e-3)
    assert relevance_btd.abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["hf-resnet", "hf-regnet", "hf-mobilenet"])
def test_crp_goes_through_the_cnns(load, batch_bchw, kind):
    encoder, hook = load(kind), CNNS[kind]
    found = encoder.class_relevance(batch_bchw, hook, torch.tensor([0, 1, 2]), "crp")
    plain = encoder.forward(batch_bchw, [hook]).activations[hook]
    torch.testing.assert_close(found.activations_btd, plain, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.logits_bc, encoder.forward_logits(batch_bchw), atol=1e-3, rtol=1e-3)
    assert torch.isfinite(found.relevance_btd).all() and found.relevance_btd.abs().max() > 0
    assert encoder.component_maps(batch_bchw, hook, torch.tensor([0, 1, 2])).abs().max() > 0


PROCESSORS = {
    "ConvNextImageProcessorPil": [
        {"size": {"shortest_edge": 224}},
        {"size": {"shortest_edge": 384}},
        {"size": {"shortest_edge": 96}, "crop_pct": 0.8},
    ],
    "MobileNetV2ImageProcessorPil": [{}, {"size": {"shortest_edge": 40}, "crop_size": {"height": 33, "width": 35}}],
    "EfficientNetImageProcessorPil": [
        {},
        {"include_top": False},
        {"rescale_offset": True, "rescale_factor": 1 / 127.5},
    ],
}


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, several in PROCESSORS.items() for options in several]
)
def test_preprocessing_of_cnns_equals_the_librarys(name, options, random_images):
    processor = getattr(transformers, name)(**options)
    ours = transform_of(processor, "test")
    for image in [*random_images, Image.new("RGB", (50, 70), (9, 200, 90))]:
        theirs = torch.as_tensor(processor(image, return_tensors="pt")["pixel_values"][0])
        torch.testing.assert_close(ours(image), theirs, atol=1e-4, rtol=1e-4)


def test_a_model_that_is_neither_says_what_is_read(tmp_path):
    """Swin gives tokens and no map; BERT sees no images."""
    swin = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4
    )
    transformers.SwinForImageClassification(swin).save_pretrained(tmp_path / "swin")
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "swin")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    for kind in ("swin", "bert"):
        with pytest.raises(ModelError) as caught:
            local.load(str(tmp_path / kind), "cpu")
        said = str(caught.value)
        assert f"is a model of type '{kind}'. hf: reads clip, " in said and "and CNNs such as resnet, " in said
        assert "\n" not in said
