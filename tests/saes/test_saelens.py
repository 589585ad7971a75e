"""SAELens' layout in both generations of its configuration, against its forward pass in double precision."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.saes import local, saelens
from glasshouse.schema.errors import GlasshouseError

OLD = {
    "architecture": "standard", "d_in": 6, "d_sae": 24, "activation_fn_str": "relu", "activation_fn_kwargs": {},
    "apply_b_dec_to_input": True, "finetuning_scaling_factor": False, "context_size": 128, "model_name": "vit-tiny",
    "hook_point": "blocks.7.hook_resid_post", "hook_point_layer": 7, "hook_point_head_index": None,
    "normalize_activations": "none", "dtype": "float32", "device": "cpu", "sae_lens_training_version": "3.2.0",
}  # fmt: skip
NEW = {
    "architecture": "standard", "d_in": 6, "d_sae": 24, "dtype": "float32", "device": "cpu",
    "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
    "metadata": {"sae_lens_version": "6.2.1", "model_name": "vit-tiny", "hook_name": "blocks.7.hook_resid_post"},
}  # fmt: skip


def weights(seed=0, width=6, n_features=24, *, extra=()):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    tensors = {
        "W_enc": normal(width, n_features) * 0.5,
        "W_dec": normal(n_features, width),
        "b_enc": normal(n_features) * 0.3,
        "b_dec": normal(width),
    }
    makes = {
        "threshold": lambda: normal(n_features).abs() * 0.5,
        "topk_threshold": lambda: torch.tensor(0.7, dtype=torch.float64),
        "finetuning_scaling_factor": lambda: normal(n_features).abs() + 0.5,
    } | {name: lambda: normal(n_features) * 0.3 for name in ("b_gate", "r_mag", "b_mag")}
    return tensors | {name: makes[name]() for name in extra}


def write(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, str(folder / "sae_weights.safetensors"))
    return folder


def forward(config, tensors, largest, scale=1.0):
    """SAELens' encode and decode of one vector; `scale` is what training multiplied its input by."""
    t = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    architecture = config.get("architecture", "standard")
    function = config.get("activation_fn_str", "relu") if architecture in ("standard", "gated") else architecture
    k = config.get("k", config.get("activation_fn_kwargs", {}).get("k"))
    # A folded SAE is what SAELens runs, so decoder norms are those after folding.
    norm_f = np.linalg.norm(t["W_dec"], axis=1) / scale if config.get("rescale_acts_by_decoder_norm") else 1.0

    def run(x):
        x = x * scale
        mu, sigma = 0.0, 1.0
        if config["normalize_activations"] == "layer_norm":
            mu, sigma = x.mean(), x.std(ddof=1)
            x = (x - mu) / (sigma + 1e-5)
        if config["normalize_activations"] == "constant_norm_rescale":
            sigma = np.linalg.norm(x) / len(x) ** 0.5
            x = x / sigma
        x = x - t["b_dec"] * config.get("apply_b_dec_to_input", True)
        margin = np.inf
        if architecture == "gated":
            gate = x @ t["W_enc"] + t["b_gate"]
            magnitude = np.maximum(x @ (t["W_enc"] * np.exp(t["r_mag"])) + t["b_mag"], 0)
            codes, margin = (gate > 0) * (np.tanh(magnitude) if function == "tanh-relu" else magnitude), abs(gate).min()
        else:
            z = (x @ t["W_enc"] + t["b_enc"]) * norm_f
            codes = np.maximum(z, 0)
            if function == "tanh-relu":
                codes = np.tanh(codes)
            if function == "topk":
                kept, margin = largest(z, k)
                codes = np.maximum(kept, 0)
            if function in ("jumprelu", "batchtopk", "matryoshka_batchtopk"):
                limit = t["threshold"] if function == "jumprelu" else t["topk_threshold"]
                codes, margin = codes * (z > limit), abs(z - limit).min()
        finetuned = t["finetuning_scaling_factor"] if config.get("finetuning_scaling_factor") else 1.0
        decoded = (codes / norm_f * finetuned) @ t["W_dec"] + t["b_dec"]
        return codes, (decoded * sigma + mu) / scale, margin

    return run


@pytest.fixture
def acts_nd():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(9)) * 2 + 1


CASES = [
    (OLD, {}, ()),
    (OLD, {"normalize_activations": "layer_norm"}, ()),
    (OLD, {"apply_b_dec_to_input": False, "normalize_activations": "constant_norm_rescale"}, ()),
    (OLD, {"activation_fn_str": "tanh-relu", "normalize_activations": False}, ()),
    (OLD, {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}, ()),
    (OLD, {"architecture": "topk", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}, ()),
    (OLD, {"architecture": "jumprelu"}, ("threshold",)),
    (OLD, {"architecture": "gated"}, ("b_gate", "r_mag", "b_mag")),
    (OLD, {"architecture": "gated", "activation_fn_str": "tanh-relu"}, ("b_gate", "r_mag", "b_mag")),
    (OLD, {"finetuning_scaling_factor": True}, ("finetuning_scaling_factor",)),
    (NEW, {}, ()),
    (NEW, {"normalize_activations": "layer_norm", "apply_b_dec_to_input": False}, ()),
    (NEW, {"architecture": "topk", "k": 5}, ()),
    (NEW, {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": True}, ()),
    (NEW, {"architecture": "jumprelu"}, ("threshold",)),
    (NEW, {"architecture": "gated"}, ("b_gate", "r_mag", "b_mag")),
    (NEW, {"architecture": "batchtopk", "k": 5.5}, ("topk_threshold",)),
    (
        NEW,
        {"architecture": "matryoshka_batchtopk", "k": 5, "rescale_acts_by_decoder_norm": True},
        ("topk_threshold",),
    ),
]


@pytest.mark.parametrize(("base", "change", "extra"), CASES)
def test_both_generations_follow_saelens_forward_pass(tmp_path, agrees, largest, acts_nd, base, change, extra):
    config, tensors = base | change, weights(extra=extra)
    if "b_gate" in extra:
        del tensors["b_enc"]
    folder = write(tmp_path / "sae", config, tensors)
    sae = saelens.load(str(folder), "cpu")
    agrees(sae, acts_nd, forward(config, tensors, largest))
    assert (sae.spec, sae.hook, sae.tokens) == (f"saelens:{folder.resolve()}", "blocks.7.resid_post", None)
    assert sae.about["format"] == f"SAELens ({config['architecture']})"
    assert sae.about["model"] == "vit-tiny"
    for path in (folder, folder / "sae_weights.safetensors"):
        assert local.load(str(path), "cpu").fingerprint == sae.fingerprint


@pytest.mark.parametrize("place", ["configuration", "scaler"])
@pytest.mark.parametrize(
    ("base", "change"),
    [
        (OLD, {"normalize_activations": "expected_average_only_in"}),
        (OLD, {"normalize_activations": True}),
        (NEW, {"normalize_activations": "expected_average_only_in"}),
        (NEW, {"normalize_activations": "expected_average_only_in", "apply_b_dec_to_input": False}),
        (
            NEW,
            {
                "normalize_activations": "expected_average_only_in", "architecture": "topk", "k": 5,
                "rescale_acts_by_decoder_norm": True,
            },
        ),
    ],
)  # fmt: skip
def test_the_scale_of_the_input_is_folded(tmp_path, agrees, largest, acts_nd, base, change, place):
    """An SAE trained on x·s; its codes of x are those it gave for x·s, its reconstructions are x again."""
    config, tensors = base | change, weights()
    folder = write(
        tmp_path / "sae", config | ({"norm_scaling_factor": 2.5} if place == "configuration" else {}), tensors
    )
    if place == "scaler":
        (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": 2.5}))
    agrees(saelens.load(str(folder), "cpu"), acts_nd, forward(config, tensors, largest, scale=2.5))


def test_the_scale_of_the_input_that_is_not_there_is_asked_for(tmp_path, refused):
    config = NEW | {"normalize_activations": "expected_average_only_in"}
    folder = write(tmp_path / "sae", config, weights())
    refused(lambda: saelens.load(str(folder), "cpu"), 'Add it to the file as "norm_scaling_factor"')
    for value in (0, -1.0, "big", None, True):
        write(folder, config | {"norm_scaling_factor": value}, weights())
        refused(lambda: saelens.load(str(folder), "cpu"), r"scaling factor is .*, not (a finite number|positive)")


def test_a_feature_without_decoder_stays_silent(tmp_path, acts_nd):
    tensors = weights()
    tensors["W_dec"][3] = 0
    config = NEW | {"architecture": "topk", "k": 24, "rescale_acts_by_decoder_norm": True}
    sae = saelens.load(str(write(tmp_path / "sae", config, tensors)), "cpu")
    codes = sae.encode(acts_nd)
    assert 3 not in codes.feature.tolist()
    assert len(set(codes.feature.tolist())) == 23
    assert sae.decode(codes, len(acts_nd)).isfinite().all()


def test_half_precision_is_read(tmp_path, agrees, largest, acts_nd):
    tensors = {name: tensor.bfloat16() for name, tensor in weights(extra=("threshold",)).items()}
    config = NEW | {"architecture": "jumprelu", "dtype": "bfloat16"}
    agrees(
        saelens.load(str(write(tmp_path / "sae", config, tensors)), "cpu"), acts_nd, forward(config, tensors, largest)
    )


@pytest.mark.parametrize(
    ("hook", "ours"),
    [
        ("blocks.3.hook_resid_post", "blocks.3.resid_post"),
        ("blocks.3.hook_resid_pre", "blocks.2.resid_post"),
        ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_pre"),
        ("blocks.3.mlp.hook_post", "blocks.3.mlp"),
        ("vision_model.encoder.layers.3", "vision_model.encoder.layers.3"),
        ("", None),
        (7, None),
    ],
)
def test_hooks_have_our_names(tmp_path, hook, ours):
    folder = write(tmp_path / "sae", NEW | {"metadata": {"hook_name": hook}}, weights())
    assert saelens.load(str(folder), "cpu").hook == ours


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "transcoder"}, "architecture 'transcoder' is not one of standard, jumprelu"),
        ({"architecture": ["standard"]}, "is not one of standard"),
        ({"activation_fn_str": "gelu"}, "activation 'gelu' is not one of relu"),
        ({"architecture": "jumprelu", "activation_fn": "tanh-relu"}, "jumprelu with the activation 'tanh-relu'"),
        ({"architecture": "jumprelu"}, "lacks the tensors threshold"),
        ({"architecture": "gated"}, "lacks the tensors b_gate, r_mag, b_mag"),
        ({"architecture": "batchtopk"}, "lacks the tensors topk_threshold"),
        ({"architecture": "topk"}, "says topk, but neither k"),
        ({"architecture": "topk", "k": 25}, "topk needs k between 1 and 24, not 25"),
        ({"architecture": "topk", "k": 0}, "k is 0, not a whole number"),
        ({"architecture": "topk", "k": "5"}, "k is 5, not a finite number"),
        ({"normalize_activations": "batch"}, "normalize_activations 'batch' is not one of none, layer_norm"),
        ({"normalize_activations": {}}, "is not one of none"),
        ({"d_in": 8}, "has d_in 6, d_sae 24, but its cfg.json says d_in 8: they belong to different SAEs"),
        ({"d_sae": 48}, "says d_sae 48"),
        ({"reshape_activations": "hook_z"}, "reads attention heads"),
        ({"metadata": {"hook_name": "blocks.2.attn.hook_z"}}, "reads attention heads"),
        ({"finetuning_scaling_factor": True}, "lacks the tensors finetuning_scaling_factor"),
    ],
)
def test_a_configuration_that_does_not_fit(tmp_path, refused, change, message):
    folder = write(tmp_path / "sae", NEW | change, weights())
    refused(lambda: saelens.load(str(folder), "cpu"), message)


def test_broken_files(tmp_path, refused):
    folder = write(tmp_path / "sae", NEW, weights())
    file = folder / "sae_weights.safetensors"
    load = lambda: saelens.load(str(folder), "cpu")  # noqa: E731
    whole = file.read_bytes()
    for kept in (0, 5, 60, len(whole) - 1):
        file.write_bytes(whole[:kept])
        refused(load, "is no safetensors file")
    for change, message in (
        ({"b_dec": torch.zeros(7)}, r"b_dec has shape \[7\] where W_enc \[6, 24\]"),
        ({"W_dec": torch.zeros(6, 24)}, r"w_dec has shape \[6, 24\]"),
        ({"W_enc": torch.zeros(6)}, "w_dec|W_enc has shape"),
        ({"W_enc": torch.full((6, 24), float("nan"))}, "w_enc holds NaN or infinity"),
        ({"b_enc": torch.full((24,), float("inf"))}, "b_enc holds NaN or infinity"),
    ):
        write(folder, NEW, weights() | change)
        refused(load, message)
    write(folder, NEW, {name: tensor for name, tensor in weights().items() if name != "W_dec"})
    refused(load, "lacks the tensors W_dec, so it is no SAE of SAELens; it has W_enc, b_dec, b_enc")
    write(folder, NEW, weights())
    for text, message in (("{", "is no JSON"), ("[1]", "holds no JSON object")):
        (folder / "cfg.json").write_text(text)
        refused(load, message)
    (folder / "cfg.json").unlink()
    refused(load, r"There is no cfg\.json in .*SAELens' checkpoints")
    write(folder, NEW, weights())
    file.unlink()
    refused(load, r"There is no sae_weights\.safetensors in")


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(2, 12),
    n_features=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    base=st.sampled_from([OLD, NEW]),
    architecture=st.sampled_from(["standard", "topk", "jumprelu"]),
    normalization=st.sampled_from(["none", "layer_norm", "constant_norm_rescale"]),
    apply_b_dec=st.booleans(),
    rescale=st.booleans(),
)
def test_any_shape(tmp_path_factory, agrees, largest, width, n_features, seed, base, architecture, **drawn):
    config = base | {
        "architecture": architecture, "d_in": width, "d_sae": n_features, "k": 1 + seed % n_features,
        "activation_fn_str": {"topk": "topk"}.get(architecture, "relu"),
        "activation_fn_kwargs": {"k": 1 + seed % n_features},
        "normalize_activations": drawn["normalization"], "apply_b_dec_to_input": drawn["apply_b_dec"],
        "rescale_acts_by_decoder_norm": drawn["rescale"] and architecture == "topk",
    }  # fmt: skip
    tensors = weights(seed, width, n_features, extra=("threshold",))
    folder = write(tmp_path_factory.mktemp("sae"), config, tensors)
    acts_nd = torch.randn(8, width, generator=torch.Generator().manual_seed(seed)) * 2 + 1
    agrees(saelens.load(str(folder), "cpu"), acts_nd, forward(config, tensors, largest), least=0.0)


JSON = st.none() | st.booleans() | st.integers(-3, 30) | st.floats() | st.text(max_size=4) | st.just([]) | st.just({})


@settings(max_examples=80, deadline=None)
@given(changes=st.dictionaries(st.sampled_from([*OLD, *NEW, "k", "norm_scaling_factor"]), JSON, max_size=4))
def test_any_configuration_loads_or_ends_in_one_line(tmp_path_factory, changes):
    folder = write(tmp_path_factory.mktemp("sae"), NEW | changes, weights())
    try:
        assert Plugins(external=False).saes.get("saelens", "").load(str(folder), "cpu").width == 6
    except GlasshouseError as error:
        assert "\n" not in str(error)
