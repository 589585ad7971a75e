"""CRP: against relevance propagated by hand, against zennit's and zennit-crp's own ways, and what it refuses."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from glasshouse.plugins.encoders import local, timm
from glasshouse.plugins.encoders.hooked import HookedEncoder, Tower
from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.plugins.encoders.tapping import Tap
from glasshouse.plugins.encoders.taps import map_taps
from glasshouse.schema.errors import ModelError, UsageError

EPSILON = 1e-6


def transform_of(side):
    return ImageTransform("squash", (side, side), "bilinear", None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def encoder_of(model, side=8, *, seed=0):
    """A user's network as an encoder, with random weights and, where it has any, random batch statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            if name.endswith("running_var"):
                tensor.copy_(tensor.abs() + 0.5)
    model.eval()
    taps = map_taps(model, (side, side), "nchw")
    return HookedEncoder("python:net", Tower(model, taps, model, transform_of(side), {}, classify=model), "cpu")


def images(side=8, n=3, seed=1):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def safe(values):
    return values + np.where(values < 0, -EPSILON, EPSILON)


def z_plus(acts_cij, weights_ocij, bias_o, relevance_opq):
    """R_j = Σ_k (x⁺_j w⁺_jk + x⁻_j w⁻_jk) / (Σ_j … + b⁺_k) · R_k for a convolution without padding, place by place."""
    out = np.zeros_like(acts_cij)
    kernel = weights_ocij.shape[2]
    for o, p, q in np.ndindex(relevance_opq.shape):
        window = acts_cij[:, p : p + kernel, q : q + kernel]
        weights = weights_ocij[o]
        shares = np.clip(window, 0, None) * np.clip(weights, 0, None) + np.clip(window, None, 0) * np.clip(
            weights, None, 0
        )
        out[:, p : p + kernel, q : q + kernel] += (
            shares / safe(shares.sum() + max(bias_o[o], 0)) * relevance_opq[o, p, q]
        )
    return out


def flat(acts_cij, kernel, relevance_opq):
    """R is shared evenly by all values that a place sees."""
    out = np.zeros_like(acts_cij)
    n_seen = acts_cij.shape[0] * kernel * kernel
    for o, p, q in np.ndindex(relevance_opq.shape):
        out[:, p : p + kernel, q : q + kernel] += relevance_opq[o, p, q] / (n_seen + EPSILON)
    return out


class TwoConvolutions(nn.Module):
    """Two convolutions, the mean over places, a linear layer."""

    def __init__(self, between=torch.relu):
        super().__init__()
        self.between = between
        self.conv1, self.conv2, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5, 6)

    def forward(self, batch_bchw):
        return self.head(torch.relu(self.conv2(self.between(self.conv1(batch_bchw)))).mean((2, 3)))


@pytest.fixture(scope="module", params=["relu", "tanh"])
def by_hand(request):
    """The network, its weights in float64, what it does between its convolutions: tanh leaves negative values."""
    encoder = encoder_of(TwoConvolutions(getattr(torch, request.param)))
    weights = {name: tensor.double().numpy() for name, tensor in encoder.tower.model.state_dict().items()}
    return encoder, weights, {"relu": lambda values: np.clip(values, 0, None), "tanh": np.tanh}[request.param]


def conv(acts_cij, weights_ocij, bias_o):
    kernel, side = weights_ocij.shape[2], acts_cij.shape[1] - weights_ocij.shape[2] + 1
    out = np.zeros((len(weights_ocij), side, side))
    for o, p, q in np.ndindex(out.shape):
        out[o, p, q] = (acts_cij[:, p : p + kernel, q : q + kernel] * weights_ocij[o]).sum() + bias_o[o]
    return out


def test_relevance_equals_the_rules_written_out(by_hand):
    encoder, weights, between = by_hand
    batch_bchw, classes = images(), [2, 0, 5]
    found = encoder.class_relevance(batch_bchw, "conv1", torch.tensor(classes), "crp")
    at_conv2 = encoder.class_relevance(batch_bchw, "conv2", torch.tensor(classes), "crp")
    for number, (image_chw, asked) in enumerate(zip(batch_bchw.double().numpy(), classes, strict=True)):
        hidden = between(conv(image_chw, weights["conv1.weight"], weights["conv1.bias"]))
        top = np.clip(conv(hidden, weights["conv2.weight"], weights["conv2.bias"]), 0, None)
        pooled = top.mean((1, 2))
        logit = weights["head.weight"][asked] @ pooled + weights["head.bias"][asked]
        relevance_pooled = pooled * weights["head.weight"][asked] / safe(logit) * logit
        places = top.shape[1] * top.shape[2]
        relevance_top = top / places / safe(pooled)[:, None, None] * relevance_pooled[:, None, None]
        relevance_hidden = z_plus(hidden, weights["conv2.weight"], weights["conv2.bias"], relevance_top)
        np.testing.assert_allclose(found.logits_bc[number, asked], logit, rtol=1e-5)
        np.testing.assert_allclose(
            at_conv2.relevance_btd[number].T.reshape(top.shape), relevance_top, rtol=1e-3, atol=1e-6
        )
        np.testing.assert_allclose(
            found.relevance_btd[number].T.reshape(hidden.shape), relevance_hidden, rtol=1e-3, atol=1e-6
        )
        assert np.abs(relevance_hidden).max() > 1e-3


def test_maps_equal_the_rules_written_out(by_hand):
    encoder, weights, between = by_hand
    batch_bchw, features = images(), [4, 0, 2]
    maps_bhw = encoder.component_maps(batch_bchw, "conv2", torch.tensor(features))
    assert maps_bhw.shape == (3, 8, 8) and maps_bhw.dtype == torch.float32
    for number, (image_chw, asked) in enumerate(zip(batch_bchw.double().numpy(), features, strict=True)):
        hidden = between(conv(image_chw, weights["conv1.weight"], weights["conv1.bias"]))
        top = conv(hidden, weights["conv2.weight"], weights["conv2.bias"])
        start = np.zeros_like(top)
        start[asked] = top[asked]
        relevance_hidden = z_plus(hidden, weights["conv2.weight"], weights["conv2.bias"], start)
        expected_hw = flat(image_chw, 3, relevance_hidden).sum(0)
        np.testing.assert_allclose(maps_bhw[number], expected_hw, rtol=1e-3, atol=1e-5)


class Blocks(nn.Module):
    """Residual blocks that add, gate, rectify and pool by functions, some of them in place."""

    def __init__(self, *, by_modules):
        super().__init__()
        self.by_modules = by_modules
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.gate, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6, 4)
        self.relu, self.silu, self.pool = nn.ReLU(inplace=True), nn.SiLU(), nn.AdaptiveAvgPool2d(1)

    def forward(self, batch_bchw):
        if self.by_modules:
            maps = self.relu(self.bn1(self.conv1(batch_bchw)))
            branch = self.bn2(self.conv2(maps))
            branch = branch * torch.sigmoid(self.gate(self.pool(branch)))
            return self.head(self.pool(self.silu(maps + branch)).flatten(1))
        maps = nn.functional.relu_(self.bn1(self.conv1(batch_bchw)))
        branch = self.bn2(self.conv2(maps))
        branch *= self.gate(branch.mean((2, 3), keepdim=True)).sigmoid()
        branch += maps
        return self.head(nn.functional.silu(branch, inplace=True).mean((2, 3)))


@pytest.mark.parametrize("hook", ["bn1", "conv2", "bn2"])
def test_functions_and_modules_are_the_same_to_it(hook):
    """Both are the same network, written in two ways."""
    results = []
    for by_modules in (True, False):
        encoder = encoder_of(Blocks(by_modules=by_modules))
        results.append(
            (
                *encoder.class_relevance(images(), hook, torch.tensor([0, 1, 3]), "crp"),
                encoder.component_maps(images(), hook, torch.tensor([5, 0, 2])),
            )
        )
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert results[0][1].abs().max() > 1e-4


def test_what_is_read_is_what_the_model_gives():
    """Merged BatchNorm must not show: also between a convolution and its BatchNorm."""
    encoder = encoder_of(Blocks(by_modules=False))
    for hook in ("conv1", "bn1", "conv2", "bn2"):
        plain = encoder.forward(images(), [hook]).activations[hook]
        found = encoder.class_relevance(images(), hook, torch.tensor([0, 1, 3]), "crp")
        torch.testing.assert_close(found.activations_btd, plain, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.logits_bc, encoder.forward_logits(images()), rtol=1e-4, atol=1e-5)


def test_the_model_is_left_as_it_was():
    encoder = encoder_of(Blocks(by_modules=False))
    before, names = encoder.fingerprint, list(encoder.tower.model.state_dict())
    encoder.class_relevance(images(), "bn1", torch.tensor([0, 1, 3]), "crp")
    encoder.component_maps(images(), "bn2", torch.tensor([0, 1, 3]))
    with pytest.raises(UsageError):
        encoder.component_maps(images(), "bn2", torch.tensor([0, 1, 6]))
    del encoder.fingerprint
    assert encoder.fingerprint == before
    assert list(encoder.tower.model.state_dict()) == names
    for module in encoder.tower.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert encoder.tower.model.conv1.bias is None
    assert not any(parameter.requires_grad for parameter in encoder.tower.model.parameters())


class Unbiased(nn.Module):
    """Without biases nothing takes relevance away."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.conv3, self.head = nn.Conv2d(12, 8, 3, stride=2, bias=False), nn.Linear(8, 4, bias=False)

    def forward(self, batch_bchw):
        maps = torch.relu(self.conv1(batch_bchw))
        maps = torch.relu(self.conv2(maps) + maps)
        maps = torch.cat([maps, nn.functional.avg_pool2d(maps, 3, 1, 1)], 1)
        return self.head(nn.functional.max_pool2d(torch.relu(self.conv3(maps)), 2).flatten(2).mean(2))


def test_without_biases_all_relevance_arrives():
    encoder = encoder_of(Unbiased(), 12)
    batch_bchw, classes_b = images(12), torch.tensor([0, 1, 3])
    for hook in ("conv1", "conv2", "conv3"):
        found = encoder.class_relevance(batch_bchw, hook, classes_b, "crp")
        logits_b = found.logits_bc.gather(1, classes_b[:, None])[:, 0]
        if hook == "conv2":  # the shortcut takes the rest
            assert (found.relevance_btd.sum((1, 2)) / logits_b - 1).abs().max() > 0.01
            continue
        torch.testing.assert_close(found.relevance_btd.sum((1, 2)), logits_b, rtol=1e-3, atol=1e-4)
    acts = encoder.forward(batch_bchw, ["conv3"]).activations["conv3"].sum(1)
    maps_bhw = encoder.component_maps(batch_bchw, "conv3", torch.tensor([0, 1, 7]))
    torch.testing.assert_close(maps_bhw.sum((1, 2)), acts[[0, 1, 2], [0, 1, 7]], rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def resnets():
    """The same weights in torchvision's and in timm's ResNet-18, with batch statistics that do something."""
    import timm as library
    import torchvision

    model = torchvision.models.resnet18(num_classes=7)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 2),
                    (module.weight, 0.5, 1.5), (module.bias, -0.3, 0.3),
                ):  # fmt: skip
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    other = library.create_model("resnet18", num_classes=7)
    other.load_state_dict(model.state_dict())
    return {"torchvision": model.eval(), "timm": other.eval()}


def resnet_encoder(model):
    taps = map_taps(model, (64, 64), "nchw")
    return HookedEncoder("net", Tower(model, taps, model, transform_of(64), {}, classify=model), "cpu")


def test_a_clip_with_a_resnet(model_folder):
    """open_clip's ResNet: there is no classifier; maps end before its attention, which has no rule."""
    encoder = local.load(str(model_folder("open_clip-resnet")), "cpu")
    acts = encoder.forward(images(32), ["layer3"]).activations["layer3"]
    maps_bhw = encoder.component_maps(images(32), "layer3", torch.tensor([3, 0, 5]))
    assert maps_bhw.shape == (3, 32, 32) and maps_bhw.abs().max() > 0
    assert torch.equal(encoder.forward(images(32), ["layer3"]).activations["layer3"], acts)
    for ask in (encoder.forward_logits, lambda batch: encoder.class_relevance(batch, "layer3", None, "crp")):
        with pytest.raises(UsageError, match="has no classifier, so no class can be asked about"):
            ask(images(32))


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_resnet_as_zennit_and_zennit_crp_do_it(resnets, library):
    """The reference goes by zennit's composite and its canoniser, which was written for torchvision's blocks."""
    from crp.attribution import CondAttribution
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer

    batch_bchw, classes_b = images(64, 2), torch.tensor([6, 1])
    encoder, reference = resnet_encoder(resnets[library]), resnets["torchvision"]
    composite, attribution = EpsilonPlusFlat([ResNetCanonizer()]), CondAttribution(reference)
    expected = attribution(
        batch_bchw.clone().requires_grad_(), [{"y": [6]}, {"y": [1]}], composite, record_layer=["layer2", "layer4.0"]
    )
    for hook in ("layer2", "layer4.0"):
        found = encoder.class_relevance(batch_bchw, hook, classes_b, "crp")
        expected_btd = expected.relevances[hook].flatten(2).transpose(1, 2)
        torch.testing.assert_close(found.relevance_btd, expected_btd, rtol=1e-2, atol=1e-4 * expected_btd.abs().max())
    conditions = [{"layer3.0": [5]}, {"layer3.0": [17]}]
    expected = attribution(batch_bchw.clone().requires_grad_(), conditions, composite, start_layer="layer3.0")
    maps_bhw = encoder.component_maps(batch_bchw, "layer3.0", torch.tensor([5, 17]))
    torch.testing.assert_close(maps_bhw, expected.heatmap, rtol=1e-2, atol=1e-4 * float(expected.heatmap.abs().max()))
    assert maps_bhw.abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "hooks"),
    [
        ("densenet121", ["features.denseblock1.denselayer2.conv1", "features.transition2"]),
        ("mobilenetv3_small_050", ["blocks.2.0", "conv_head"]),
        ("regnety_002", ["s2.b1", "s4"]),
    ],
)
def test_other_cnns_of_timm_go_through(name, hooks):
    """Concatenations, gates, activations inside BatchNorm: what is read stays what the model gives."""
    encoder = timm.load(f"{name}/random:3", "cpu")
    batch_bchw = torch.randn(1, 3, *encoder.transform.output_size, generator=torch.Generator().manual_seed(0))
    plain = encoder.forward(batch_bchw, hooks)
    for hook in hooks:
        found = encoder.class_relevance(batch_bchw, hook, torch.tensor([3]), "crp")
        torch.testing.assert_close(found.activations_btd, plain.activations[hook], rtol=1e-3, atol=1e-3)
        assert torch.isfinite(found.relevance_btd).all() and found.relevance_btd.abs().max() > 0
    maps_bhw = encoder.component_maps(batch_bchw, hooks[0], torch.tensor([1]))
    assert maps_bhw.shape[1:] == encoder.transform.output_size and torch.isfinite(maps_bhw).all()


def refusal(encoder, hook, batch_bchw):
    with pytest.raises(UsageError) as caught:
        encoder.class_relevance(batch_bchw, hook, torch.zeros(len(batch_bchw), dtype=torch.int64), "crp")
    assert "\n" not in str(caught.value) and "method gradient" in str(caught.value)
    return str(caught.value)


def test_a_transformer_is_refused(model_folder):
    encoder = local.load(str(model_folder("timm-vit")), "cpu")
    assert "a transformer" in refusal(encoder, "blocks.1.resid_post", images(32))
    with pytest.raises(UsageError, match="a transformer"):
        encoder.component_maps(images(32), "blocks.1.resid_post", torch.zeros(3, dtype=torch.int64))


class Odd(nn.Module):
    """A network with something in the middle that has no rule."""

    def __init__(self, middle):
        super().__init__()
        self.conv1, self.middle, self.head = nn.Conv2d(3, 4, 3), middle, nn.Linear(4, 3)

    def forward(self, batch_bchw):
        return self.head(self.middle(self.conv1(batch_bchw)).mean((2, 3)))


class Squared(nn.Module):
    def forward(self, maps):
        return maps**2


class ByTheBack(nn.Module):
    """Uses a layer's weights without calling it, so that zennit does not see it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, maps):
        return nn.functional.conv2d(maps, self.conv.weight, self.conv.bias)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, maps):
        return self.conv(torch.relu(self.conv(maps)))


@pytest.mark.parametrize(
    ("middle", "words"),
    [
        (nn.GroupNorm(2, 4), ["'middle' of python:net", "GroupNorm"]),
        (nn.GroupNorm(2, 4, affine=False), ["operation NativeGroupNorm of python:net"]),
        (Squared(), ["operation Pow of python:net"]),
        (Twice(), ["'middle.conv' of python:net", "more than once"]),
        (ByTheBack(), ["operation Convolution of python:net"]),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), ["'middle", "ParametrizedConv2d"]),
    ],
)
def test_what_has_no_rule_is_refused_by_its_name(middle, words):
    said = refusal(encoder_of(Odd(middle)), "conv1", images())
    for word in words:
        assert word in said


def test_behind_the_hook_point_anything_may_stand():
    """Only what relevance passes needs a rule."""
    encoder = encoder_of(Odd(nn.GroupNorm(2, 4)))
    acts = encoder.forward(images(), ["conv1"]).activations["conv1"].sum(1)
    maps_bhw = encoder.component_maps(images(), "conv1", torch.tensor([0, 1, 2]))
    torch.testing.assert_close(maps_bhw.sum((1, 2)), acts[[0, 1, 2], [0, 1, 2]], rtol=1e-3, atol=1e-4)
    found = encoder.class_relevance(images(), "middle", torch.tensor([0, 1, 2]), "crp")
    assert found.relevance_btd.abs().max() > 0


class ReadTwice(nn.Module):
    """What the convolution gives goes to its BatchNorm and past it."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, batch_bchw):
        maps = self.conv(batch_bchw)
        return self.head((self.bn(maps) + torch.relu(maps)).mean((2, 3)))


def test_a_batch_norm_that_cannot_be_merged_is_noticed():
    assert "gives other results than the model's own" in refusal(encoder_of(ReadTwice()), "bn", images())


class RectifiedFirst(nn.Module):
    """The activation, in place, lies between the convolution and the BatchNorm, which stays where it is."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.bn, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(True), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, batch_bchw):
        return self.head(self.bn(self.relu(self.conv(batch_bchw))).mean((2, 3)))


def test_a_batch_norm_behind_an_activation_passes_relevance_on():
    encoder = encoder_of(RectifiedFirst())
    at_relu, at_bn = (encoder.class_relevance(images(), h, torch.tensor([0, 1, 2]), "crp") for h in ("relu", "bn"))
    torch.testing.assert_close(at_relu.relevance_btd, at_bn.relevance_btd)
    torch.testing.assert_close(at_bn.logits_bc, encoder.forward_logits(images()))


class Normalising(nn.Module):
    """Normalises its images in place."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.head = nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 2), nn.Linear(4, 3)

    def forward(self, batch_bchw):
        batch_bchw -= 0.5
        return self.head(self.conv2(torch.relu(self.conv1(batch_bchw))).mean((2, 3)))


def test_images_that_a_model_changes_in_place():
    """And a transposed convolution."""
    encoder = encoder_of(Normalising())
    batch_bchw = images()
    maps_bhw = encoder.component_maps(batch_bchw, "conv2", torch.tensor([0, 1, 2]))
    assert torch.equal(batch_bchw, images()) and maps_bhw.abs().max() > 0


class Overwriting(nn.Module):
    """Overwrites in place what autograd needs on its way back."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, batch_bchw):
        maps = torch.sigmoid(self.conv(batch_bchw))
        pooled = maps.mean((2, 3))
        maps.zero_()
        return self.head(pooled)


def test_what_autograd_cannot_go_back_through_is_one_line():
    encoder = encoder_of(Overwriting())
    with pytest.raises(ModelError, match=r"^Relevance cannot be propagated back through python:net: .*\.$") as caught:
        encoder.class_relevance(images(), "conv", torch.tensor([0, 1, 2]), "gradient")
    assert "\n" not in str(caught.value)


def test_without_zennit_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in ("zennit", "crp")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("attribution", "canonising"):
        monkeypatch.delitem(sys.modules, f"glasshouse.plugins.encoders.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "zennit", None)
    with pytest.raises(ModelError, match=r"pip install 'glasshouse\[attribution\]'"):
        encoder_of(TwoConvolutions()).class_relevance(images(), "conv1", torch.tensor([0, 1, 2]), "crp")


def test_a_hook_that_only_the_embedding_uses():
    model = TwoConvolutions()
    encoder = encoder_of(model)
    aside = nn.Identity()
    encoder.tower.taps["aside"] = Tap(aside, "output", "nchw")
    encoder.tower.embed_images = lambda batch_bchw: aside(model.conv1(batch_bchw)).mean((2, 3))
    encoder.__dict__.pop("_probe", None)
    for method in ("gradient", "crp"):
        with pytest.raises(UsageError, match="does not use this hook point"):
            encoder.class_relevance(images(), "aside", torch.tensor([0, 1, 2]), method)


@pytest.mark.parametrize(
    ("compute", "shares"),
    [
        (lambda a, b: a + b, lambda a, b: (a / (a + b), b / (a + b))),
        (lambda a, b: a - b, lambda a, b: (a / (a - b), -b / (a - b))),
        (lambda a, b: torch.add(a, b, alpha=3), lambda a, b: (a / (a + 3 * b), 3 * b / (a + 3 * b))),
        (lambda a, b: a.clone().add_(b), lambda a, b: (a / (a + b), b / (a + b))),
        (lambda a, b: a * torch.sigmoid(b), lambda a, b: (1, 0)),
        (lambda a, b: a / (b + 1), lambda a, b: (1, 0)),
        (lambda a, b: torch.sigmoid(b.mean((2, 3), keepdim=True)) * a, lambda a, b: (1, 0)),
        (lambda a, b: torch.nn.functional.gelu(a) * 3 + 2, lambda a, b: (1, 0)),
        (lambda a, b: torch.cat([a, b], 1)[:, :2], lambda a, b: (1, 0)),
        (lambda a, b: (a + b) * 0 + a, lambda a, b: (1, 0)),
    ],
)
def test_rules_between_modules(compute, shares):
    """R of what comes out is all ones; each operand gets its share of it."""
    from glasshouse.plugins.encoders.propagation import RelevanceRules

    generator = torch.Generator().manual_seed(3)
    a, b = (torch.rand(3, 2, 4, 4, generator=generator, dtype=torch.float64) + 0.2 for _ in range(2))
    b[0] *= -1.5
    leaves = [tensor.clone().requires_grad_() for tensor in (a, b)]
    with RelevanceRules(()):
        out = compute(*leaves)
    torch.testing.assert_close(out.detach(), compute(a, b))
    found = torch.autograd.grad(out, leaves, torch.ones_like(out), allow_unused=True)
    for relevance, share in zip(found, shares(a, b), strict=True):
        relevance = torch.zeros_like(a) if relevance is None else relevance
        torch.testing.assert_close(relevance, torch.ones_like(a) * share, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "compute",
    [
        lambda a: a.mean((2, 3)),
        lambda a: a.sum(1),
        lambda a: torch.nn.functional.avg_pool2d(a, 2),
        lambda a: torch.nn.functional.adaptive_avg_pool2d(a, 3),
        lambda a: torch.nn.functional.interpolate(a, scale_factor=2, mode="bilinear"),
        lambda a: torch.nn.functional.conv2d(a, torch.full((2, 1, 2, 2), 0.25), groups=2),
    ],
)
def test_pooling_shares_by_what_each_value_adds(compute):
    """The rule written out for a linear f: R_i = Σ_k x_i f_ik / y_k · R_k, with f_ik found by unit vectors."""
    from glasshouse.plugins.encoders.propagation import RelevanceRules

    acts = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(5)) + 0.1
    leaf = acts.clone().requires_grad_()
    with RelevanceRules(()):
        out = compute(leaf)
    given = torch.rand(out.shape, generator=torch.Generator().manual_seed(6))
    (found,) = torch.autograd.grad(out, leaf, given)
    expected = torch.zeros(32)
    for number in range(32):
        unit = torch.zeros(32)
        unit[number] = 1
        expected[number] = (acts.flatten()[number] * compute(unit.view(1, 2, 4, 4)) / compute(acts) * given).sum()
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.sum(), given.sum(), rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives():
    """In float32 there too; convolutions in TensorFloat32 may differ a little."""
    on_cpu = encoder_of(Blocks(by_modules=False))
    model = encoder_of(Blocks(by_modules=False)).tower.model
    tower = Tower(model, map_taps(model, (8, 8), "nchw"), model, transform_of(8), {}, classify=model)
    on_cuda, classes_b = HookedEncoder("python:net", tower, "cuda"), torch.tensor([0, 1, 3])
    for method in ("gradient", "crp"):
        results = [e.class_relevance(images(), "bn1", classes_b, method) for e in (on_cpu, on_cuda)]
        for expected, found in zip(*results, strict=True):
            if expected is not None:
                assert found.device.type == "cuda" and found.dtype == torch.float32
                torch.testing.assert_close(found.cpu(), expected, rtol=2e-2, atol=2e-3)
    maps = [e.component_maps(images(), "bn2", torch.tensor([5, 0, 2])).cpu() for e in (on_cpu, on_cuda)]
    torch.testing.assert_close(maps[1], maps[0], rtol=2e-2, atol=2e-3)
    logits = [e.forward_logits(images()).cpu() for e in (on_cpu, on_cuda)]
    torch.testing.assert_close(logits[1], logits[0], rtol=5e-2, atol=5e-2)
