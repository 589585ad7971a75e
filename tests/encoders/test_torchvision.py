"""torchvision's classifiers: what is read, embedded and answered; weights from files; preprocessing; refusals."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from PIL import Image

from glasshouse.plugins.encoders import torchvision
from glasshouse.plugins.encoders.torchvision import IMAGENET
from glasshouse.schema.errors import ModelError


def library():
    import torchvision as module

    return module.models


def own_model(name, seed, **options):
    """The library's model with weights from a seed, and batch statistics that are no zeros and ones."""
    torch.manual_seed(seed)
    model = library().get_model(name, weights=None, **options).eval()
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory):
    """A ResNet-18 of five classes, as a training script saves it."""
    model = own_model("resnet18", 1, num_classes=5)
    file = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, file)
    return file, model


@pytest.fixture(scope="module")
def batch_bchw():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def test_a_resnet_18_at_full_size(resnet_file, batch_bchw):
    """Everything once: embedding, logits, an edit, gradient, CRP, maps, names."""
    file, model = resnet_file
    encoder = torchvision.load(f"resnet18@{file}", "cpu")
    assert encoder.spec == f"torchvision:resnet18@{file.resolve()}"
    taken = encoder.forward(batch_bchw, ["layer3", "layer4"])
    with torch.no_grad():
        maps = model.layer3(model.layer2(model.layer1(model.maxpool(torch.relu(model.bn1(model.conv1(batch_bchw)))))))
        last = model.layer4(maps)
        torch.testing.assert_close(taken.activations["layer3"], maps.flatten(2).transpose(1, 2))
        torch.testing.assert_close(taken.embedding_be, last.mean((2, 3)), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(encoder.forward_logits(batch_bchw), model(batch_bchw), atol=1e-5, rtol=1e-4)
    assert encoder.embedding_width == 512 and list(encoder.class_names) == ["0", "1", "2", "3", "4"]
    same = encoder.forward_logits(batch_bchw, "layer3", lambda acts_btd: acts_btd)
    assert torch.equal(same, encoder.forward_logits(batch_bchw))
    classes_b = torch.tensor([4, 0])
    for method in ("gradient", "crp"):
        found = encoder.class_relevance(batch_bchw, "layer4", classes_b, method)
        torch.testing.assert_close(found.activations_btd, taken.activations["layer4"], atol=1e-3, rtol=1e-3)
        rest_b = found.relevance_btd.sum((1, 2)) - found.logits_bc.gather(1, classes_b[:, None])[:, 0]
        assert (rest_b + model.fc.bias.detach()[classes_b]).abs().max() < 1e-3, "only the bias is missing"
    maps_bhw = encoder.component_maps(batch_bchw, "layer4", torch.tensor([7, 100]))
    assert maps_bhw.shape == (2, 224, 224) and maps_bhw.abs().max() > 0


def test_blocks_of_a_vit(batch_bchw):
    encoder = torchvision.load("vit_b_32/random:2", "cpu")
    model = encoder.tower.model
    hooks = ["blocks.0.resid_post", "blocks.1.mlp", "blocks.11.resid_post"]
    taken = encoder.forward(batch_bchw, hooks)
    with torch.no_grad():
        tokens_btd = model.conv_proj(batch_bchw).flatten(2).transpose(1, 2)
        tokens_btd = torch.cat([model.class_token.expand(2, -1, -1), tokens_btd], 1) + model.encoder.pos_embedding
        for index, block in enumerate(model.encoder.layers):
            normed_btd = block.ln_1(tokens_btd)
            tokens_btd = tokens_btd + block.self_attention(normed_btd, normed_btd, normed_btd)[0]
            hidden_bth = torch.nn.functional.gelu(block.mlp[0](block.ln_2(tokens_btd)))
            tokens_btd = tokens_btd + block.mlp[3](hidden_bth)
            if index == 0:
                torch.testing.assert_close(taken.activations[hooks[0]], tokens_btd, atol=1e-5, rtol=1e-3)
            if index == 1:
                torch.testing.assert_close(taken.activations[hooks[1]], hidden_bth, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(taken.activations[hooks[2]], tokens_btd, atol=1e-4, rtol=1e-3)
        embedding_be = model.encoder.ln(tokens_btd)[:, 0]
    torch.testing.assert_close(taken.embedding_be, embedding_be, atol=1e-4, rtol=1e-3)
    points = {point.name: point for point in encoder.hook_points()}
    assert (points[hooks[0]].n_prefix, points[hooks[0]].grid) == (1, (7, 7))


@pytest.mark.parametrize(
    ("name", "width"), [("squeezenet1_1", 512), ("mobilenet_v3_small", 1024), ("shufflenet_v2_x0_5", 1024)]
)
def test_the_embedding_is_what_the_head_is_handed(name, width):
    encoder = torchvision.load(f"{name}/random:0", "cpu")
    model, batch_bchw = encoder.tower.model, torch.randn(1, 3, 224, 224)
    embedding_be = encoder.forward(batch_bchw, []).embedding_be
    assert embedding_be.shape == (1, width) == (1, encoder.embedding_width)
    with torch.no_grad():
        if name == "squeezenet1_1":  # a 1×1 convolution is its head
            expected_be = model.features(batch_bchw).mean((2, 3))
        elif name == "mobilenet_v3_small":
            expected_be = model.classifier[:3](model.avgpool(model.features(batch_bchw)).flatten(1))
        else:
            maps = model.stage4(model.stage3(model.stage2(model.maxpool(model.conv1(batch_bchw)))))
            expected_be = model.conv5(maps).mean((2, 3))
    torch.testing.assert_close(embedding_be, expected_be, atol=1e-5, rtol=1e-4)


def test_random_weights_come_from_the_seed():
    first, again, other = (torchvision.load(f"mnasnet0_5/random:{seed}", "cpu") for seed in (1, 1, 2))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.spec == "torchvision:mnasnet0_5/random:1"


def test_the_same_weights_have_one_identity_and_other_ones_another(resnet_file, tmp_path):
    """Whatever the file's form."""
    file, model = resnet_file
    base = torchvision.load(f"resnet18@{file}", "cpu").fingerprint
    safetensors.torch.save_file(model.state_dict(), tmp_path / "mine.safetensors")
    assert torchvision.load(f"resnet18@{tmp_path / 'mine.safetensors'}", "cpu").fingerprint == base
    state = model.state_dict()
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"] + 1e-6
    torch.save(state, tmp_path / "other.pth")
    assert torchvision.load(f"resnet18@{tmp_path / 'other.pth'}", "cpu").fingerprint != base


@pytest.mark.parametrize("name", ["resnet50.IMAGENET1K_V2", "efficientnet_b0.IMAGENET1K_V1", "swin_t.IMAGENET1K_V1"])
def test_preprocessing_is_that_of_the_weights(name, random_images):
    architecture, _, tag = name.partition(".")
    preset = library().get_model_weights(architecture)[tag].transforms()
    ours = torchvision.transform_of(preset)
    for image in random_images:
        torch.testing.assert_close(ours(image), preset(image), atol=1e-5, rtol=1e-5)


def test_without_named_weights_it_is_imagenets(random_images):
    preset = library().get_model_weights("resnet18")["IMAGENET1K_V1"].transforms()
    assert torchvision.transform_of(preset) == IMAGENET
    assert torchvision.load("mnasnet0_5/random:1", "cpu").transform == IMAGENET


def test_published_weights_in_a_local_file_bring_names_and_preprocessing(tmp_path):
    model = own_model("squeezenet1_1", 3)
    torch.save(model.state_dict(), tmp_path / "squeezenet.pth")
    encoder = torchvision.load(f"squeezenet1_1.IMAGENET1K_V1@{tmp_path / 'squeezenet.pth'}", "cpu")
    assert encoder.class_names[:2] == ("tench", "goldfish") and len(encoder.class_names) == 1000


def test_published_weights_come_from_torchs_cache(tmp_path, monkeypatch):
    """What lies there is looked at before torchvision unpickles it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth"
    model = own_model("squeezenet1_1", 3)
    torch.save(model.state_dict(), file)
    encoder = torchvision.load("squeezenet1_1", "cpu")
    images = torch.zeros(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(encoder.forward_logits(images), model(images))
    assert encoder.class_names[0] == "tench"
    file.write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"squeezenet1_1-b8a52dc0\.pth"):
        torchvision.load("squeezenet1_1", "cpu")


def test_without_a_network_it_says_what_to_fetch_and_type(tmp_path, monkeypatch):
    def unreachable(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(ModelError) as caught:
        torchvision.load("resnet18", "cpu")
    said = str(caught.value)
    assert said.startswith("torchvision:resnet18 cannot be loaded: its weights cannot be fetched (no route to host).")
    assert "fetch https://download.pytorch.org/models/resnet18-f37072fd.pth elsewhere" in said
    assert said.endswith("and type torchvision:resnet18.IMAGENET1K_V1@FILE.") and "\n" not in said


@pytest.mark.parametrize("name", ["googlenet", "densenet121"])
def test_files_of_models_with_peculiar_names(name, tmp_path):
    """GoogLeNet without its side classifiers, DenseNet as it is published: `norm.1` instead of `norm1`."""
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    model = own_model(name, 5, num_classes=3, **options)
    state = model.state_dict()
    if name == "densenet121":
        for kind in ("norm", "conv"):
            for number in "12":
                state = {key.replace(f".{kind}{number}.", f".{kind}.{number}."): value for key, value in state.items()}
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save(state, tmp_path / "mine.pt")
    encoder = torchvision.load(f"{name}@{tmp_path / 'mine.pt'}", "cpu")
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(encoder.forward_logits(images), model(images), atol=1e-5, rtol=1e-4)


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_files_that_do_not_fit(tmp_path, resnet_file, capsys):
    def refused(name):
        with pytest.raises(ModelError) as caught:
            torchvision.load(name, "cpu")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    file, model = resnet_file
    assert "does not fit torchvision's resnet34: " in refused(f"resnet34@{file}")
    assert "tensors missing: 80, unknown: 0, of another shape: 0, first layer1.2" in refused(f"resnet34@{file}")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    assert "holds no state dict. Save one with torch.save(model.state_dict()" in refused(
        f"resnet18@{tmp_path / 'empty.pth'}"
    )
    torch.save({**model.state_dict(), "conv1.weight": Evil()}, tmp_path / "evil.pth")
    assert "tensors missing: 1, unknown: 0" in refused(f"resnet18@{tmp_path / 'evil.pth'}")
    assert "run" not in capsys.readouterr().out, "nothing in the file is run"
    (tmp_path / "no.safetensors").write_bytes(b"x" * 20)
    assert "is no safetensors file" in refused(f"resnet18@{tmp_path / 'no.safetensors'}")
    assert "there is no file" in refused(f"resnet18@{tmp_path / 'none.pth'}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnt18", ["no classifier 'resnt18'", "resnet18"]),
        ("", ["no classifier ''"]),
        ("resnet18.V1", ["no weights 'V1' of resnet18. Known: IMAGENET1K_V1."]),
        ("resnet18/7", ["torchvision:resnet18/7 names no weights", "torchvision:resnet18/random:0"]),
        ("resnet18/random", ["random weights need a seed"]),
        ("resnet18.IMAGENET1K_V1/random:1", ["names no weights"]),
    ],
)
def test_names_that_are_none(name, words):
    with pytest.raises(ModelError) as caught:
        torchvision.load(name, "cpu")
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pictures_of_any_size(random_images):
    encoder = torchvision.load("mnasnet0_5/random:1", "cpu")
    for image in [*random_images, Image.new("L", (5, 500), 7)]:
        assert encoder.preprocess(image).shape == (3, 224, 224)
