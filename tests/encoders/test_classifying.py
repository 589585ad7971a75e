"""Classifiers: their outputs and names, edited passes, and activation × gradient against autograd by hand."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from glasshouse.plugins.encoders import local, timm
from glasshouse.plugins.encoders.hooked import HookedEncoder, Tower
from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.plugins.encoders.tapping import Tap
from glasshouse.plugins.encoders.timm import class_names_of
from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.contracts import ClassifyingEncoder

HOOKS = {
    "timm-resnet": ["layer1", "layer2.0.bn2", "layer2.0.act1", "layer4"],
    "timm-vit": ["blocks.0.resid_post", "blocks.2.mlp", "blocks.3.resid_post"],
}
PAIRS = [(kind, hook) for kind, hooks in HOOKS.items() for hook in hooks]


def own_model(kind, folder):
    """The library's model, loaded beside the encoder."""
    import timm as library

    return library.create_model(f"local-dir:{folder}", pretrained=True).eval().requires_grad_(False)


@pytest.mark.parametrize("kind", HOOKS)
def test_logits_are_the_models_own(load, model_folder, batch_bchw, kind):
    encoder = load(kind)
    assert isinstance(encoder, ClassifyingEncoder)
    with torch.no_grad():
        expected_bc = own_model(kind, model_folder(kind))(batch_bchw)
    logits_bc = encoder.forward_logits(batch_bchw)
    torch.testing.assert_close(logits_bc, expected_bc)
    assert logits_bc.dtype == torch.float32
    assert list(encoder.class_names) == [str(number) for number in range(logits_bc.shape[1])]


@pytest.mark.parametrize(("kind", "hook"), PAIRS)
def test_an_edit_that_changes_nothing_changes_no_logit(load, batch_bchw, kind, hook):
    encoder = load(kind)
    plain_bc = encoder.forward_logits(batch_bchw)
    assert torch.equal(encoder.forward_logits(batch_bchw, hook, lambda acts_btd: acts_btd), plain_bc)
    zeroed_bc = encoder.forward_logits(batch_bchw, hook, torch.zeros_like)
    assert (zeroed_bc - plain_bc).abs().max() > 1e-3
    assert torch.equal(encoder.forward_logits(batch_bchw), plain_bc), "no edit stays behind"


def module_and_side(kind, model, hook):
    if hook.endswith(".mlp"):
        return model.blocks[int(hook.split(".")[1])].mlp.fc2, "input"
    return model.get_submodule(hook.removesuffix(".resid_post")), "output"


def by_hand(kind, model, hook, batch_bchw, classes_b):
    """Activation × gradient, image by image, with a pass whose pixels want gradients; nothing in place."""
    module, side = module_and_side(kind, model, hook)
    found = []
    for image_chw, number in zip(batch_bchw, classes_b.tolist(), strict=True):
        kept = []
        if side == "input":
            handle = module.register_forward_pre_hook(lambda _module, inputs, kept=kept: kept.append(inputs[0]))
        else:
            handle = module.register_forward_hook(lambda _module, _inputs, output, kept=kept: kept.append(output))
        logits_bc = model(image_chw[None].clone().requires_grad_())
        handle.remove()
        (gradient,) = torch.autograd.grad(logits_bc[0, number], kept[0])
        found.append((kept[0][0].detach() * gradient[0], kept[0][0].detach()))
    relevance, acts = (torch.stack(parts) for parts in zip(*found, strict=True))
    if relevance.ndim == 4:
        relevance, acts = (tensor.flatten(2).transpose(1, 2) for tensor in (relevance, acts))
    return relevance, acts


def out_of_place(model):
    """Let nothing be rectified or added in place, so that autograd can be asked in the simplest way."""
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


@pytest.mark.parametrize(("kind", "hook"), [pair for pair in PAIRS if not pair[1].endswith("bn2")])
def test_gradient_relevance_is_what_autograd_says(load, model_folder, batch_bchw, kind, hook):
    classes_b = torch.tensor([3, 0, 6])
    model = out_of_place(own_model(kind, model_folder(kind)))
    relevance_btd, acts_btd = by_hand(kind, model, hook, batch_bchw, classes_b)
    found = load(kind).class_relevance(batch_bchw, hook, classes_b, "gradient")
    torch.testing.assert_close(found.activations_btd, acts_btd, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.relevance_btd, relevance_btd, atol=1e-5, rtol=1e-3)
    assert found.relevance_btd.abs().max() > 1e-4
    torch.testing.assert_close(found.logits_bc, load(kind).forward_logits(batch_bchw), atol=1e-4, rtol=1e-4)
    for tensor in found:
        assert tensor is not None and tensor.dtype == torch.float32 and not tensor.requires_grad


def test_behind_a_bn_that_is_added_in_place(load, model_folder, batch_bchw):
    """timm adds the shortcut to what bn2 gives in place; the rest of the network is written out here."""
    model, classes_b = own_model("timm-resnet", model_folder("timm-resnet")), torch.tensor([1, 1, 2])
    with torch.no_grad():
        before = model.layer1(model.maxpool(torch.relu(model.bn1(model.conv1(batch_bchw)))))
        block = model.layer2[0]
        bn2 = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(before)))))
        shortcut = block.downsample(before)
    bn2.requires_grad_()
    layer2 = model.layer2[1](torch.relu(bn2 + shortcut))
    logits_bc = model.fc(model.layer4(model.layer3(layer2)).mean((2, 3)))
    (gradient,) = torch.autograd.grad(logits_bc[0, 1] + logits_bc[1, 1] + logits_bc[2, 2], bn2)
    expected_btd = (bn2 * gradient).detach().flatten(2).transpose(1, 2)
    found = load("timm-resnet").class_relevance(batch_bchw, "layer2.0.bn2", classes_b, "gradient")
    torch.testing.assert_close(found.relevance_btd, expected_btd, atol=1e-5, rtol=1e-3)


def test_before_a_linear_layer_it_is_activation_times_weight(load, model_folder, batch_bchw):
    """The mean over places, then fc: a place's share is its activation × weight / number of places."""
    weight_cd = own_model("timm-resnet", model_folder("timm-resnet")).fc.weight
    bias_c = own_model("timm-resnet", model_folder("timm-resnet")).fc.bias
    classes_b = torch.tensor([5, 2, 2])
    found = load("timm-resnet").class_relevance(batch_bchw, "layer4", classes_b, "gradient")
    acts, relevance_btd, logits_bc, gradients_btd = found
    torch.testing.assert_close(gradients_btd, (weight_cd[classes_b][:, None] / acts.shape[1]).expand_as(acts))
    torch.testing.assert_close(relevance_btd, acts * gradients_btd)
    total_b = relevance_btd.sum((1, 2)) + bias_c[classes_b]
    torch.testing.assert_close(total_b, logits_bc.gather(1, classes_b[:, None])[:, 0], atol=1e-4, rtol=1e-4)


def test_timms_resnet_18_at_full_size():
    """Everything once, with the library's own preprocessing size."""
    encoder = timm.load("resnet18/random:1", "cpu")
    batch_bchw, classes_b = torch.randn(2, 3, 224, 224), torch.tensor([3, 999])
    taken = encoder.forward(batch_bchw, ["layer4"])
    logits_bc = encoder.forward_logits(batch_bchw)
    assert logits_bc.shape == (2, 1000) and taken.embedding_be.shape == (2, 512)
    model = encoder.tower.model
    with torch.no_grad():
        torch.testing.assert_close(logits_bc, model(batch_bchw))
        torch.testing.assert_close(taken.embedding_be, taken.activations["layer4"].mean(1), atol=1e-5, rtol=1e-4)
    for method in ("gradient", "crp"):
        found = encoder.class_relevance(batch_bchw, "layer4", classes_b, method)
        torch.testing.assert_close(found.activations_btd, taken.activations["layer4"], atol=1e-3, rtol=1e-3)
        total_b = found.relevance_btd.sum((1, 2)) + model.fc.bias[classes_b]
        torch.testing.assert_close(total_b, found.logits_bc.gather(1, classes_b[:, None])[:, 0], atol=1e-3, rtol=1e-3)
    assert encoder.component_maps(batch_bchw, "layer4", torch.tensor([0, 511])).abs().max() > 0


def test_names_of_classes_come_from_the_configuration(model_folder, tmp_path):
    def names(**known):
        copy = shutil.copytree(model_folder("timm-resnet"), tmp_path / "copy", dirs_exist_ok=True)
        config = json.loads((model_folder("timm-resnet") / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | known))
        return list(local.load(str(copy), "cpu").class_names)

    words = ["a", "b", "c", "d", "e", "f", "g"]
    assert names(label_names=words) == words
    assert names(label_names=words, label_descriptions={"b": "bee"}) == ["a", "bee", *words[2:]]
    assert names(label_names={str(number): word for number, word in enumerate(words)}) == words
    numbers = [str(number) for number in range(7)]
    assert names(label_names=words[:5]) == numbers, "names of another classifier"
    assert names() == numbers
    known = {"tag": "a1_in1k"}
    assert class_names_of(known, 1000, published=True)[0].startswith("tench")
    assert class_names_of(known, 1000, published=False) is None, "random weights know no tench"
    assert class_names_of(known, 10, published=True) is None
    assert class_names_of({"tag": "augreg_in21k"}, 1000, published=True) is None


def test_models_without_a_classifier(load, batch_bchw):
    for encoder in (load("open_clip"), load("siglip"), load("dinov2")):
        assert encoder.class_names is None
        with pytest.raises(UsageError, match=r"has no classifier, .* e\.g\. timm:resnet50\.a1_in1k"):
            encoder.forward_logits(batch_bchw)
        with pytest.raises(UsageError, match="has no classifier"):
            encoder.class_relevance(batch_bchw, "blocks.1.resid_post", torch.tensor([0, 1, 2]), "gradient")


def test_timm_without_classes_has_no_classifier(tmp_path):
    import safetensors.torch
    import timm as library

    model = library.create_model("test_resnet", num_classes=0)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 0}))
    assert local.load(str(tmp_path), "cpu").class_names is None


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (torch.tensor([0, 1, 7]), "has the class numbers 0 to 6, no 7"),
        (torch.tensor([0, -1, 2]), "no -1"),
        (torch.tensor([0, 1]), r"3 images need 3 whole numbers, a class for each, not \[2\] of int64"),
        (torch.tensor([0.0, 1, 2]), r"not \[3\] of float32"),
    ],
)
def test_classes_that_are_none(load, batch_bchw, classes, words):
    with pytest.raises(UsageError, match=words):
        load("timm-resnet").class_relevance(batch_bchw, "layer1", classes, "gradient")


def test_what_is_refused(load, batch_bchw):
    encoder, classes_b = load("timm-resnet"), torch.tensor([0, 1, 2])
    with pytest.raises(UsageError, match=r"computed by gradient or crp, not by 'lrp'"):
        encoder.class_relevance(batch_bchw, "layer1", classes_b, "lrp")
    with pytest.raises(UsageError, match="no hook point 'layer9'"):
        encoder.class_relevance(batch_bchw, "layer9", classes_b, "gradient")
    with pytest.raises(UsageError, match="takes batches of shape"):
        encoder.class_relevance(batch_bchw[:, :, 1:], "layer1", classes_b, "gradient")
    with pytest.raises(UsageError, match="takes batches of shape"):
        encoder.forward_logits(batch_bchw[:, :, 1:])
    with pytest.raises(UsageError, match="no hook point 'layer9'"):
        encoder.component_maps(batch_bchw, "layer9", classes_b)
    with pytest.raises(UsageError, match=r"layer1 of .* has the neuron numbers 0 to 7, no 8"):
        encoder.component_maps(batch_bchw, "layer1", torch.tensor([0, 1, 8]))
    for given in ({"hook": "layer1"}, {"edit": lambda acts_btd: acts_btd}):
        with pytest.raises(UsageError, match="takes both: a hook point and an edit"):
            encoder.forward_logits(batch_bchw, **given)


def test_names_must_be_as_many_as_outputs():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    transform = ImageTransform("squash", (4, 4), "bilinear", None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    tap = Tap(model[0], "output", "tokens")
    for names, classify, words in (
        (["a", "b"], model, r"test has 3 classes and 2 names for them\. Name every class\."),
        (None, lambda batch_bchw: model(batch_bchw)[:, None], r"gives \[1, 1, 3\] for an image"),
    ):
        tower = Tower(model, {"x": tap}, model, transform, {}, classify=classify, class_names=names)
        with pytest.raises(ModelError, match=words):
            assert HookedEncoder("test", tower, "cpu").class_names


def test_classes_of_one_name_are_told_apart_by_their_numbers():
    from glasshouse.plugins.encoders.classifying import told_apart

    assert told_apart(["crane", "cat", "crane"]) == ("crane (0)", "cat", "crane (2)")
    assert told_apart(["a", "b"]) == ("a", "b")
