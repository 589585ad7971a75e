"""Prisma's layouts, written here as Prisma writes them, and what is wrong with others."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest
import torch

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.saes import local, prisma
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.schema.errors import ModelError

CONFIG = {
    "model_class_name": "HookedViT",
    "model_name": "open-clip:laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
    "hook_point_layer": 7,
    "layer_subtype": "hook_resid_post",
    "d_in": 6,
    "d_sae": 24,
    "expansion_factor": 4,
    "activation_fn_str": "relu",
    "activation_fn_kwargs": {},
    "normalize_activations": "layer_norm",
    "cls_token_only": True,
    "use_patches_only": False,
    "architecture": "standard",
    "device": {"__type__": "torch.device", "value": "cuda"},
    "dtype": {"__type__": "torch.dtype", "value": "torch.float32"},
}


def state_dict_of(form):
    state = OrderedDict(W_enc=form.w_enc_df, b_enc=form.b_enc_f, W_dec=form.w_dec_fd, b_dec=form.b_dec_d)
    if form.b_gate_f is not None:
        state |= {"b_gate": form.b_gate_f, "r_mag": form.r_mag_f, "b_mag": form.b_mag_f}
        del state["b_enc"]
    return state


def pickled_config(monkeypatch):
    """An object of a class that the loader cannot import, as the training code leaves it in the checkpoint."""
    module = ModuleType("vit_prisma_sae_config")
    config_class = type("VisionModelSAERunnerConfig", (), {"__module__": module.__name__})
    module.VisionModelSAERunnerConfig = config_class
    monkeypatch.setitem(sys.modules, module.__name__, module)
    config = config_class()
    config.d_in, config.dtype, config.device = 6, torch.float32, torch.device("cpu")
    config.activation_fn_kwargs, config.sizes, config.names = {"k": 3}, [1, 2], {"a", "b"}
    return config


def write(folder, form, *, config=CONFIG, name="weights.pt", wrap=lambda state: state):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    torch.save(wrap(state_dict_of(form)), folder / name)
    return folder


@pytest.fixture
def acts_nd():
    return torch.randn(9, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1


def same(dense, sae, form, acts_nd):
    expected = CommonSae("memory", form)
    assert sae.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(dense(sae.encode(acts_nd), 9, 24), dense(expected.encode(acts_nd), 9, 24))


@pytest.mark.parametrize("name", ["weights.pt", "n_images_2600058.pt"])
@pytest.mark.parametrize("layout", ["bare", "plain dict", "with config object"])
def test_every_layout_and_every_way_to_name_it(tmp_path, monkeypatch, make_form, dense, acts_nd, name, layout):
    form = make_form(6, 24, normalization="layer_norm")
    wraps = {
        "bare": lambda state: state,
        "plain dict": lambda state: {"cfg": {"d_in": 6}, "state_dict": state},
        "with config object": lambda state: {"cfg": pickled_config(monkeypatch), "state_dict": state},
    }
    folder = write(tmp_path / "sae", form, name=name, wrap=wraps[layout])
    monkeypatch.delitem(sys.modules, "vit_prisma_sae_config", raising=False)
    for path in (folder, folder / name):
        sae = prisma.load(str(path), "cpu")
        assert sae.spec == f"prisma:{path.resolve()}"
        assert (sae.hook, sae.tokens) == ("blocks.7.resid_post", "cls")
        same(dense, sae, form, acts_nd)
        same(dense, local.load(str(path), "cpu"), form, acts_nd)
    assert "vit_prisma_sae_config" not in sys.modules


@pytest.mark.parametrize(
    ("settings", "config"),
    [
        ({"normalization": "layer_norm"}, {}),
        ({"normalization": "constant_norm_rescale"}, {"normalize_activations": "constant_norm_rescale"}),
        ({}, {"normalize_activations": "none"}),
        ({}, {"normalize_activations": None}),
        ({"activation": "tanh-relu"}, {"activation_fn_str": "tanh-relu", "normalize_activations": None}),
        (
            {"activation": "topk", "k": 5},
            {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}, "normalize_activations": None},
        ),
        ({"gated": True}, {"architecture": "gated", "normalize_activations": None}),
    ],
)
def test_settings_come_from_the_configuration(tmp_path, make_form, naive, dense, acts_nd, settings, config):
    form = make_form(6, 24, **settings)
    sae = prisma.load(str(write(tmp_path / "sae", form, config=CONFIG | config)), "cpu")
    expected = naive(acts_nd, form)
    codes = sae.encode(acts_nd)
    np.testing.assert_allclose(dense(codes, 9, 24), expected.codes_nf, atol=1e-4)
    np.testing.assert_allclose(sae.decode(codes, 9, acts_nd).numpy(), expected.decoded_nd, atol=1e-3)


def test_parameters_of_a_module_and_frequencies_beside_it(tmp_path, make_form, dense, acts_nd):
    form = make_form(6, 24, normalization="layer_norm")
    as_parameters = lambda state: {"state_dict": {k: torch.nn.Parameter(v) for k, v in state.items()}, "cfg": None}  # noqa: E731
    folder = write(tmp_path / "sae", form, wrap=as_parameters)
    torch.save(torch.zeros(24), folder / "weights_log_feature_sparsity.pt")
    same(dense, prisma.load(str(folder), "cpu"), form, acts_nd)


def test_the_checkpoint_after_the_most_images_is_taken(tmp_path, make_form):
    folder = tmp_path / "sae"
    for seed, name in enumerate(["weights.pt", "n_images_900.pt", "n_images_2600058.pt", "n_images_130024.pt"]):
        write(folder, make_form(6, 24, seed=seed, normalization="layer_norm"), name=name)
    expected = CommonSae("memory", make_form(6, 24, seed=2, normalization="layer_norm"))
    assert prisma.load(str(folder), "cpu").fingerprint == expected.fingerprint
    named = prisma.load(str(folder / "n_images_900.pt"), "cpu")
    assert named.fingerprint == CommonSae("memory", make_form(6, 24, seed=1, normalization="layer_norm")).fingerprint
    assert [file.name for file in prisma.weight_files(folder)] == [
        "n_images_2600058.pt", "n_images_130024.pt", "n_images_900.pt", "weights.pt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"d_in": ..., "activation_fn_str": ...}, r"config\.json lacks d_in, activation_fn_str"),
        ({"d_in": 8}, "is 6 wide with 24 features, but its config.json says d_in 8"),
        ({"expansion_factor": 8}, "says d_in 6 and expansion_factor 8"),
        ({"activation_fn_str": "gelu"}, "activation 'gelu' is not one of"),
        ({"activation_fn_str": "topk"}, "topk needs k"),
        ({"normalize_activations": "running_mean"}, "normalisation 'running_mean' is not one of"),
        ({"architecture": "gated"}, "says gated, but b_gate, r_mag and b_mag are not there"),
        ({"is_transcoder": True}, "describes a transcoder"),
    ],
)
def test_a_configuration_that_does_not_fit(tmp_path, make_form, config, message):
    config = {key: value for key, value in (CONFIG | config).items() if value is not ...}
    folder = write(tmp_path / "sae", make_form(6, 24), config=config)
    with pytest.raises(ModelError, match=message) as caught:
        prisma.load(str(folder), "cpu")
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_folders_that_are_something_else(tmp_path, make_form):
    folder = tmp_path / "sae"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"has no weights\.pt and no n_images_<N>\.pt"):
        prisma.load(str(folder), "cpu")
    write(folder, make_form(6, 24))
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is no JSON"):
        prisma.load(str(folder), "cpu")
    (folder / "config.json").write_text("[1]")
    with pytest.raises(ModelError, match=r"config\.json holds no JSON object"):
        prisma.load(str(folder), "cpu")
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"There is no config\.json in"):
        prisma.load(str(folder), "cpu")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for content, message in (
        ({"encoder": torch.zeros(2)}, "lacks the tensors W_enc, b_enc, W_dec, b_dec.*it has encoder"),
        ({"cfg": {}, "state_dict": {}}, "it has none"),
        ([1, 2], "holds no state dict"),
        (torch.zeros(3), "holds no state dict"),
    ):
        torch.save(content, folder / "weights.pt")
        with pytest.raises(ModelError, match=message):
            prisma.load(str(folder), "cpu")
    torch.save(state_dict_of(make_form(6, 24)) | {"b_dec": torch.zeros(5)}, folder / "weights.pt")
    with pytest.raises(ModelError, match=r"b_dec has shape \[5\] where W_enc \[6, 24\]"):
        prisma.load(str(folder), "cpu")


@pytest.mark.parametrize("name", ["just-a-name", "/no/such/folder", "./sae", "a/b/c/d", "a//b", ""])
def test_a_name_that_is_none(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="ORG/NAME"):
        prisma.load(name, "cpu")


def test_an_sae_on_a_hub_that_is_not_there_says_what_to_place_where(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        prisma.load("Prisma-Multimodal/some-sae/weights.pt", "cpu")
    said = str(caught.value)
    assert "the hub cannot be reached" in said
    assert "place config.json and weights.pt (or n_images_<N>.pt)" in said
    assert "--sae prisma:FOLDER" in said
    assert "\n" not in said


def test_an_sae_in_the_hubs_cache_is_found_without_the_hub(monkeypatch, tmp_path, make_form, dense, acts_nd):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--Prisma-Multimodal--some-sae"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    form = make_form(6, 24, normalization="layer_norm")
    write(repository / "snapshots" / ("0" * 40), form)
    sae = prisma.load("Prisma-Multimodal/some-sae/weights.pt", "cpu")
    assert sae.spec == "prisma:Prisma-Multimodal/some-sae/weights.pt"
    same(dense, sae, form, acts_nd)


def test_the_preset_names_the_seven_published_checkpoints():
    preset = Plugins(external=False).presets.get("prisma-clip-b32")
    assert preset.encoder == "open_clip:ViT-B-32/datacomp_xl_s13b_b90k"
    assert [(space.name, space.hook, space.tokens) for space in preset.spaces] == [
        ("l7-cls", "blocks.7.resid_post", "cls"),
        ("l8-cls", "blocks.8.resid_post", "cls"),
        ("l11-cls", "blocks.11.resid_post", "cls"),
        ("l7-patches", "blocks.7.resid_post", "patches"),
        ("l8-patches", "blocks.8.resid_post", "patches"),
        ("l9-patches", "blocks.9.resid_post", "patches"),
        ("l11-patches", "blocks.11.resid_post", "patches"),
    ]
    organisation = "prisma:Prisma-Multimodal/"
    assert [space.sae.removeprefix(organisation) for space in preset.spaces] == [
        "sparse-autoencoder-clip-b-32-sae-vanilla-x64-layer-7-hook_resid_post-l1-0.0001/n_images_2600058.pt",
        "sparse-autoencoder-clip-b-32-sae-vanilla-x64-layer-8-hook_resid_post-l1-1e-05/n_images_2600058.pt",
        "sparse-autoencoder-clip-b-32-sae-vanilla-x64-layer-11-hook_resid_post-l1-8e-05/n_images_2600058.pt",
        "imagenet-sweep-vanilla-x64-Spatial_max_7-hook_resid_post-984.1376953125-99/weights.pt",
        "imagenet-sweep-vanilla-x64-Spatial_max_8-hook_resid_post-965.125-99/weights.pt",
        "imagenet-sweep-vanilla-x64-Spatial_max_9-hook_resid_post-854.891540527344-99/weights.pt",
        "imagenet-sweep-vanilla-x64-Spatial_max_11-hook_resid_post-829.0498046875-99/weights.pt",
    ]
    assert all(space.sae.startswith(organisation) for space in preset.spaces)


@pytest.mark.slow
def test_full_size(tmp_path, monkeypatch, make_form):
    """768 × 49,152, as published: loaded, and a batch encoded and decoded as the definitions say."""
    form = make_form(768, 49_152, normalization="layer_norm")
    form.b_enc_f -= 3.0
    config = CONFIG | {"d_in": 768, "d_sae": 49_152, "expansion_factor": 64}
    wrap = lambda state: {"cfg": pickled_config(monkeypatch), "state_dict": state}  # noqa: E731
    folder = write(tmp_path / "sae", form, config=config, name="n_images_2600058.pt", wrap=wrap)
    sae = prisma.load(str(folder), "cpu")
    assert (sae.width, sae.n_features(768)) == (768, 49_152)
    acts_nd = torch.randn(64, 768, generator=torch.Generator().manual_seed(0)) * 2 + 1
    codes = sae.encode(acts_nd)
    assert 5 < len(codes.row) / 64 < 500
    normed_nd = (acts_nd - acts_nd.mean(1, keepdim=True)) / (acts_nd.std(1, keepdim=True) + 1e-5)
    expected_nf = torch.relu((normed_nd - form.b_dec_d) @ form.w_enc_df + form.b_enc_f)
    codes_nf = torch.zeros(64, 49_152)
    codes_nf[codes.row.long(), codes.feature.long()] = codes.value
    torch.testing.assert_close(codes_nf, expected_nf, atol=1e-4, rtol=1e-4)
    expected_nd = (expected_nf @ form.w_dec_fd + form.b_dec_d) * acts_nd.std(1, keepdim=True) + acts_nd.mean(
        1, keepdim=True
    )
    torch.testing.assert_close(sae.decode(codes, 64, acts_nd), expected_nd, atol=1e-3, rtol=1e-3)
