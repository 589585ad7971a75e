"""The models that ship along, through the specs and the preset by which users name them."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.starter.models import clip_tokenizer, load_clip
from glasshouse.plugins.starter.world.scene import render_scene
from glasshouse.warehouse.extraction.self_test import complaint, self_test

N_IMAGES = 60


@pytest.fixture(scope="module")
def plugins():
    return Plugins(external=False)


@pytest.fixture(scope="module")
def encoder(plugins):
    return plugins.load_encoder(plugins.presets.get("starter").encoder)


@pytest.fixture(scope="module")
def batch_bchw(encoder):
    images = [Image.fromarray(render_scene(11, index).image_hwc) for index in range(N_IMAGES)]
    return torch.stack([encoder.preprocess(image) for image in images])


def rows(acts_btd, tokens):
    return acts_btd[:, 0] if tokens == "cls" else acts_btd[:, 1:].flatten(0, 1)


def test_every_space_of_the_preset_fits_and_its_self_test_is_content(plugins, encoder, batch_bchw):
    spaces = plugins.presets.get("starter").spaces
    taken = encoder.forward(batch_bchw, [space.hook for space in spaces], embedding=False).activations
    for space in spaces:
        sae = plugins.load_sae(space.sae)
        assert (sae.hook, sae.tokens, sae.spec) == (space.hook, space.tokens, space.sae)
        result = self_test(sae, rows(taken[space.hook], space.tokens))
        assert complaint(result, sae.n_features(sae.width)) is None
        assert result.explained_variance > 0.8
        assert sae.prefixes[-1] == sae.n_features(sae.width)


def test_the_self_test_finds_a_wrong_hook_and_a_wrong_scale(plugins, encoder, batch_bchw):
    taken = encoder.forward(batch_bchw, ["blocks.0.resid_post", "blocks.3.resid_post"], embedding=False).activations
    sae = plugins.load_sae("starter:sae-cls")
    wrong_hook = self_test(sae, rows(taken["blocks.0.resid_post"], "cls"))
    assert "does not seem to fit" in complaint(wrong_hook, 512)
    right = rows(taken["blocks.3.resid_post"], "cls")
    wrong_scale = self_test(sae, right / right.norm(dim=1, keepdim=True))
    assert "does not seem to fit" in complaint(wrong_scale, 512)


def test_texts_use_the_vocabulary_that_ships_along(encoder):
    texts = ["a red star", "a house with a door", "unknownword"]
    with torch.no_grad():
        expected = load_clip().encode_text(clip_tokenizer()(texts))
    torch.testing.assert_close(encoder.embed_text(texts), expected)


def test_the_independent_encoder(plugins, batch_bchw):
    dinov2 = plugins.load_encoder("starter:dinov2")
    assert dinov2.embed_text(["a red star"]) is None
    assert dinov2.forward(batch_bchw[:2], []).embedding_be.shape == (2, dinov2.embedding_width)
