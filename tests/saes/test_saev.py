"""saev's files, a line of JSON and a state dict, against its forward pass in double precision."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.plugins.saes import local, saev
from glasshouse.schema.errors import ModelError


def weights(seed=0, width=6, n_features=24, threshold=None):
    generator = torch.Generator().manual_seed(seed)
    state = {
        "W_enc": torch.randn(width, n_features, generator=generator) * 0.5,
        "b_enc": torch.randn(n_features, generator=generator) * 0.3,
        "W_dec": torch.randn(n_features, width, generator=generator),
        "b_dec": torch.randn(width, generator=generator),
    }
    return state if threshold is None else state | {"activation.threshold": torch.tensor(threshold)}


def activation_of(name, top_k=5):
    return {"cls": name, "params": {} if name == "Relu" else {"top_k": top_k}}


def header_of(schema, name, width=6, n_features=24, top_k=5):
    """The first line, as each schema writes it; `None` is the code before schemas."""
    old = {"d_vit": width, "exp_factor": n_features // width, "seed": 0}
    if schema is None:
        return old | {"sparsity_coeff": 4e-4, "ghost_grads": False}
    about = {"schema": schema, "commit": "abc", "lib": "0.1.0"}
    if schema == "1A":
        return about | {"schema": 1, "cls": name, "cfg": old | ({} if name == "Relu" else {"top_k": top_k})}
    if schema <= 2:
        cfg = old | {"activation": activation_of(name, top_k)}
        return about | {"cfg": cfg} | ({"cls": "SparseAutoencoderConfig"} if schema == 1 else {})
    return about | {"cfg": {"d_model": width, "d_sae": n_features, "activation": activation_of(name, top_k)}}


def write(file, header, state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    file.write_bytes((header if isinstance(header, bytes) else json.dumps(header).encode()) + b"\n" + buffer.getvalue())
    return file


def forward(state, name, largest, k=5, legacy=False):
    """saev's encode and decode of one vector, negative codes left out."""
    t = {part: tensor.double().numpy() for part, tensor in state.items()}

    def run(x):
        z = (x - t["b_dec"] if legacy else x) @ t["W_enc"] + t["b_enc"]
        codes, margin = np.maximum(z, 0), np.inf
        if "activation.threshold" in t:
            codes, margin = z * (z > t["activation.threshold"]), abs(z - t["activation.threshold"]).min()
        elif name != "Relu":
            kept, margin = largest(z, k)
            codes = np.maximum(kept, 0)
        return codes, codes @ t["W_dec"] + t["b_dec"], margin

    return run


@pytest.fixture
def acts_nd():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(9)) * 2 + 1


@pytest.mark.parametrize("schema", ["1A", 1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["Relu", "TopK", "BatchTopK", "BatchTopK with threshold"])
def test_every_schema_follows_saevs_forward_pass(tmp_path, agrees, largest, acts_nd, schema, name):
    kind = name.split()[0]
    state = weights(threshold=0.6 if name != kind else None)
    file = write(tmp_path / "sae.pt", header_of(schema, kind), state)
    sae = saev.load(str(file), "cpu")
    agrees(sae, acts_nd, forward(state, kind, largest))
    assert sae.spec == f"saev:{file.resolve()}"
    assert sae.about["format"].startswith("saev (schema ")
    assert local.load(str(file), "cpu").fingerprint == sae.fingerprint
    assert any("no threshold, so the 5 largest" in note for note in sae.notes) == (name == "BatchTopK")
    assert any("negative values" in note for note in sae.notes) == (name in ("TopK", "BatchTopK"))


def test_the_code_before_schemas_subtracted_the_bias(tmp_path, agrees, largest, acts_nd):
    state = weights()
    sae = saev.load(str(write(tmp_path / "sae.pt", header_of(None, "Relu"), state)), "cpu")
    agrees(sae, acts_nd, forward(state, "Relu", largest, legacy=True))
    assert "not saved" in sae.notes[0]
    assert "self-test" in sae.notes[0]
    newer = saev.load(str(write(tmp_path / "new.pt", header_of(5, "Relu"), state)), "cpu")
    assert newer.notes == ()
    assert newer.fingerprint != sae.fingerprint


def test_negative_codes_of_a_top_k_are_left_out(tmp_path):
    state = {"W_enc": torch.eye(4), "b_enc": torch.zeros(4), "W_dec": torch.eye(4), "b_dec": torch.zeros(4)}
    header = header_of(5, "TopK", 4, 4, top_k=3)
    codes = saev.load(str(write(tmp_path / "sae.pt", header, state)), "cpu").encode(torch.tensor([[2.0, -1, -2, -3]]))
    assert (codes.feature.tolist(), codes.value.tolist()) == ([0], [2.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 6}, "has the schema 6; 1 to 5 are known"),
        ({"schema": "five"}, "has the schema five"),
        ({"schema": True}, "has the schema True"),
        ({"cfg": None}, "has no cfg"),
        ({"cfg": {"d_model": 6}}, r"no cfg\.activation with cls and params"),
        (
            {"cfg": {"activation": {"cls": "Gelu", "params": {}}}},
            "'Gelu' is not one of Relu, TopK, BatchTopK",
        ),
        ({"cfg": {"activation": {"cls": "TopK", "params": {}}}}, "top_k is None, not a finite number"),
        ({"cfg": {"activation": {"cls": "TopK", "params": {"top_k": 25}}}}, "topk needs k between 1 and 24, not 25"),
        ({"cfg": {"d_model": 8, "activation": activation_of("Relu")}}, "has d_model 6, d_sae 24, .*says d_model 8"),
        ({"cfg": {"d_sae": 25, "activation": activation_of("Relu")}}, "says d_sae 25: they belong to different SAEs"),
        ({"cfg": {"exp_factor": 8, "activation": activation_of("Relu")}}, "says d_sae 48"),
    ],
)
def test_a_header_that_does_not_fit(tmp_path, refused, change, message):
    file = write(tmp_path / "sae.pt", header_of(5, "Relu") | change, weights())
    refused(lambda: saev.load(str(file), "cpu"), message)


def test_broken_files(tmp_path, refused):
    file = tmp_path / "sae.pt"
    load = lambda: saev.load(str(file), "cpu")  # noqa: E731
    for header, message in (
        (b"{", "does not begin with a line of JSON"),
        (b"\xff\xfe", "does not begin with a line of JSON"),
        (b"[1]", "holds no JSON object"),
        (b'{"a": 1}', "has neither schema nor d_vit and exp_factor"),
    ):
        write(file, header, weights())
        refused(load, message)
    header = header_of(5, "Relu")
    for change, message in (
        ({"b_dec": torch.zeros(7)}, r"b_dec has shape \[7\]"),
        ({"W_dec": torch.zeros(6, 24)}, r"w_dec has shape \[6, 24\]"),
        ({"W_enc": torch.zeros(6)}, r"W_enc has shape \[6\]"),
        ({"W_enc": torch.full((6, 24), float("nan"))}, "w_enc holds NaN"),
    ):
        write(file, header, weights() | change)
        refused(load, message)
    write(file, header_of(5, "BatchTopK"), weights() | {"activation.threshold": torch.zeros(5)})
    refused(load, r"threshold has shape \[5\]")
    for missing in ("W_enc", "b_enc", "W_dec", "b_dec"):
        write(file, header, {name: tensor for name, tensor in weights().items() if name != missing})
        refused(load, f"lacks the tensors {missing}, so it is no SAE of saev")
    write(file, header, [1, 2])
    refused(load, "holds no state dict")
    write(file, header, {"W_enc": np.float64})
    refused(load, "holds more than tensors")
    whole = write(file, header, weights()).read_bytes()
    n_header = whole.index(b"\n") + 1
    for kept in (0, 10, n_header, n_header + 30, len(whole) - 1):
        file.write_bytes(whole[:kept])
        refused(load, "line of JSON|no PyTorch state dict|more than tensors")
    refused(lambda: saev.load(str(tmp_path), "cpu"), "is no file")


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(2, 12),
    factor=st.integers(1, 5),
    seed=st.integers(0, 2**31),
    schema=st.sampled_from([None, "1A", 1, 2, 3, 5]),
    name=st.sampled_from(["Relu", "TopK", "BatchTopK"]),
)
def test_any_shape(tmp_path_factory, agrees, largest, width, factor, seed, schema, name):
    n_features = width * factor
    k, name = 1 + seed % n_features, "Relu" if schema is None else name
    threshold = 0.4 if name == "BatchTopK" and seed % 2 else None
    state = weights(seed, width, n_features, threshold)
    file = write(tmp_path_factory.mktemp("sae") / "sae.pt", header_of(schema, name, width, n_features, k), state)
    acts_nd = torch.randn(8, width, generator=torch.Generator().manual_seed(seed)) * 2 + 1
    reference = forward(state, name, largest, k, legacy=schema is None)
    agrees(saev.load(str(file), "cpu"), acts_nd, reference, least=0.0)


JSON = st.none() | st.booleans() | st.integers(-3, 30) | st.floats() | st.text(max_size=4) | st.just([]) | st.just({})


@settings(max_examples=80, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from(["schema", "cfg", "cls", "d_vit", "exp_factor"]), JSON, max_size=3),
    inner=st.dictionaries(st.sampled_from(["d_model", "d_sae", "activation", "d_vit", "exp_factor"]), JSON, max_size=3),
)
def test_any_header_loads_or_ends_in_one_line(tmp_path_factory, changes, inner):
    header = header_of(5, "TopK")
    header["cfg"] |= inner
    file = write(tmp_path_factory.mktemp("sae") / "sae.pt", header | changes, weights())
    try:
        assert saev.load(str(file), "cpu").width == 6
    except ModelError as error:
        assert "\n" not in str(error)
