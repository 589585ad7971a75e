"""The starter's CLS SAE, written as each published format would hold it, is the same SAE through its loader."""

from __future__ import annotations

import io
import json
from importlib.resources import files
from pathlib import Path

import pytest
import safetensors.torch
import torch

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.saes import local, own_format
from glasshouse.plugins.saes.convert import convert


@pytest.fixture(scope="module")
def starter():
    return Plugins(external=False).load_sae("starter:sae-cls")


@pytest.fixture(scope="module")
def acts_nd(starter):
    """Vectors that its features are active on: sums of some decoder rows, and noise."""
    generator = torch.Generator().manual_seed(0)
    rows = starter.form.w_dec_fd[torch.randint(512, (200, 6), generator=generator)]
    weights = 20 + 40 * torch.rand(200, 6, 1, generator=generator)
    return (rows * weights).sum(1) + starter.form.b_dec_d + torch.randn(200, 128, generator=generator)


def as_saelens(form, folder):
    tensors = {"W_enc": form.w_enc_df, "b_enc": form.b_enc_f, "W_dec": form.w_dec_fd, "b_dec": form.b_dec_d}
    tensors["threshold"] = form.threshold_f.expand(512).contiguous()
    safetensors.torch.save_file(tensors, str(folder / "sae_weights.safetensors"))
    config = {"architecture": "jumprelu", "d_in": 128, "d_sae": 512, "normalize_activations": "none"}
    (folder / "cfg.json").write_text(json.dumps(config | {"metadata": {"hook_name": "blocks.3.hook_resid_post"}}))
    return "saelens", folder


def as_dictionary_learning(form, folder):
    state = {"W_enc": form.w_enc_df, "b_enc": form.b_enc_f, "W_dec": form.w_dec_fd, "b_dec": form.b_dec_d}
    state |= {"k": torch.tensor(8), "threshold": form.threshold_f.reshape(())}
    torch.save(state | {"group_sizes": torch.tensor([32, 32, 64, 128, 256])}, folder / "ae.pt")
    trainer = {"dict_class": "MatryoshkaBatchTopKSAE", "activation_dim": 128, "dict_size": 512, "k": 8}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
    return "dictionary_learning", folder


def as_saev(form, folder):
    """Nothing is subtracted there, so the encoder's bias takes b_dec in."""
    state = {"W_enc": form.w_enc_df, "b_enc": form.b_enc_f - form.b_dec_d @ form.w_enc_df, "W_dec": form.w_dec_fd}
    buffer = io.BytesIO()
    torch.save(state | {"b_dec": form.b_dec_d, "activation.threshold": form.threshold_f.reshape(())}, buffer)
    activation = {"cls": "BatchTopK", "params": {"top_k": 8}}
    header = {"schema": 5, "cfg": {"d_model": 128, "d_sae": 512, "activation": activation}}
    (folder / "sae.pt").write_bytes(json.dumps(header).encode() + b"\n" + buffer.getvalue())
    return "saev", folder / "sae.pt"


def as_msae(form, folder):
    """Its data set's mean and scale are part of it: here the half of b_dec, and 0.1."""
    mean, scale = form.b_dec_d / 2, 0.1
    model = {"encoder": form.w_enc_df / scale, "decoder": form.w_dec_fd * scale, "latent_bias": form.b_enc_f}
    model |= {"pre_bias": (form.b_dec_d - mean) * scale, "latents_activation_frequency": torch.zeros(512)}
    model["activation.log_threshold"] = form.threshold_f.expand(512).log()
    content = {"model": model, "mean_center": mean, "scaling_factor": scale, "target_norm": 1.0}
    torch.save(content, folder / "512_128_JumpReLU_512_False_False_0.0_world.pth")
    return "msae", folder / "512_128_JumpReLU_512_False_False_0.0_world.pth"


@pytest.mark.parametrize("written", [as_saelens, as_dictionary_learning, as_saev, as_msae])
def test_codes_and_reconstructions_are_the_starters(tmp_path, starter, acts_nd, dense, written):
    scheme, path = written(starter.form, tmp_path)
    sae = Plugins(external=False).load_sae(f"{scheme}:{path}")
    expected = starter.encode(acts_nd)
    assert len(expected.value) > 500
    converted = convert(sae, tmp_path / "converted")
    for loaded in (sae, local.load(str(path), "cpu"), own_format.load(converted.file, "cpu", "converted")):
        codes = loaded.encode(acts_nd)
        found_nf, expected_nf = dense(codes, 200, 512), dense(expected, 200, 512)
        # The others' arithmetic is another order of the same sums: at the threshold it may fall to the other side.
        clear_nf = abs(expected_nf - float(starter.form.threshold_f)) > 1e-2
        assert (abs(found_nf - expected_nf) * clear_nf).max() < 1e-2
        assert ((found_nf > 0) != (expected_nf > 0)).sum() <= 2
        decoded_nd, again_nd = loaded.decode(codes, 200, acts_nd), starter.decode(expected, 200, acts_nd)
        assert (decoded_nd - again_nd).norm(dim=1).median() < 1e-2


def test_the_starters_files_are_as_they_were():
    """Format 1, read as before."""
    for name in ("sae-cls", "sae-patches"):
        description, _ = own_format.read(
            Path(str(files("glasshouse.plugins.starter").joinpath("data", name, "sae.safetensors")))
        )
        assert (description.format, description.input_scale, description.soft_cap) == (1, 1.0, None)
