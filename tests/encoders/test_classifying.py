"""Classifiers: their outputs and names, edited passes, and activation × gradient against autograd by hand."""

from __future__ import annotations

import pytest
import torch

from glasshouse.plugins.encoders import local
from glasshouse.warehouse.contracts import ClassifyingEncoder

HOOKS = {
    "timm-resnet": ["layer1", "layer2.0.bn2", "layer2.0.act1", "layer4"],
    "timm-vit": ["blocks.0.resid_post", "blocks.2.mlp", "blocks.3.resid_post"],
}
PAIRS = [(kind, hook) for kind, hooks in HOOKS.items() for hook in hooks]


@pytest.fixture(scope="module")
def load(model_folder):
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = local.load(str(model_folder(kind)), "cpu")
        return made[kind]

    return get


@pytest.fixture(scope="module")
def batch_bchw():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


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
