"""overcomplete's state dicts against its forward pass in double precision; whole modules are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.plugins.saes import overcomplete
from glasshouse.schema.errors import UsageError


def weights(seed=0, width=6, n_features=24, **more):
    generator = torch.Generator().manual_seed(seed)
    return {
        "encoder.final_block.0.weight": torch.randn(n_features, width, generator=generator) * 0.5,
        "encoder.final_block.0.bias": torch.randn(n_features, generator=generator) * 0.3,
        "dictionary._weights": torch.randn(n_features, width, generator=generator) * 3,
        "dictionary.multiplier": torch.tensor(0.7),
        **more,
    }


def write(file, content):
    torch.save(content, file)
    return file


def forward(state, largest, k=None, threshold=None):
    """overcomplete's encode and decode of one vector."""
    t = {part: tensor.double().numpy() for part, tensor in state.items()}
    rows = t["dictionary._weights"]
    dictionary = rows / np.linalg.norm(rows, axis=1, keepdims=True) * np.exp(t.get("dictionary.multiplier", 0.0))

    def run(x):
        z = t["encoder.final_block.0.weight"] @ x + t["encoder.final_block.0.bias"]
        codes, margin = np.maximum(z, 0), np.inf
        if k is not None:
            _, margin = largest(z, k)
            codes, _ = largest(codes, k)
        limit = np.exp(t["thresholds"]) if "thresholds" in t else threshold
        if limit is not None:
            codes, margin = codes * (codes >= limit), abs(codes - limit).min()
        return codes, codes @ dictionary, margin

    return run


@pytest.fixture
def acts_nd():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(9)) * 2 + 1


@pytest.mark.parametrize(("setting", "given_"), [("", {}), ("#k=5", {"k": 5}), ("#threshold=0.6", {"threshold": 0.6})])
@pytest.mark.parametrize("multiplier", [torch.tensor(0.7), torch.tensor([-0.4]), None])
def test_the_forward_pass_is_followed(tmp_path, agrees, largest, acts_nd, setting, given_, multiplier):
    state = weights()
    if multiplier is None:
        del state["dictionary.multiplier"]
    else:
        state["dictionary.multiplier"] = multiplier
    file = write(tmp_path / "sae.pt", state)
    sae = overcomplete.load(f"{file}{setting}", "cpu")
    agrees(
        sae, acts_nd, forward({n: t.reshape(()) if t.numel() == 1 else t for n, t in state.items()}, largest, **given_)
    )
    assert sae.spec == f"overcomplete:{file.resolve()}{setting}"
    assert bool(sae.notes) == (setting == "")


def test_thresholds_of_a_jump_sae(tmp_path, agrees, largest, acts_nd):
    state = weights(thresholds=torch.randn(24, generator=torch.Generator().manual_seed(3)) * 0.5 - 1)
    file = write(tmp_path / "sae.pt", state)
    agrees(overcomplete.load(str(file), "cpu"), acts_nd, forward(state, largest))
    with pytest.raises(UsageError, match="has thresholds of its own"):
        overcomplete.load(f"{file}#k=5", "cpu")


def test_a_row_of_zeros_stays_one(tmp_path, acts_nd):
    state = weights()
    state["dictionary._weights"][3] = 0
    sae = overcomplete.load(str(write(tmp_path / "sae.pt", state)), "cpu")
    assert sae.form.w_dec_fd[3].abs().sum() == 0
    assert sae.decode(sae.encode(acts_nd), len(acts_nd)).isfinite().all()


class Module(torch.nn.Module):
    """A module as a whole, of a class that the loader must not build."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def __setstate__(self, state):
        raise AssertionError("its code was run")


def test_a_whole_module_is_refused_and_the_way_out_is_said(tmp_path, refused):
    file = write(tmp_path / "sae.pt", Module())
    refused(
        lambda: overcomplete.load(str(file), "cpu"), r"torch\.save\(torch\.load\(FILE, .*state_dict\(\), NEW_FILE\)"
    )


@pytest.mark.parametrize("setting", ["k=", "k=-1", "k=five", "topk=3", "threshold=", "threshold=-1", ""])
def test_settings_that_are_none(tmp_path, setting):
    with pytest.raises(UsageError, match=r"Write #k=K or #threshold=T"):
        overcomplete.load(f"{write(tmp_path / 'sae.pt', weights())}#{setting}", "cpu")


def test_broken_files(tmp_path, refused):
    file = tmp_path / "sae.pt"
    load = lambda: overcomplete.load(str(file), "cpu")  # noqa: E731
    for name in ("encoder.final_block.0.weight", "encoder.final_block.0.bias", "dictionary._weights"):
        write(file, {part: tensor for part, tensor in weights().items() if part != name})
        refused(load, f"lacks the tensors {name}, so it is no SAE of overcomplete")
    for change, message in (
        ({"encoder.final_block.0.bias": torch.zeros(7)}, r"b_enc has shape \[7\]"),
        ({"encoder.final_block.0.weight": torch.zeros(24)}, "which is no matrix"),
        ({"dictionary._weights": torch.zeros(6, 24)}, r"has shape \[6, 24\]"),
        ({"dictionary._weights": torch.zeros(24)}, "which is no matrix"),
        ({"dictionary._weights": torch.full((24, 6), float("nan"))}, "w_dec holds NaN"),
        ({"dictionary.multiplier": torch.zeros(24)}, r"exp\(dictionary.multiplier\) is \[24\], not a finite number"),
        ({"dictionary.multiplier": torch.tensor(float("inf"))}, "not a finite number"),
        ({"thresholds": torch.zeros(3)}, r"threshold has shape \[3\]"),
        ({"encoder.final_block.1.running_mean": torch.zeros(24)}, "encoder with norms or several blocks"),
        ({"encoder.mlp_blocks.0.0.weight": torch.zeros(6, 6)}, "encoder.mlp_blocks.0.0.weight"),
    ):
        write(file, weights(**change))
        refused(load, message)
    write(file, [torch.zeros(3)])
    refused(load, "no state dict of overcomplete's")
    refused(lambda: overcomplete.load(f"{write(file, weights())}#k=25", "cpu"), "topk needs k between 1 and 24, not 25")
    whole = file.read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:kept])
        refused(load, "no PyTorch checkpoint")
    refused(lambda: overcomplete.load(str(tmp_path), "cpu"), "is no file")


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 12),
    n_features=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["relu", "k", "threshold"]),
)
def test_any_shape(tmp_path_factory, agrees, largest, width, n_features, seed, kind):
    state = weights(seed, width, n_features)
    k, threshold = 1 + seed % n_features if kind == "k" else None, 0.25 if kind == "threshold" else None
    setting = {"relu": "", "k": f"#k={k}", "threshold": "#threshold=0.25"}[kind]
    file = write(tmp_path_factory.mktemp("sae") / "sae.pt", state)
    acts_nd = torch.randn(8, width, generator=torch.Generator().manual_seed(seed)) * 2 + 1
    reference = forward(state, largest, k=k, threshold=threshold)
    agrees(overcomplete.load(f"{file}{setting}", "cpu"), acts_nd, reference, least=0.0)
