"""Checkpoints that would run code: none of it runs, whatever way it is packed."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.plugins.saes import prisma
from glasshouse.plugins.saes.inert_pickle import Placeholder, load_tensors
from glasshouse.schema.errors import ModelError


class Attack:
    """Makes a folder when it is unpickled by the ordinary unpickler."""

    def __init__(self, path, how):
        self.path, self.how = path, how

    def __reduce__(self):
        if self.how == "eval":
            return eval, (f"__import__('os').mkdir({str(self.path)!r})",)
        if self.how == "a function":
            return os.mkdir, (str(self.path),)
        if self.how == "through an allowed class":
            return collections.OrderedDict, (), None, None, iter([("x", Attack(self.path, "eval"))])
        return os.mkdir, (str(self.path),), {"state": 1}, iter([1, 2]), iter([("key", "value")])


HOWS = ["eval", "a function", "through an allowed class", "with state, items and entries"]


@pytest.mark.parametrize("how", HOWS)
def test_no_code_runs_and_the_tensors_are_read(tmp_path, how):
    proof, file = tmp_path / "proof", tmp_path / "weights.pt"
    torch.save({"cfg": Attack(proof, how), "state_dict": {"W": torch.arange(6.0).view(2, 3)}}, file)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)
    content = load_tensors(file)
    assert not proof.exists()
    assert torch.equal(content["state_dict"]["W"], torch.arange(6.0).view(2, 3))
    with contextlib.suppress(AttributeError):  # a function that ran returns no object to take the state
        torch.load(file, weights_only=False)
    assert proof.exists(), "the attack itself works"


@pytest.mark.parametrize("how", HOWS)
def test_other_containers_are_refused_without_running(tmp_path, how):
    """The format of before 2020, a bare pickle, and a TorchScript archive."""
    proof = tmp_path / "proof"
    attack = {"state_dict": {"W": torch.zeros(2)}, "cfg": Attack(proof, how)}
    torch.save(attack, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Attack(proof, how)))
    torch.save(attack, tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "a") as archive:
        archive.writestr("script/constants.pkl", pickle.dumps(()))
    for name, words in (
        ("legacy.pt", "before 2020"),
        ("bare.pt", "no PyTorch checkpoint"),
        ("script.pt", "TorchScript"),
    ):
        with pytest.raises(ModelError, match=rf"{words}.*own_format\.write") as caught:
            load_tensors(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)
        assert not proof.exists()


def test_an_attack_inside_a_prisma_folder(tmp_path, make_form):
    form = make_form(6, 24)
    state = {"W_enc": form.w_enc_df, "b_enc": form.b_enc_f, "W_dec": form.w_dec_fd, "b_dec": form.b_dec_d}
    config = {"d_in": 6, "activation_fn_str": "relu", "normalize_activations": None, "hook_point_layer": 1}
    (tmp_path / "config.json").write_text(json.dumps(config | {"layer_subtype": "hook_resid_post"}))
    proof = tmp_path / "proof"
    torch.save({"cfg": Attack(proof, "eval"), "state_dict": state}, tmp_path / "weights.pt")
    assert prisma.load(str(tmp_path), "cpu").width == 6
    torch.save({"state_dict": state | {"W_enc": Attack(proof, "eval")}}, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match="lacks the tensors W_enc"):
        prisma.load(str(tmp_path), "cpu")
    assert not proof.exists()


def test_what_is_not_let_through_becomes_a_placeholder(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save({"a": collections.Counter("aab"), "b": io.StringIO, "c": torch.float32, "d": [1, "x"]}, file)
    content = load_tensors(file)
    assert isinstance(content["a"], Placeholder)
    assert issubclass(content["b"], Placeholder)
    assert content["d"] == [1, "x"]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_tensors_of_every_type_come_through_unchanged(tmp_path, dtype):
    whole = torch.arange(24).view(4, 6).to(dtype)
    tensors = {"whole": whole, "view": whole[1:3, ::2], "parameter": torch.nn.Parameter(torch.ones(2))}
    torch.save({"cfg": io.StringIO, "state_dict": tensors}, tmp_path / "weights.pt")
    loaded = load_tensors(tmp_path / "weights.pt")["state_dict"]
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_files_that_are_no_checkpoint(tmp_path):
    with pytest.raises(ModelError, match="There is no checkpoint"):
        load_tensors(tmp_path / "weights.pt")
    for content in (b"", b"x", b"PK\x03\x04", b"\x80\x02.", b"\x80\x04N."):
        (tmp_path / "weights.pt").write_bytes(content)
        with pytest.raises(ModelError) as caught:
            load_tensors(tmp_path / "weights.pt")
        assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_checkpoint_ends_in_one_line(tmp_path_factory, position, byte, cut):
    folder = tmp_path_factory.mktemp("sae")
    torch.save({"cfg": io.StringIO, "state_dict": {"W": torch.ones(3)}}, folder / "weights.pt")
    content = bytearray((folder / "weights.pt").read_bytes())
    place = int(position * len(content))
    if cut:
        del content[place:]
    else:
        content[place] = byte
    (folder / "weights.pt").write_bytes(content)
    try:
        load_tensors(folder / "weights.pt")
    except ModelError as error:
        assert "\n" not in str(error)
