"""What hooks read, against what the libraries compute by other ways; where the pass ends; the embedding."""

from __future__ import annotations

import threading

import pytest
import torch

from glasshouse.plugins.encoders import local
from glasshouse.schema.errors import UsageError

TRANSFORMERS = {
    "clip": ("CLIPModel", "vision_model"),
    "clip-vision": ("CLIPVisionModelWithProjection", "vision_model"),
    "siglip": ("SiglipModel", "vision_model"),
    "dinov2": ("Dinov2Model", None),
    "dinov2-registers": ("Dinov2WithRegistersModel", None),
    "vit": ("ViTModel", None),
}
N_PREFIX = {"siglip": 0, "dinov2-registers": 4}
BLOCKS = [f"blocks.{index}.resid_post" for index in range(4)]
KINDS = [*TRANSFORMERS, "open_clip", "open_clip-resnet", "open_clip-timm", "timm-resnet", "timm-vit"]


def hooks_of(kind):
    if kind == "timm-resnet":
        return ["layer1", "layer2.0.bn2", "layer3.1", "layer4"]
    if kind == "open_clip-timm":
        return ["layer1.0", "layer2.0.bn2", "layer4"]
    if kind == "open_clip-resnet":
        return ["layer1", "layer3.1.bn3", "layer4.0"]
    return [BLOCKS[0], "blocks.1.mlp", BLOCKS[2]]


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_blocks_of_transformers_are_its_hidden_states(load, model_folder, batch_bchw, kind):
    import transformers

    name, part = TRANSFORMERS[kind]
    model = getattr(transformers, name).from_pretrained(model_folder(kind))
    with torch.no_grad():
        states = (getattr(model, part) if part else model)(batch_bchw, output_hidden_states=True).hidden_states
    encoder = load(kind)
    taken = encoder.forward(batch_bchw, BLOCKS, embedding=False).activations
    assert len(states) == 5
    for index, hook in enumerate(BLOCKS):
        torch.testing.assert_close(taken[hook], states[index + 1])
    n_prefix = N_PREFIX.get(kind, 1)
    for point in encoder.hook_points():
        assert (point.n_prefix, point.grid) == (n_prefix, (4, 4))
    assert taken[BLOCKS[0]].shape == (3, n_prefix + 16, 24)


def test_blocks_of_open_clip(load, model_folder, batch_bchw):
    import open_clip

    visual = open_clip.create_model(f"local-dir:{model_folder('open_clip')}").eval().visual
    taken = load("open_clip").forward(batch_bchw, [*BLOCKS, "blocks.2.mlp"]).activations
    with torch.no_grad():
        tokens_btd = visual.conv1(batch_bchw).flatten(2).transpose(1, 2)
        tokens_btd = torch.cat([visual.class_embedding.expand(3, 1, -1), tokens_btd], 1) + visual.positional_embedding
        tokens_btd = visual.ln_pre(tokens_btd)
        for index, block in enumerate(visual.transformer.resblocks):
            normed_btd = block.ln_1(tokens_btd)
            tokens_btd = tokens_btd + block.attn(normed_btd, normed_btd, normed_btd)[0]
            hidden_bth = torch.nn.functional.gelu(block.mlp.c_fc(block.ln_2(tokens_btd)))
            if index == 2:
                torch.testing.assert_close(taken["blocks.2.mlp"], hidden_bth, atol=1e-5, rtol=1e-4)
            tokens_btd = tokens_btd + block.mlp.c_proj(hidden_bth)
            torch.testing.assert_close(taken[BLOCKS[index]], tokens_btd, atol=1e-5, rtol=1e-4)


def test_blocks_of_timm(load, model_folder, batch_bchw):
    import timm

    model = timm.create_model(f"local-dir:{model_folder('timm-vit')}", pretrained=True).eval()
    taken = load("timm-vit").forward(batch_bchw, [*BLOCKS, "blocks.2.mlp"], embedding=False).activations
    with torch.no_grad():
        tokens_btd = model.patch_embed.proj(batch_bchw).flatten(2).transpose(1, 2)
        tokens_btd = torch.cat([model.cls_token.expand(3, -1, -1), tokens_btd], 1) + model.pos_embed
        for index, block in enumerate(model.blocks[:4]):
            tokens_btd = tokens_btd + block.attn(block.norm1(tokens_btd))
            hidden_bth = torch.nn.functional.gelu(block.mlp.fc1(block.norm2(tokens_btd)))
            if index == 2:
                torch.testing.assert_close(taken["blocks.2.mlp"], hidden_bth, atol=1e-5, rtol=1e-4)
            tokens_btd = tokens_btd + block.mlp.fc2(hidden_bth)
            torch.testing.assert_close(taken[BLOCKS[index]], tokens_btd, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2", "dinov2-registers", "vit"])
def test_hidden_neurons_of_transformers(load, model_folder, batch_bchw, kind):
    """The hidden neurons times the second linear layer are what the MLP gives."""
    import transformers

    name, part = TRANSFORMERS[kind]
    model = getattr(transformers, name).from_pretrained(model_folder(kind))
    mlp = dict((getattr(model, part) if part else model).named_modules())
    mlp = next(module for path, module in mlp.items() if path.endswith(".2.mlp"))
    outputs = []
    mlp.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with torch.no_grad():
        (getattr(model, part) if part else model)(batch_bchw)
        hidden_bth = load(kind).forward(batch_bchw, ["blocks.2.mlp"], embedding=False).activations["blocks.2.mlp"]
        torch.testing.assert_close(mlp.fc2(hidden_bth), outputs[0])
    assert hidden_bth.shape[2] == {point.name: point.width for point in load(kind).hook_points()}["blocks.2.mlp"]


@pytest.mark.parametrize("whole_pass", [False, True])
def test_maps_of_a_cnn_are_flattened_row_by_row(load, model_folder, batch_bchw, whole_pass):
    """Also where the network goes on to add and rectify in place."""
    import timm

    model = timm.create_model(f"local-dir:{model_folder('timm-resnet')}", pretrained=True).eval()
    hooks = ["layer1", "layer2.0.bn2", "layer2.0", "layer3.1"]
    result = load("timm-resnet").forward(batch_bchw, hooks, embedding=whole_pass)
    with torch.no_grad():
        layer1 = model.layer1(model.maxpool(torch.relu(model.bn1(model.conv1(batch_bchw)))))
        block = model.layer2[0]
        bn2 = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(layer1)))))
        layer2_0 = torch.relu(bn2 + block.downsample(layer1))
        layer3_1 = model.layer3(model.layer2[1](layer2_0))
    for hook, expected_bchw in zip(hooks, [layer1, bn2, layer2_0, layer3_1], strict=True):
        tokens_btd = result.activations[hook]
        rows, columns = expected_bchw.shape[2:]
        assert tokens_btd.shape == (3, rows * columns, expected_bchw.shape[1])
        for row in range(rows):
            for column in range(columns):
                torch.testing.assert_close(
                    tokens_btd[:, row * columns + column], expected_bchw[:, :, row, column], atol=1e-4, rtol=1e-4
                )
    points = {point.name: point for point in load("timm-resnet").hook_points()}
    assert (points["layer2.0"].grid, points["layer2.0"].width, points["layer2.0"].n_prefix) == ((4, 4), 16, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_several_hooks_in_one_pass_equal_single_ones(load, batch_bchw, kind):
    encoder, hooks = load(kind), hooks_of(kind)
    together = encoder.forward(batch_bchw, hooks, embedding=True)
    assert list(together.activations) == hooks
    for hook in hooks:
        alone = encoder.forward(batch_bchw, [hook], embedding=False)
        assert alone.embedding_be is None
        torch.testing.assert_close(alone.activations[hook], together.activations[hook], rtol=0, atol=0)
        assert alone.activations[hook].dtype == torch.float32
    in_other_order = encoder.forward(batch_bchw, hooks[::-1], embedding=False)
    for hook in hooks:
        torch.testing.assert_close(in_other_order.activations[hook], together.activations[hook], rtol=0, atol=0)
    only = encoder.forward(batch_bchw, [], embedding=True)
    assert only.activations == {}
    torch.testing.assert_close(only.embedding_be, together.embedding_be, rtol=0, atol=0)
    assert together.embedding_be.shape == (3, encoder.embedding_width)
    assert encoder.forward(batch_bchw, [], embedding=False) == ({}, None)


@pytest.mark.parametrize("kind", KINDS)
def test_hook_points_are_in_the_order_of_the_pass_and_as_described(load, batch_bchw, kind):
    encoder = load(kind)
    points = encoder.hook_points()
    result = encoder.forward(batch_bchw, [point.name for point in points])
    for point in points:
        n_tokens = point.n_prefix + point.grid[0] * point.grid[1]
        assert result.activations[point.name].shape == (3, n_tokens, point.width)
    names = [point.name for point in points]
    assert len(set(names)) == len(names)
    for earlier, later in zip(hooks_of(kind), hooks_of(kind)[1:], strict=False):
        assert names.index(earlier) < names.index(later)


def modules_of(encoder, kind):
    """The modules that are run one after the other."""
    model = encoder._tower.model
    if "resnet" in kind or kind == "open_clip-timm":
        network = {"timm-resnet": model}.get(kind) or getattr(model.visual, "trunk", model.visual)
        return [network.layer1, network.layer2, network.layer3, network.layer4]
    if kind == "open_clip":
        return list(model.visual.transformer.resblocks)
    lists = list(getattr(model, "vision_model", model).modules())
    return list(next(m for m in lists if isinstance(m, torch.nn.ModuleList | torch.nn.Sequential) and len(m) == 4))


@pytest.mark.parametrize("kind", KINDS)
def test_the_pass_ends_after_the_last_block_that_is_needed(load, batch_bchw, kind):
    encoder = load(kind)
    encoder.hook_points()
    modules, calls = modules_of(encoder, kind), []
    handles = [
        module.register_forward_pre_hook(lambda _module, _inputs, index=index: calls.append(index))
        for index, module in enumerate(modules)
    ]
    cnn = "resnet" in kind or kind == "open_clip-timm"
    names = ["layer1", "layer2"] if cnn else [BLOCKS[0], BLOCKS[1]]
    try:
        encoder.forward(batch_bchw, names[::-1], embedding=False)
        assert calls == [0, 1]
        calls.clear()
        encoder.forward(batch_bchw, names[:1], embedding=False)
        assert calls == [0]
        calls.clear()
        encoder.forward(batch_bchw, names[:1], embedding=True)
        assert calls == list(range(len(modules)))
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays_hooked(load, batch_bchw, kind):
    encoder = load(kind)
    encoder.forward(batch_bchw, hooks_of(kind), embedding=False)
    with pytest.raises(UsageError):
        encoder.forward(torch.zeros(1, 3, 32, 31), hooks_of(kind))
    for module in encoder._tower.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def expected_embedding(kind, folder, batch_bchw):
    import open_clip
    import timm
    import transformers

    if kind.startswith("open_clip"):
        model = open_clip.create_model(f"local-dir:{folder}").eval()
        return model.encode_image(batch_bchw)
    if kind.startswith("timm"):
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        model.reset_classifier(0)
        return model(batch_bchw)
    model = getattr(transformers, TRANSFORMERS[kind][0]).from_pretrained(folder)
    if kind in ("clip", "siglip"):
        texts = torch.zeros(1, 12, dtype=torch.int64)
        embeds_be = model(pixel_values=batch_bchw, input_ids=texts).image_embeds
        return embeds_be  # normalised, since transformers gives it no other way here
    output = model(batch_bchw)
    return output.image_embeds if kind == "clip-vision" else output.last_hidden_state[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedding_is_the_models_own(load, model_folder, batch_bchw, kind):
    with torch.no_grad():
        expected_be = expected_embedding(kind, model_folder(kind), batch_bchw)
    embedding_be = load(kind).forward(batch_bchw, []).embedding_be
    if kind in ("clip", "siglip"):
        assert (embedding_be.norm(dim=1) - 1).abs().min() > 1e-3, "not normalised"
        embedding_be = torch.nn.functional.normalize(embedding_be, dim=1)
    torch.testing.assert_close(embedding_be, expected_be, atol=1e-5, rtol=1e-4)


def test_a_hook_that_does_not_exist(load, batch_bchw):
    with pytest.raises(UsageError) as caught:
        load("open_clip").forward(batch_bchw, ["blocks.4.resid_post"])
    said = str(caught.value)
    assert "has no hook point 'blocks.4.resid_post'. Did you mean 'blocks." in said
    assert "Known: blocks.0.mlp, blocks.0.resid_post, blocks.1.mlp" in said
    assert "\n" not in said
    with pytest.raises(UsageError) as caught:
        load("timm-resnet").forward(batch_bchw, ["layer5"])
    said = str(caught.value)
    assert "Known: conv1, bn1, act1, maxpool, layer1.0, layer1.1, layer1, layer2.0, " in said
    assert "more inside these" in said


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 32, 33), (1, 3, 64, 64)])
def test_a_batch_of_another_shape(load, shape):
    with pytest.raises(UsageError, match=r"takes batches of shape \[n, 3, 32, 32\]"):
        load("clip").forward(torch.zeros(shape), BLOCKS[:1])


def test_passes_of_several_threads_do_not_mix(load):
    encoder = load("open_clip")
    batches = [torch.full((1, 3, 32, 32), float(number)) for number in range(8)]
    hooks = [BLOCKS[number % 4] for number in range(8)]
    expected = [encoder.forward(b, [h], embedding=False).activations[h] for b, h in zip(batches, hooks, strict=True)]
    wrong = []

    def work(number):
        for _ in range(10):
            taken = encoder.forward(batches[number], [hooks[number]], embedding=False).activations
            if not torch.equal(taken[hooks[number]], expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_cuda_runs_in_half_precision_and_gives_float32(load, model_folder, batch_bchw, kind):
    on_cuda = local.load(str(model_folder(kind)), "cuda")
    hooks = hooks_of(kind)
    result, expected = on_cuda.forward(batch_bchw, hooks), load(kind).forward(batch_bchw, hooks)
    assert on_cuda.fingerprint == load(kind).fingerprint
    pairs = [(result.embedding_be, expected.embedding_be)]
    pairs += [(result.activations[hook], expected.activations[hook]) for hook in hooks]
    for taken, reference in pairs:
        assert taken.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(taken.cpu().flatten(), reference.flatten(), dim=0) > 0.99
