"""glasshouse's own format: what is written is read, and what is wrong is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.plugins.saes import local, own_format
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.own_format import METADATA_KEY, TENSOR_NAMES, SaeDescription
from glasshouse.schema.errors import ModelError

DESCRIPTION = {
    "format": 1,
    "activation": "relu",
    "apply_b_dec_to_input": True,
    "normalization": "none",
    "hook": "blocks.3.resid_post",
    "tokens": "cls",
    "encoder": "starter:clip",
}


def tensors_of(form):
    return {
        name: getattr(form, attribute)
        for name, attribute in TENSOR_NAMES.items()
        if getattr(form, attribute) is not None
    }


@pytest.mark.parametrize(
    "described",
    [
        {},
        {"activation": "topk", "k": 4},
        {"activation": "tanh-relu", "apply_b_dec_to_input": False},
        {"activation": "batchtopk", "normalization": "layer_norm", "prefixes": [4, 8, 20]},
        {"activation": "jumprelu", "normalization": "constant_norm_rescale"},
        {"gated": True},
    ],
)
def test_what_is_written_is_read(tmp_path, make_form, dense, described):
    gated = described.pop("gated", False)
    settings_ = {key: value for key, value in described.items() if key != "prefixes"}
    form = make_form(6, 20, gated=gated, **settings_)
    own_format.write(tmp_path / "sae.safetensors", tensors_of(form), DESCRIPTION | described)
    acts_nd = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    expected_nf = dense(CommonSae("memory", form).encode(acts_nd), 9, 20)
    for loaded in (
        own_format.load(tmp_path, "cpu", "name"),
        own_format.load(tmp_path / "sae.safetensors", "cpu", "name"),
        local.load(str(tmp_path), "cpu"),
        local.load(str(tmp_path / "sae.safetensors"), "cpu"),
    ):
        np.testing.assert_array_equal(dense(loaded.encode(acts_nd), 9, 20), expected_nf)
        assert loaded.fingerprint == CommonSae("memory", form).fingerprint
        assert loaded.hook == "blocks.3.resid_post"
        assert loaded.tokens == "cls"
        assert loaded.prefixes == (tuple(described["prefixes"]) if "prefixes" in described else None)
    assert local.load(str(tmp_path), "cpu").spec == str(tmp_path.resolve())


def test_format_2_says_what_format_1_could_not(tmp_path, make_form, dense):
    form = make_form(6, 20, centred=True, normalization="layer_norm", input_scale=0.4, soft_cap=2.0)
    unknown = {"hook": None, "tokens": None, "encoder": None, "notes": ["beware"]}
    described = DESCRIPTION | unknown | {"normalization": "layer_norm", "input_scale": 0.4, "soft_cap": 2.0}
    file = tmp_path / "sae.safetensors"
    own_format.write(file, tensors_of(form), described | {"format": 2})
    loaded = own_format.load(file, "cpu", "name")
    assert loaded.fingerprint == CommonSae("memory", form).fingerprint
    assert (loaded.hook, loaded.tokens, loaded.notes) == (None, None, ("beware",))
    acts_nd = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    codes = loaded.encode(acts_nd)
    np.testing.assert_array_equal(dense(codes, 9, 20), dense(CommonSae("memory", form).encode(acts_nd), 9, 20))
    assert torch.equal(loaded.decode(codes, 9, acts_nd), CommonSae("memory", form).decode(codes, 9, acts_nd))


@pytest.mark.parametrize(
    "change", [{"input_scale": 0.4}, {"soft_cap": 2.0}, {"hook": None}, {"encoder": None}, "center"]
)
def test_a_reader_of_format_1_must_not_misread_format_2(tmp_path, make_form, change):
    file = tmp_path / "sae.safetensors"
    tensors = tensors_of(make_form(6, 20, centred=change == "center"))
    described = DESCRIPTION | ({} if change == "center" else change)
    with pytest.raises(ModelError, match='need the description to say "format": 2'):
        own_format.write(file, tensors, described)
    safetensors.torch.save_file(tensors, str(file), {METADATA_KEY: json.dumps(described)})
    with pytest.raises(ModelError, match='need the description to say "format": 2'):
        own_format.load(file, "cpu", "name")
    own_format.write(file, tensors, described | {"format": 2})
    assert own_format.load(file, "cpu", "name").width == 6


def test_half_precision_on_disk_is_float32_in_memory(tmp_path, make_form):
    form = make_form(6, 20)
    half = {name: tensor.half() for name, tensor in tensors_of(form).items()}
    own_format.write(tmp_path / "sae.safetensors", half, DESCRIPTION)
    sae = own_format.load(tmp_path, "cpu", "name")
    for name, attribute in TENSOR_NAMES.items():
        if name in half:
            assert getattr(sae.form, attribute).dtype == torch.float32
            assert torch.equal(getattr(sae.form, attribute), half[name].float())


def test_unknown_keys_are_kept_and_ignored(tmp_path, make_form):
    file = tmp_path / "sae.safetensors"
    described = DESCRIPTION | {"mood": "good", "training": {"seed": 7, "images": ["a", 1]}, "self_test": {"l0": 8.3}}
    own_format.write(file, tensors_of(make_form(6, 20)), SaeDescription.model_validate(described))
    description, tensors = own_format.read(file)
    assert description.model_dump()["mood"] == "good"
    assert description.training == {"seed": 7, "images": ["a", 1]}
    assert set(tensors) == {"W_enc", "b_enc", "W_dec", "b_dec"}
    assert own_format.load(file, "cpu", "name").width == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": None}, "activation: "),
        ({"activation": "gelu"}, "activation: Input should be 'relu'"),
        ({"format": 3}, "format: Input should be 1 or 2"),
        ({"hook": ...}, "hook: Field required"),
        ({"k": "three"}, "k: Input should be a valid integer"),
        ({"apply_b_dec_to_input": 1}, "apply_b_dec_to_input: Input should be a valid boolean"),
        ({"activation": "topk"}, "topk needs k between 1 and 20, not None"),
        ({"activation": "batchtopk"}, "needs the tensor 'threshold'"),
        ({"prefixes": [8, 4, 20]}, r"prefixes \[8, 4, 20\] must rise and end with .* 20"),
        ({"prefixes": [4, 8]}, "must rise and end"),
        ({"prefixes": []}, "must rise and end"),
    ],
)
def test_a_wrong_description_is_named(tmp_path, make_form, change, message):
    file = tmp_path / "sae.safetensors"
    described = {key: value for key, value in (DESCRIPTION | change).items() if value is not ...}
    safetensors.torch.save_file(tensors_of(make_form(6, 20)), str(file), {METADATA_KEY: json.dumps(described)})
    with pytest.raises(ModelError, match=message) as caught:
        own_format.load(file, "cpu", "name")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_something_else(tmp_path, make_form):
    file = tmp_path / "sae.safetensors"
    with pytest.raises(ModelError, match=r"There is no SAE file .*sae\.safetensors"):
        own_format.load(file, "cpu", "name")
    file.write_bytes(b"not a safetensors file at all")
    with pytest.raises(ModelError, match="is no safetensors file"):
        own_format.load(file, "cpu", "name")
    safetensors.torch.save_file(tensors_of(make_form(6, 20)), str(file))
    with pytest.raises(ModelError, match="without the metadata 'glasshouse_sae'"):
        own_format.load(file, "cpu", "name")
    safetensors.torch.save_file(tensors_of(make_form(6, 20)), str(file), {METADATA_KEY: "{"})
    with pytest.raises(ModelError, match="JSON"):
        own_format.load(file, "cpu", "name")
    safetensors.torch.save_file({"W_enc": torch.zeros(6, 20)}, str(file), {METADATA_KEY: json.dumps(DESCRIPTION)})
    with pytest.raises(ModelError, match="lacks the tensors b_enc, W_dec, b_dec; it has W_enc"):
        own_format.load(file, "cpu", "name")
    mismatched = tensors_of(make_form(6, 20)) | {"b_dec": torch.zeros(7)}
    safetensors.torch.save_file(mismatched, str(file), {METADATA_KEY: json.dumps(DESCRIPTION)})
    with pytest.raises(ModelError, match=r"b_dec has shape \[7\]"):
        own_format.load(file, "cpu", "name")


def test_a_file_cut_short_is_refused(tmp_path, make_form):
    file = tmp_path / "sae.safetensors"
    own_format.write(file, tensors_of(make_form(6, 20)), DESCRIPTION)
    whole = file.read_bytes()
    for kept in (0, 4, 8, 100, len(whole) - 1):
        file.write_bytes(whole[:kept])
        with pytest.raises(ModelError, match="is no safetensors file"):
            own_format.load(file, "cpu", "name")


def test_writing_refuses_what_could_not_be_read(tmp_path, make_form):
    tensors = tensors_of(make_form(6, 20))
    with pytest.raises(ModelError, match="unknown: W_extra"):
        own_format.write(tmp_path / "x.safetensors", tensors | {"W_extra": torch.zeros(1)}, DESCRIPTION)
    with pytest.raises(ModelError, match="missing: b_dec"):
        own_format.write(tmp_path / "x.safetensors", {k: v for k, v in tensors.items() if k != "b_dec"}, DESCRIPTION)
    with pytest.raises(ModelError, match="tokens: Field required"):
        own_format.write(tmp_path / "x.safetensors", tensors, {k: v for k, v in DESCRIPTION.items() if k != "tokens"})
    assert not list(tmp_path.iterdir())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 100) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from([*SaeDescription.model_fields, "other"]), JSON, max_size=3),
    whole=st.none() | JSON,
)
def test_any_description_loads_or_ends_in_one_line(tmp_path_factory, make_form, changes, whole):
    file = tmp_path_factory.mktemp("sae") / "sae.safetensors"
    described = DESCRIPTION | changes if whole is None else whole
    safetensors.torch.save_file(tensors_of(make_form(3, 5)), str(file), {METADATA_KEY: json.dumps(described)})
    try:
        assert own_format.load(file, "cpu", "name").width == 3
    except ModelError as error:
        assert "\n" not in str(error)
