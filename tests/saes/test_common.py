"""The common form against its definitions, for every combination of norm, activation, gate and order."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from glasshouse.plugins.fingerprint import fingerprint
from glasshouse.plugins.saes import common
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.form import ACTIVATIONS, NORMALIZATIONS, CommonForm
from glasshouse.schema.errors import ModelError

TOLERANCE = 2e-4
COMBINATIONS = [
    *itertools.product(NORMALIZATIONS, ACTIVATIONS, (True, False), (False,)),
    *itertools.product(NORMALIZATIONS, ("relu", "tanh-relu"), (True, False), (True,)),
]


def clear_of_jumps(expected, form):
    """Where the definition jumps, single and double precision may land on different sides: leave those rows out."""
    if form.activation == "topk":
        ordered = -np.sort(-expected.pre_nf, axis=1)
        if form.k < ordered.shape[1]:
            return ordered[:, form.k - 1] - ordered[:, form.k] > TOLERANCE
    if form.activation in ("jumprelu", "batchtopk"):
        limit = np.maximum(np.broadcast_to(form.threshold_f.numpy(), expected.pre_nf.shape), 0)
        return (np.abs(expected.pre_nf - limit) > TOLERANCE).all(axis=1)
    if form.b_gate_f is not None:
        return (np.abs(expected.pre_nf) > TOLERANCE).all(axis=1)
    return np.ones(len(expected.pre_nf), dtype=bool)


@pytest.mark.parametrize(("normalization", "activation", "apply_b_dec", "gated"), COMBINATIONS)
def test_encode_and_decode_follow_the_definitions(
    make_form, naive, dense, normalization, activation, apply_b_dec, gated
):
    form = make_form(
        12, 40, seed=3, gated=gated, activation=activation, normalization=normalization,
        apply_b_dec_to_input=apply_b_dec, k=5 if activation == "topk" else None,
    )  # fmt: skip
    acts_nd = torch.randn(30, 12, generator=torch.Generator().manual_seed(1)) * 3 + 1
    acts_nd[4], acts_nd[5] = 0.0, 7.5  # no norm; no variance
    sae, expected = CommonSae("test", form), naive(acts_nd, form)
    codes = sae.encode(acts_nd)
    clear_n = clear_of_jumps(expected, form)
    assert clear_n.mean() > 0.9
    assert 0 < (expected.codes_nf > 0).mean() < 1
    np.testing.assert_allclose(dense(codes, 30, 40)[clear_n], expected.codes_nf[clear_n], atol=TOLERANCE)
    decoded_nd = sae.decode(codes, 30, acts_nd).numpy()
    np.testing.assert_allclose(decoded_nd[clear_n], expected.decoded_nd[clear_n], atol=20 * TOLERANCE)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(
    ("activation", "more"),
    [
        ("relu", {"centred": True, "input_scale": 0.4}),
        ("topk", {"centred": True, "k": 5}),
        ("relu", {"soft_cap": 0.7}),
        ("jumprelu", {"centred": True, "input_scale": 3.0, "soft_cap": 30.0}),
        ("relu", {"gated": True, "centred": True, "soft_cap": 1.5}),
    ],
)
def test_centre_scale_and_cap_follow_the_definitions(make_form, naive, dense, normalization, activation, more):
    form = make_form(12, 40, seed=3, activation=activation, normalization=normalization, **more)
    acts_nd = torch.randn(30, 12, generator=torch.Generator().manual_seed(1)) * 3 + 1
    sae, expected = CommonSae("test", form), naive(acts_nd, form)
    clear_n = clear_of_jumps(expected, form)
    assert clear_n.mean() > 0.9
    codes = sae.encode(acts_nd)
    np.testing.assert_allclose(dense(codes, 30, 40)[clear_n], expected.codes_nf[clear_n], atol=TOLERANCE)
    decoded_nd = sae.decode(codes, 30, acts_nd).numpy()
    np.testing.assert_allclose(decoded_nd[clear_n], expected.decoded_nd[clear_n], atol=20 * TOLERANCE)
    plain = {"centred": False, "input_scale": 1.0, "soft_cap": None}
    other = make_form(12, 40, seed=3, activation=activation, normalization=normalization, **(more | plain))
    assert CommonSae("other", other).fingerprint != sae.fingerprint


def test_fingerprints_of_older_spaces_stay_as_they_are(make_form):
    """What is not used is not in the fingerprint: this one was computed before there was a centre, scale or cap."""
    form = CommonForm(torch.eye(3), torch.ones(3), torch.eye(3), torch.zeros(3), "topk", k=2)
    said = {"activation": "topk", "apply_b_dec_to_input": True, "normalization": "none", "k": 2}
    tensors = {"w_enc_df": form.w_enc_df, "b_enc_f": form.b_enc_f, "w_dec_fd": form.w_dec_fd, "b_dec_d": form.b_dec_d}
    assert CommonSae("test", form).fingerprint == fingerprint(tensors, said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_scale": 0.0}, "scale of the input is 0.0"),
        ({"input_scale": float("nan")}, "scale of the input is nan"),
        ({"soft_cap": -1.0}, "soft cap is -1.0"),
        ({"center_d": torch.zeros(5)}, r"center has shape \[5\]"),
        ({"w_enc_df": torch.full((12, 40), float("nan"))}, "w_enc holds NaN"),
        ({"threshold_f": torch.full((1,), float("inf"))}, "threshold holds NaN or infinity"),
    ],
)
def test_numbers_that_cannot_be(make_form, change, message):
    form = CommonForm(**{**vars(make_form(12, 40)), **change})
    with pytest.raises(ModelError, match=message):
        CommonSae("test", form)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(2, 20),
    n_features=st.integers(1, 50),
    n_rows=st.integers(0, 12),
    normalization=st.sampled_from(NORMALIZATIONS),
    activation=st.sampled_from(ACTIVATIONS),
    apply_b_dec=st.booleans(),
    gated=st.booleans(),
    log_scale=st.floats(-3, 3),
    offset=st.floats(-100, 100, width=32),
    special=st.sampled_from(["none", "zeros", "constant", "one entry"]),
    seed=st.integers(0, 2**31),
)
def test_any_shape_and_scale(make_form, naive, dense, **drawn):
    width, n_features, n_rows = drawn["width"], drawn["n_features"], drawn["n_rows"]
    gated = drawn["gated"] and drawn["activation"] in ("relu", "tanh-relu")
    form = make_form(
        width, n_features, drawn["seed"], gated=gated, activation=drawn["activation"],
        normalization=drawn["normalization"], apply_b_dec_to_input=drawn["apply_b_dec"],
        k=1 + drawn["seed"] % n_features if drawn["activation"] == "topk" else None,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(drawn["seed"])
    acts_nd = torch.randn(n_rows, width, generator=generator) * 10 ** drawn["log_scale"] + drawn["offset"]
    if n_rows and drawn["special"] != "none":
        acts_nd[0] = drawn["offset"] if drawn["special"] == "constant" else 0.0
        if drawn["special"] == "one entry":
            acts_nd[0, 0] = 10 ** drawn["log_scale"]
    expected = naive(acts_nd, form)
    clear_n = clear_of_jumps(expected, form)
    assume(clear_n.all())
    codes = CommonSae("test", form).encode(acts_nd)
    scale = 1 + np.abs(expected.pre_nf).max(initial=0)
    np.testing.assert_allclose(dense(codes, n_rows, n_features), expected.codes_nf, atol=1e-5 * scale, rtol=1e-4)


def test_one_threshold_stands_for_all_features(make_form, dense):
    form = make_form(8, 20, activation="batchtopk", threshold_f=torch.tensor([0.4]))
    every = make_form(8, 20, activation="batchtopk", threshold_f=torch.full((20,), 0.4))
    acts_nd = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    codes_nf = dense(CommonSae("one", form).encode(acts_nd), 10, 20)
    np.testing.assert_array_equal(codes_nf, dense(CommonSae("every", every).encode(acts_nd), 10, 20))
    assert codes_nf[codes_nf > 0].min() > 0.4


def test_a_value_at_the_threshold_is_not_active():
    form = CommonForm(
        torch.eye(3), torch.zeros(3), torch.eye(3), torch.zeros(3), "jumprelu", threshold_f=torch.tensor([1.0, 1, -2])
    )
    codes = CommonSae("test", form).encode(torch.tensor([[1.0, 1.5, -1.0], [0.5, 1.0, 0.25]]))
    assert codes.row.tolist() == [0, 1]
    assert codes.feature.tolist() == [1, 2], "above the threshold, and above zero where the threshold is below it"
    assert codes.value.tolist() == [1.5, 0.25]


def test_blocks_of_rows_give_what_one_block_gives(make_form, dense, monkeypatch):
    acts_nd = torch.randn(23, 6, generator=torch.Generator().manual_seed(0))
    for activation in ("relu", "topk"):
        sae = CommonSae("test", make_form(6, 30, activation=activation, k=4))
        monkeypatch.undo()
        whole_nf = dense(sae.encode(acts_nd), 23, 30)
        monkeypatch.setattr(common, "BLOCK_BYTES", 4 * 30 * 5)  # five rows
        np.testing.assert_allclose(dense(sae.encode(acts_nd), 23, 30), whole_nf, atol=1e-6)
        monkeypatch.setattr(common, "BLOCK_BYTES", 1)  # less than a row is still a row
        np.testing.assert_allclose(dense(sae.encode(acts_nd), 23, 30), whole_nf, atol=1e-6)


def test_the_dense_block_stays_small(make_form):
    """Encoding many rows never holds rows × features at once."""
    import resource

    form = make_form(4, 4096)
    form.b_enc_f -= 10  # nothing is active
    sae, acts_nd = CommonSae("test", form), torch.randn(100_000, 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(sae.encode(acts_nd).row) < 100_000
    grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown_bytes < 4 * common.BLOCK_BYTES, "dense, it would be 1.6 GB"


def test_no_rows_and_no_active_feature(make_form):
    form = make_form(4, 8)
    form.b_enc_f -= 1000
    sae = CommonSae("test", form)
    for n_rows in (0, 3):
        codes = sae.encode(torch.zeros(n_rows, 4))
        assert [len(part) for part in codes] == [0, 0, 0]
        np.testing.assert_allclose(
            sae.decode(codes, n_rows).numpy(), np.broadcast_to(sae.form.b_dec_d.numpy(), (n_rows, 4))
        )


def test_input_of_other_types_and_from_inference_mode(make_form, dense):
    sae = CommonSae("test", make_form(6, 20))
    with torch.inference_mode():
        acts_nd = torch.randn(5, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected_nf = dense(sae.encode(acts_nd.float()), 5, 20)
    np.testing.assert_array_equal(dense(sae.encode(acts_nd), 5, 20), expected_nf)
    np.testing.assert_array_equal(dense(sae.encode(acts_nd.float().t().contiguous().t()), 5, 20), expected_nf)


def test_decoding_a_normalised_sae_needs_the_vectors(make_form):
    acts_nd = torch.randn(5, 6)
    for normalization in ("layer_norm", "constant_norm_rescale"):
        sae = CommonSae("my-sae", make_form(6, 20, normalization=normalization))
        with pytest.raises(ModelError, match=f"my-sae normalises every vector \\({normalization}\\).*acts_nd"):
            sae.decode(sae.encode(acts_nd), 5)


def test_a_width_that_does_not_fit_names_what_does(make_form):
    sae = CommonSae("my-sae", make_form(6, 20), hook="blocks.7.resid_post")
    assert sae.width == 6
    assert sae.n_features(6) == 20
    for call in (lambda: sae.n_features(7), lambda: sae.encode(torch.zeros(2, 7))):
        with pytest.raises(ModelError, match=r"my-sae takes .* width 6, .* has width 7.*such as blocks.7.resid_post"):
            call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b_enc_f": torch.zeros(19)}, r"b_enc has shape \[19\] where W_enc \[6, 20\] asks for \[20\]"),
        ({"w_dec_fd": torch.zeros(6, 20)}, r"w_dec has shape \[6, 20\] .* asks for \[20, 6\]"),
        ({"b_dec_d": torch.zeros(20)}, r"b_dec has shape \[20\]"),
        ({"w_enc_df": torch.zeros(20)}, r"W_enc has shape \[20\], not \[D, F\]"),
        ({"activation": "gelu"}, "activation 'gelu' is not one of relu, tanh-relu, topk"),
        ({"normalization": "expected_average_only_in"}, "normalisation 'expected_average_only_in' is not one of none"),
        ({"activation": "topk"}, "topk needs k between 1 and 20, not None"),
        ({"activation": "topk", "k": 21}, "not 21"),
        ({"activation": "jumprelu"}, "jumprelu needs the tensor 'threshold'"),
        ({"activation": "jumprelu", "threshold_f": torch.zeros(3)}, r"threshold has shape \[3\]"),
        ({"b_gate_f": torch.zeros(20)}, "all of b_gate, r_mag and b_mag; 1 of them"),
    ],
)
def test_tensors_and_settings_that_do_not_fit(make_form, change, message):
    form = make_form(6, 20)
    for name, value in change.items():
        setattr(form, name, value)
    with pytest.raises(ModelError, match=message) as caught:
        CommonSae("my-sae", form)
    assert str(caught.value).startswith("my-sae: ")
    assert "\n" not in str(caught.value)


def test_the_fingerprint_changes_with_every_number_and_setting(make_form):
    base = CommonSae("a", make_form(6, 20)).fingerprint
    assert base == CommonSae("another name", make_form(6, 20)).fingerprint
    others = {
        CommonSae("a", make_form(6, 20, normalization="layer_norm")).fingerprint,
        CommonSae("a", make_form(6, 20, apply_b_dec_to_input=False)).fingerprint,
        CommonSae("a", make_form(6, 20, activation="tanh-relu")).fingerprint,
        CommonSae("a", make_form(6, 20, activation="topk", k=3)).fingerprint,
        CommonSae("a", make_form(6, 20, activation="topk", k=4)).fingerprint,
    }
    for name in ("w_enc_df", "b_enc_f", "w_dec_fd", "b_dec_d"):
        form = make_form(6, 20)
        getattr(form, name).view(-1)[3] += 1e-6
        others.add(CommonSae("a", form).fingerprint)
    assert len(others) == 9
    assert base not in others
    assert len(base) == 64


def test_the_fingerprint_is_the_same_in_another_process(make_form):
    program = (
        "import torch\nfrom glasshouse.plugins.saes.common import CommonForm, CommonSae\n"
        "t = torch.arange(12.0)\n"
        "print(CommonSae('x', CommonForm(t.view(3, 4), t[:4], t.view(4, 3), t[:3])).fingerprint)"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    numbers = torch.arange(12.0)
    form = CommonForm(numbers.view(3, 4), numbers[:4], numbers.view(4, 3), numbers[:3])
    assert other.stdout.strip() == CommonSae("y", form).fingerprint


def test_a_device_that_is_not_there():
    tensors = torch.eye(2), torch.zeros(2), torch.eye(2), torch.zeros(2)
    with pytest.raises(ModelError, match="'cpu' or 'cuda', not on 'tpu'"):
        CommonSae("a", CommonForm(*tensors), "tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match=r"no CUDA device .* Use --device cpu"):
            CommonSae("a", CommonForm(*tensors), "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_what_the_cpu_gives(make_form, dense):
    for settings_ in ({}, {"activation": "topk", "k": 4}, {"gated": True}, {"normalization": "layer_norm"}):
        form, acts_nd = make_form(16, 60, **settings_), torch.randn(40, 16)
        on_cpu, on_cuda = CommonSae("a", form), CommonSae("a", form, "cuda")
        codes = on_cuda.encode(acts_nd.cuda())
        assert codes.value.device.type == "cpu"
        np.testing.assert_allclose(dense(codes, 40, 60), dense(on_cpu.encode(acts_nd), 40, 60), atol=1e-4)
        assert on_cuda.fingerprint == on_cpu.fingerprint
