"""dictionary_learning's layout for all its classes, against their forward passes in double precision."""

from __future__ import annotations

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.plugins.saes import dictionary_learning, local
from glasshouse.plugins.saes.dictionary_learning import CLASSES
from glasshouse.schema.errors import ModelError

LINEAR = ("AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "GatedAutoEncoder")
BIAS = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}


def weights(name, seed=0, width=6, n_features=24, k=5):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    state = OrderedDict()
    if name in LINEAR:
        state["encoder.weight"] = normal(n_features, width) * 0.5
        state["decoder.weight"] = normal(width, n_features)
        state[BIAS.get(name, "b_dec")] = normal(width)
        if name != "GatedAutoEncoder":
            state["encoder.bias"] = normal(n_features) * 0.3
    else:
        state["W_enc"], state["b_enc"] = normal(width, n_features) * 0.5, normal(n_features) * 0.3
        state["W_dec"], state["b_dec"] = normal(n_features, width), normal(width)
    if name == "GatedAutoEncoder":
        state |= {part: normal(n_features) * 0.3 for part in ("r_mag", "gate_bias", "mag_bias")}
    if name == "JumpReluAutoEncoder":
        state["threshold"] = normal(n_features).abs() * 0.5
    if "TopK" in name:
        state["k"] = torch.tensor(k, dtype=torch.int)
        state["threshold"] = torch.tensor(0.6)
    if name.startswith("Matr"):
        first = n_features // 3
        state["group_sizes"] = torch.tensor([first, n_features - first] if first else [n_features])
    return state


def config_of(name, width=6, n_features=24, **more):
    trainer = {
        "trainer_class": "SomeTrainer", "dict_class": name, "lr": 1e-4, "steps": 1000, "seed": 0,
        "activation_dim": width, "dict_size": n_features, "device": "cuda:0", "layer": 8, "lm_name": "vit-tiny",
        "wandb_name": "x", "submodule_name": "resid_post_layer_8",
    }  # fmt: skip
    return {"trainer": trainer | more, "buffer": {"d_submodule": width, "ctx_len": 128}}


def write(folder, name, state, **more):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(name, **more), indent=4))
    torch.save(state, folder / "ae.pt")
    return folder


def forward(name, state, largest, factor=1.0):
    """The class's own encode and decode of one vector; of an interrupted run, of x / factor."""
    t = {part: tensor.double().numpy() for part, tensor in state.items()}
    encoder = t["encoder.weight"].T if name in LINEAR else t["W_enc"]
    decoder = t["decoder.weight"].T if name in LINEAR else t["W_dec"]
    bias = t[BIAS.get(name, "b_dec")]
    norm_f = np.linalg.norm(decoder, axis=1)

    def run(x):
        x = x / factor
        inputs = x if name in ("AutoEncoderNew", "JumpReluAutoEncoder") else x - bias
        z = inputs @ encoder + t.get("encoder.bias", t.get("b_enc", 0.0))
        codes, margin = np.maximum(z, 0), np.inf
        if name == "GatedAutoEncoder":
            gate = z + t["gate_bias"]
            codes = (gate > 0) * np.maximum(np.exp(t["r_mag"]) * z + t["mag_bias"], 0)
            margin = abs(gate).min()
        elif name == "JumpReluAutoEncoder":
            codes, margin = np.maximum(z * (z > t["threshold"]), 0), abs(z - t["threshold"]).min()
        elif name == "AutoEncoderTopK" or ("TopK" in name and t.get("threshold", -1.0) < 0):
            codes, _ = largest(codes, int(t["k"]))
            _, margin = largest(z, int(t["k"]))
        elif "TopK" in name:
            margin = abs(codes - t["threshold"]).min()
            codes = codes * (codes > t["threshold"])
        decoded = (codes @ decoder + bias) * factor
        return codes * factor * (norm_f if name == "AutoEncoder" else 1.0), decoded, margin

    return run


@pytest.fixture
def acts_nd():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(9)) * 2 + 1


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_follows_its_forward_pass(tmp_path, agrees, largest, acts_nd, name):
    state = weights(name)
    folder = write(tmp_path / "trainer_0", name, state)
    sae = dictionary_learning.load(str(folder), "cpu")
    agrees(sae, acts_nd, forward(name, state, largest))
    assert (sae.spec, sae.hook) == (f"dictionary_learning:{folder.resolve()}", "blocks.8.resid_post")
    assert sae.about["format"] == f"dictionary_learning ({name})"
    assert sae.prefixes == ((8, 24) if name.startswith("Matr") else None)
    assert sae.notes == ()
    for path in (folder, folder / "ae.pt"):
        assert local.load(str(path), "cpu").fingerprint == sae.fingerprint


@pytest.mark.parametrize("name", CLASSES)
def test_an_interrupted_run_is_folded(tmp_path, agrees, largest, acts_nd, name):
    """Trained on x / norm_factor; its codes of x are those of x / norm_factor, times norm_factor."""
    state = weights(name)
    content = {"step": 700, "ae": state, "optimizer": {"state": {}}, "config": {"lr": 1.0}, "norm_factor": 2.5}
    sae = dictionary_learning.load(str(write(tmp_path / "trainer_0", name, content)), "cpu")
    agrees(sae, acts_nd, forward(name, state, largest, factor=2.5))
    assert "interrupted at step 700" in sae.notes[0]
    content["norm_factor"] = None  # a run without normalisation
    sae = dictionary_learning.load(str(write(tmp_path / "trainer_1", name, content)), "cpu")
    agrees(sae, acts_nd, forward(name, state, largest))


def test_an_interrupted_run_without_its_factor_is_refused(tmp_path, refused):
    content = {"step": 700, "ae": weights("AutoEncoder"), "optimizer": {}, "config": {}}
    folder = write(tmp_path / "sae", "AutoEncoder", content)
    refused(lambda: dictionary_learning.load(str(folder), "cpu"), "interrupted run and does not say norm_factor")
    for factor in (0.0, -1.0, "x", float("nan")):
        write(folder, "AutoEncoder", content | {"norm_factor": factor})
        refused(lambda: dictionary_learning.load(str(folder), "cpu"), "norm_factor is")


@pytest.mark.parametrize("name", [name for name in CLASSES if "Batch" in name])
@pytest.mark.parametrize("stored", [-1.0, None])
def test_a_threshold_that_was_never_set(tmp_path, agrees, largest, acts_nd, name, stored):
    state = weights(name)
    del state["threshold"]
    if stored is not None:
        state["threshold"] = torch.tensor(stored)
    sae = dictionary_learning.load(str(write(tmp_path / "sae", name, state)), "cpu")
    agrees(sae, acts_nd, forward(name, state, largest))
    assert "threshold was never set, so the 5 largest codes" in sae.notes[0]


def test_older_files_have_k_in_the_configuration_only(tmp_path, agrees, largest, acts_nd):
    state = weights("AutoEncoderTopK")
    expected = forward("AutoEncoderTopK", dict(state), largest)
    del state["k"], state["threshold"]
    agrees(
        dictionary_learning.load(str(write(tmp_path / "sae", "AutoEncoderTopK", state, k=5)), "cpu"), acts_nd, expected
    )


def test_checkpoints_of_a_run_and_names_of_torch_compile(tmp_path, acts_nd, agrees, largest):
    folder = write(tmp_path / "trainer_0", "AutoEncoder", weights("AutoEncoder"))
    (folder / "checkpoints").mkdir()
    state = weights("AutoEncoder", seed=1)
    file = folder / "checkpoints" / "ae_300.pt"
    torch.save({f"_orig_mod.{name}": tensor for name, tensor in state.items()}, file)
    for sae in (dictionary_learning.load(str(file), "cpu"), local.load(str(file), "cpu")):
        agrees(sae, acts_nd, forward("AutoEncoder", state, largest))


def test_a_feature_without_decoder_stays_silent(tmp_path, acts_nd):
    state = weights("AutoEncoder")
    state["decoder.weight"][:, 3] = 0
    sae = dictionary_learning.load(str(write(tmp_path / "sae", "AutoEncoder", state)), "cpu")
    codes = sae.encode(acts_nd)
    assert 3 not in codes.feature.tolist()
    assert sae.decode(codes, len(acts_nd)).isfinite().all()


@pytest.mark.parametrize(
    ("layer", "name", "hook"),
    [(8, "resid_post_layer_8", "blocks.8.resid_post"), (8, "visual.transformer.resblocks.8", None), (None, None, None)],
)
def test_only_a_hook_that_is_sure_is_said(tmp_path, layer, name, hook):
    folder = write(tmp_path / "sae", "AutoEncoder", weights("AutoEncoder"), layer=layer, submodule_name=name)
    assert dictionary_learning.load(str(folder), "cpu").hook == hook


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"dict_class": "CrossCoder"}, "class 'CrossCoder' is not one of AutoEncoder, AutoEncoderNew"),
        ({"dict_class": ["AutoEncoder"]}, "is not one of AutoEncoder"),
        ({"activation_dim": 8}, "has activation_dim 6, dict_size 24, but its config.json says activation_dim 8"),
        ({"dict_size": 48}, "says dict_size 48: they belong to different SAEs"),
        ({"k": 7}, "has k 5, but its config.json says k 7"),
    ],
)
def test_a_configuration_that_does_not_fit(tmp_path, refused, more, message):
    folder = write(tmp_path / "sae", "AutoEncoderTopK", weights("AutoEncoderTopK"))
    config = config_of("AutoEncoderTopK")
    config["trainer"] |= more
    (folder / "config.json").write_text(json.dumps(config))
    refused(lambda: dictionary_learning.load(str(folder), "cpu"), message)


@pytest.mark.parametrize("name", CLASSES)
def test_missing_tensors_are_named(tmp_path, refused, name):
    for missing in CLASSES[name].tensors:
        state = {part: tensor for part, tensor in weights(name).items() if part != missing}
        folder = write(tmp_path / "sae", name, state)
        refused(lambda: dictionary_learning.load(str(folder), "cpu"), f"lacks the tensors {missing}, .* class {name}")  # noqa: B023


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("change", ["shape", "dimensions", "nan"])
def test_broken_tensors_are_named(tmp_path, refused, name, change):
    matrix = "encoder.weight" if name in LINEAR else "W_enc"
    state = weights(name)
    state[matrix] = {
        "shape": torch.zeros(7, 9), "dimensions": torch.zeros(24), "nan": torch.full((6, 24), float("nan"))
    }[change]  # fmt: skip
    if change == "nan" and name in LINEAR:
        state[matrix] = state[matrix].T.contiguous()
    folder = write(tmp_path / "sae", name, state)
    message = {"shape": "has shape", "dimensions": r"has shape \[24\]", "nan": "w_enc holds NaN"}[change]
    refused(lambda: dictionary_learning.load(str(folder), "cpu"), message)


def test_broken_files(tmp_path, refused):
    name = "MatryoshkaBatchTopKSAE"
    folder = write(tmp_path / "sae", name, weights(name))
    load = lambda: dictionary_learning.load(str(folder), "cpu")  # noqa: E731
    for sizes in ([8, 8], [0, 24], [-1, 25], []):
        write(folder, name, weights(name) | {"group_sizes": torch.tensor(sizes, dtype=torch.int64)})
        refused(load, "must be positive and add up to 24 features")
    for k in (0, 25):
        write(folder, "AutoEncoderTopK", weights("AutoEncoderTopK", k=k))
        refused(load, "topk needs k between 1 and 24, not 25|k is 0, not a whole number")
    state = weights("AutoEncoderTopK")
    del state["k"]
    write(folder, "AutoEncoderTopK", state)
    refused(load, "has no k, and neither has its config.json")
    whole = (folder / "ae.pt").read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 1):
        (folder / "ae.pt").write_bytes(whole[:kept])
        refused(load, "no PyTorch checkpoint")
    for content in ([1, 2], torch.zeros(3)):
        torch.save(content, folder / "ae.pt")
        refused(load, "holds no state dict")
    for text, message in (("{", "is no JSON"), ("[]", "no JSON object"), ("{}", "lacks trainer.dict_class")):
        (folder / "config.json").write_text(text)
        refused(load, message)
    (folder / "config.json").unlink()
    refused(load, r"There is no config\.json in")


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(list(CLASSES)),
    width=st.integers(2, 12),
    n_features=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    factor=st.sampled_from([None, 0.3, 12.0]),
)
def test_any_shape(tmp_path_factory, agrees, largest, name, width, n_features, seed, factor):
    state = weights(name, seed, width, n_features, k=1 + seed % n_features)
    content = (
        state if factor is None else {"step": 1, "ae": state, "optimizer": {}, "config": {}, "norm_factor": factor}
    )
    folder = write(tmp_path_factory.mktemp("sae"), name, content, width=width, n_features=n_features)
    acts_nd = (torch.randn(8, width, generator=torch.Generator().manual_seed(seed)) * 2 + 1) * (factor or 1.0)
    sae = dictionary_learning.load(str(folder), "cpu")
    agrees(sae, acts_nd, forward(name, state, largest, factor or 1.0), least=0.0)


@settings(max_examples=60, deadline=None)
@given(
    more=st.dictionaries(
        st.sampled_from(["dict_class", "activation_dim", "dict_size", "k", "layer", "submodule_name", "lm_name"]),
        st.none() | st.booleans() | st.integers(-2, 30) | st.floats() | st.text(max_size=4) | st.just([]) | st.just({}),
        max_size=3,
    )
)
def test_any_configuration_loads_or_ends_in_one_line(tmp_path_factory, more):
    folder = write(tmp_path_factory.mktemp("sae"), "AutoEncoderTopK", weights("AutoEncoderTopK"))
    config = config_of("AutoEncoderTopK")
    config["trainer"] |= more
    (folder / "config.json").write_text(json.dumps(config))
    try:
        assert dictionary_learning.load(str(folder), "cpu").width == 6
    except ModelError as error:
        assert "\n" not in str(error)
