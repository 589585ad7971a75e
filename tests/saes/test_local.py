"""Specs that are a path."""

from __future__ import annotations

import json

import pytest
import safetensors.torch

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.saes import local, own_format
from glasshouse.schema.errors import GlasshouseError, ModelError


def test_what_lies_nowhere_or_is_not_known(tmp_path):
    with pytest.raises(ModelError, match=r"There is no file or folder .*nothing.*sae\.safetensors.*weights\.pt"):
        local.load(str(tmp_path / "nothing"), "cpu")
    with pytest.raises(ModelError, match=r"holds no SAE that is known.*config\.json with weights\.pt"):
        local.load(str(tmp_path), "cpu")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match="holds no SAE that is known"):
        local.load(str(tmp_path / "notes.txt"), "cpu")


def test_every_built_in_scheme_is_registered():
    plugins = Plugins(external=False)
    assert {
        "local",
        "neurons",
        "prisma",
        "starter",
        "saelens",
        "dictionary_learning",
        "saev",
        "overcomplete",
        "msae",
    } <= {name for name, _, _ in plugins.saes}
    for _name, loader, _plugin in plugins.saes:
        assert loader.summary
        assert "\n" not in loader.summary
    assert plugins.load_sae("neurons").is_lossless
    with pytest.raises(GlasshouseError, match=r"/no/such/folder.* folder"):
        plugins.load_sae("/no/such/folder")


def test_what_was_converted_in_place_comes_before_what_it_was_made_from(tmp_path, make_form):
    """A folder may hold both; the file in glasshouse's own format is the one that is meant."""
    form = make_form(6, 24)
    tensors = {"W_enc": form.w_enc_df, "b_enc": form.b_enc_f, "W_dec": form.w_dec_fd, "b_dec": form.b_dec_d}
    safetensors.torch.save_file(tensors, str(tmp_path / "sae_weights.safetensors"))
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "standard", "normalize_activations": "none"}))
    assert local.load(str(tmp_path), "cpu").about["format"] == "SAELens (standard)"
    description = {
        "format": 1, "activation": "relu", "apply_b_dec_to_input": True, "normalization": "none",
        "hook": "blocks.3.resid_post", "tokens": "cls", "encoder": "starter:clip",
    }  # fmt: skip
    own_format.write(tmp_path / "sae.safetensors", tensors, description)
    assert local.load(str(tmp_path), "cpu").about["format"] == "glasshouse"
