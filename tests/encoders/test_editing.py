"""Passes that go on with edited activations, against forward passes written by hand."""

from __future__ import annotations

import pytest
import torch

from glasshouse.plugins.encoders.tapping import Tap
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.contracts import EditingEncoder

HOOKS = {
    **dict.fromkeys(("clip", "clip-vision", "siglip", "dinov2", "vit", "open_clip", "timm-vit"), "blocks.2.resid_post"),
    "dinov2-registers": "blocks.1.mlp",
    "open_clip-resnet": "layer3.1.bn3",
    "open_clip-timm": "layer2.0.bn2",
    "timm-resnet": "layer2.0",
}
EDGE = 0.5


def halve_positive(acts_btd):
    return torch.where(acts_btd > 0, acts_btd * EDGE, acts_btd)


@pytest.mark.parametrize("kind", HOOKS)
def test_an_edit_that_changes_nothing_gives_the_very_embedding(load, batch_bchw, kind):
    encoder, seen = load(kind), []
    assert isinstance(encoder, EditingEncoder)
    plain = encoder.forward(batch_bchw, [HOOKS[kind]])

    def look(acts_btd):
        seen.append(acts_btd.clone())
        return acts_btd

    assert torch.equal(encoder.forward_edited(batch_bchw, HOOKS[kind], look), plain.embedding_be)
    assert len(seen) == 1 and torch.equal(seen[0], plain.activations[HOOKS[kind]])


@pytest.mark.parametrize("kind", HOOKS)
def test_zeroing_a_hook_changes_the_embedding_and_leaves_no_trace(load, batch_bchw, kind):
    encoder = load(kind)
    before = encoder.forward(batch_bchw, []).embedding_be
    zeroed = encoder.forward_edited(batch_bchw, HOOKS[kind], torch.Tensor.zero_)
    assert (zeroed - before).abs().max() > 1e-3
    assert torch.equal(encoder.forward(batch_bchw, []).embedding_be, before)


def test_open_clip_goes_on_with_what_the_edit_gave(load, model_folder, batch_bchw):
    """Only one token of one image is edited; the rest of the tower is written out."""
    import open_clip

    def edit(acts_btd):
        acts_btd[1, 3] *= -2
        return acts_btd

    visual = open_clip.create_model(f"local-dir:{model_folder('open_clip')}").eval().visual
    with torch.no_grad():
        tokens_btd = visual.conv1(batch_bchw).flatten(2).transpose(1, 2)
        tokens_btd = torch.cat([visual.class_embedding.expand(3, 1, -1), tokens_btd], 1) + visual.positional_embedding
        tokens_btd = visual.ln_pre(tokens_btd)
        for index, block in enumerate(visual.transformer.resblocks):
            normed_btd = block.ln_1(tokens_btd)
            tokens_btd = tokens_btd + block.attn(normed_btd, normed_btd, normed_btd)[0]
            hidden_bth = torch.nn.functional.gelu(block.mlp.c_fc(block.ln_2(tokens_btd)))
            tokens_btd = tokens_btd + block.mlp.c_proj(hidden_bth)
            if index == 1:
                tokens_btd[1, 3] *= -2
        expected_be = visual.ln_post(tokens_btd)[:, 0] @ visual.proj
    found_be = load("open_clip").forward_edited(batch_bchw, "blocks.1.resid_post", edit)
    torch.testing.assert_close(found_be, expected_be, atol=1e-5, rtol=1e-4)


def test_hidden_neurons_are_edited_before_the_second_linear_layer(load, model_folder, batch_bchw):
    import timm

    model = timm.create_model(f"local-dir:{model_folder('timm-vit')}", pretrained=True).eval()
    with torch.no_grad():
        tokens_btd = model.patch_embed.proj(batch_bchw).flatten(2).transpose(1, 2)
        tokens_btd = torch.cat([model.cls_token.expand(3, -1, -1), tokens_btd], 1) + model.pos_embed
        for index, block in enumerate(model.blocks):
            tokens_btd = tokens_btd + block.attn(block.norm1(tokens_btd))
            hidden_bth = torch.nn.functional.gelu(block.mlp.fc1(block.norm2(tokens_btd)))
            tokens_btd = tokens_btd + block.mlp.fc2(halve_positive(hidden_bth) if index == 2 else hidden_bth)
        expected_be = model.norm(tokens_btd)[:, 0]
    found_be = load("timm-vit").forward_edited(batch_bchw, "blocks.2.mlp", halve_positive)
    torch.testing.assert_close(found_be, expected_be, atol=1e-5, rtol=1e-4)


def test_maps_of_a_cnn_are_put_back_where_they_were(load, model_folder, batch_bchw):
    """A different factor for each place of the map: rows and columns must not be mixed up."""
    import timm

    def edit(acts_btd):
        return acts_btd * torch.arange(acts_btd.shape[1])[None, :, None]

    model = timm.create_model(f"local-dir:{model_folder('timm-resnet')}", pretrained=True).eval()
    with torch.no_grad():
        map_bchw = model.layer1(model.maxpool(torch.relu(model.bn1(model.conv1(batch_bchw)))))
        rows, columns = map_bchw.shape[2:]
        for row in range(rows):
            for column in range(columns):
                map_bchw[:, :, row, column] *= row * columns + column
        expected_be = model.layer4(model.layer3(model.layer2(map_bchw))).mean((2, 3))
    found_be = load("timm-resnet").forward_edited(batch_bchw, "layer1", edit)
    torch.testing.assert_close(found_be, expected_be, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["open_clip", "dinov2", "timm-resnet"])
def test_an_edit_may_give_more_rows_at_the_end_of_a_block(load, batch_bchw, kind):
    encoder, hook = load(kind), {"timm-resnet": "layer2"}.get(kind, HOOKS[kind])
    rows = [0, 2, 2, 1, 0]
    several_be = encoder.forward_edited(batch_bchw, hook, lambda acts_btd: acts_btd[rows])
    torch.testing.assert_close(several_be, encoder.forward(batch_bchw, []).embedding_be[rows], atol=1e-5, rtol=1e-4)


def test_what_is_refused(load, batch_bchw):
    encoder = load("open_clip")
    with pytest.raises(UsageError, match=r"no hook point 'blocks.9'"):
        encoder.forward_edited(batch_bchw, "blocks.9", halve_positive)
    with pytest.raises(UsageError, match=r"takes batches of shape"):
        encoder.forward_edited(batch_bchw[:, :, 1:], "blocks.1.resid_post", halve_positive)
    with pytest.raises(UsageError, match=r"\[3, 17, 24\] and returned \[3, 16, 24\]"):
        encoder.forward_edited(batch_bchw, "blocks.1.resid_post", lambda acts_btd: acts_btd[:, 1:])
    before = encoder.forward(batch_bchw, []).embedding_be
    assert torch.isfinite(before).all(), "a failed edit leaves no hook behind"


@pytest.mark.parametrize("layout", ["tokens", "nchw", "nhwc"])
@pytest.mark.parametrize("in_order", [torch.contiguous_format, torch.channels_last])
def test_number_type_and_memory_order_are_kept(layout, in_order):
    """A half-precision tower gets back what it gave, to the last bit and in the same order of memory."""
    tap = Tap(torch.nn.Identity(), layout=layout)
    given = torch.randn(2, 5, 4, 3).bfloat16().contiguous(memory_format=in_order)
    given = given.flatten(1, 2) if layout == "tokens" else given
    back = tap.replaced(given, tap.tokens(given, keep=False).float())
    assert back.dtype == given.dtype and back.stride() == given.stride() and torch.equal(back, given)
