"""MSAE's files, whose names hold the hyper-parameters, against its forward pass in double precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.plugins.saes import local, msae
from glasshouse.plugins.saes.msae import NamedSettings, read_name
from glasshouse.schema.errors import ModelError


def content_of(seed=0, width=6, n_features=24, *, tied=False, jump=False, centred=True):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    model = {
        "encoder": normal(width, n_features) * 0.5,
        "decoder": normal(n_features, width),
        "pre_bias": normal(width) * 0.3,
        "latent_bias": normal(n_features) * 0.3,
        "latents_activation_frequency": torch.arange(n_features),
    }
    if tied:
        del model["decoder"]
    if jump:
        model["activation.log_threshold"] = normal(n_features) * 0.5 - 1
    return {
        "model": model,
        "mean_center": normal(width) if centred else 0.0,
        "scaling_factor": 1.7 if seed % 2 else torch.tensor(0.4),
        "target_norm": 2.4,
    }


def write(folder, name, content):
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / name)
    return folder / name


def forward(content, activation, largest, *, k=None, normalize=False, cap=0.0):
    """MSAE's encode and decode of one vector, with the preparation of its data set; negative codes left out."""
    t = {name: tensor.double().numpy() for name, tensor in content["model"].items()}
    mean = content["mean_center"].double().numpy() if isinstance(content["mean_center"], torch.Tensor) else 0.0
    scale = float(content["scaling_factor"])
    decoder = t.get("decoder", t["encoder"].T)

    def run(x):
        x = (x - mean) * scale
        mu, sigma = 0.0, 1.0
        if normalize:
            mu = x.mean()
            sigma = x.std(ddof=1)
            x = (x - mu) / (sigma + 1e-5)
        z = (x - t["pre_bias"]) @ t["encoder"] + t["latent_bias"]
        codes, margin = np.maximum(z, 0), np.inf
        if "TopK" in activation:
            kept, margin = largest(z, k)
            codes = np.maximum(kept, 0)
        if activation == "JumpReLU":
            limit = np.exp(t["activation.log_threshold"])
            codes, margin = codes * (codes > limit), abs(codes - limit).min()
        if cap > 0:
            codes = cap * np.tanh(codes / cap)
        return codes, ((codes @ decoder + t["pre_bias"]) * sigma + mu) / scale + mean, margin

    return run


@pytest.fixture
def acts_nd():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(9)) * 2 + 1


@pytest.mark.parametrize(
    "activation", ["ReLU", "TopK_5", "TopKReLU_5", "BatchTopK_5", "BatchTopKReLU_5", "JumpReLU_24"]
)
@pytest.mark.parametrize(("tied", "normalize", "cap"), [(False, False, 0.0), (True, True, 1.5), (False, True, 0.0)])
def test_every_name_follows_msaes_forward_pass(tmp_path, agrees, largest, acts_nd, activation, tied, normalize, cap):
    name = activation.split("_")[0]
    content = content_of(tied=tied, jump=name == "JumpReLU")
    file = write(tmp_path, f"24_6_{activation}_{tied}_{normalize}_{cap}_cc3m_ViT-L_14_train_image.pth", content)
    sae = msae.load(str(file), "cpu")
    agrees(sae, acts_nd, forward(content, name, largest, k=5, normalize=normalize, cap=cap))
    assert sae.spec == f"msae:{file.resolve()}"
    assert sae.about["format"] == f"MSAE ({name})"
    assert local.load(str(file), "cpu").fingerprint == sae.fingerprint
    assert any("negative" in note for note in sae.notes) == (name in ("TopK", "BatchTopK"))
    assert any("no threshold" in note for note in sae.notes) == ("Batch" in name)


def test_data_that_was_not_centred(tmp_path, agrees, largest, acts_nd):
    for mean in (0.0, 0, torch.zeros(1), torch.tensor(0.0)):
        content = content_of(1, centred=False) | {"mean_center": mean}
        file = write(tmp_path, "24_6_ReLU_False_False_0.0_x.pt", content)
        agrees(msae.load(str(file), "cpu"), acts_nd, forward(content | {"mean_center": 0.0}, "ReLU", largest))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("8192_512_ReLU_False_False_0.0_cc3m.pth", NamedSettings(8192, 512, "ReLU", None, False, False, 0.0)),
        ("8192_512_ReLU_003_True_False_30_a_b_c.pt", NamedSettings(8192, 512, "ReLU", None, True, False, 30.0)),
        ("6144_768_TopKReLU_64_RW_False_True_30.0_x.pth", NamedSettings(6144, 768, "TopKReLU", 64, False, True, 30.0)),
        ("6144_768_BatchTopKReLU_256_UW_True_True_0_True_False_1.0_x.pth", None),
    ],
)
def test_names_are_taken_apart(name, expected):
    found = read_name(Path(name))
    if expected is None:  # what looks like settings in a data set's name is left to it
        expected = NamedSettings(6144, 768, "BatchTopKReLU", 256, True, True, 0.0)
    assert found == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sae.pth", r"does not read \{F\}_\{D\}_\{activation\}"),
        ("24_6_ReLU_False_False_cc3m.pth", "the name does not read"),
        ("24_6_ReLU_False_0.0_cc3m.pth", "the name does not read"),
        ("24_6_ELU1p_False_False_0.0_x.pth", "activation 'ELU1p' is not one of ReLU, TopK"),
        ("24_6_TopKReLU_False_False_0.0_x.pth", "TopKReLU is not followed by k"),
        ("24_6_TopKReLU_0_False_False_0.0_x.pth", "TopKReLU is not followed by k"),
        ("24_6_TopKReLU_25_False_False_0.0_x.pth", "topk needs k between 1 and 24, not 25"),
        ("24_6_JumpReLU_24_False_False_0.0_x.pth", "lacks the tensors activation.log_threshold"),
        (
            "24_8_ReLU_False_False_0.0_x.pth",
            "center has shape|but its name says D 8: they belong",
        ),
        ("48_6_ReLU_False_False_0.0_x.pth", "its name says F 48"),
    ],
)
def test_a_name_that_does_not_fit(tmp_path, refused, name, message):
    file = write(tmp_path, name, content_of())
    refused(lambda: msae.load(str(file), "cpu"), message)


def test_broken_files(tmp_path, refused):
    name = "24_6_ReLU_False_False_0.0_x.pth"
    load = lambda: msae.load(str(tmp_path / name), "cpu")  # noqa: E731
    for missing in ("encoder", "decoder", "pre_bias", "latent_bias"):
        content = content_of()
        del content["model"][missing]
        write(tmp_path, name, content)
        refused(load, f"lacks the tensors {missing}, so it is no SAE of MSAE")
    for missing in ("mean_center", "scaling_factor"):
        write(tmp_path, name, {key: value for key, value in content_of().items() if key != missing})
        refused(load, f"lacks {missing}, so it does not say how its input was prepared")
    for change, message in (
        ({"scaling_factor": 0.0}, "scale of the input is 0.0, not a positive number"),
        ({"scaling_factor": float("nan")}, "scaling_factor is nan"),
        ({"scaling_factor": torch.ones(6)}, r"scaling_factor is \[6\], not a finite number"),
        ({"mean_center": torch.zeros(7)}, r"center has shape \[7\]"),
        ({"mean_center": torch.full((6,), float("nan"))}, "center holds NaN"),
        ({"mean_center": "mean"}, "mean_center is mean"),
    ):
        write(tmp_path, name, content_of() | change)
        refused(load, message)
    for change, message in (
        ({"encoder": torch.zeros(24, 6)}, "has shape"),
        ({"encoder": torch.zeros(6)}, r"W_enc has shape \[6\]"),
        ({"latent_bias": torch.zeros(5)}, r"b_enc has shape \[5\]"),
        ({"decoder": torch.full((24, 6), float("nan"))}, "w_dec holds NaN"),
    ):
        content = content_of()
        content["model"] |= change
        write(tmp_path, name, content)
        refused(load, message)
    for content in ({}, {"model": torch.zeros(3)}, [1], torch.zeros(3)):
        write(tmp_path, name, content)
        refused(load, "holds no dictionary with a model")
    whole = write(tmp_path, name, content_of()).read_bytes()
    for kept in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:kept])
        refused(load, "no PyTorch checkpoint")


@settings(max_examples=50, deadline=None)
@given(
    width=st.integers(2, 12),
    n_features=st.integers(1, 40),
    seed=st.integers(0, 2**31),
    activation=st.sampled_from(["ReLU", "TopK", "BatchTopKReLU", "JumpReLU"]),
    tied=st.booleans(),
    normalize=st.booleans(),
    cap=st.sampled_from([0.0, 0.5, 30.0]),
)
def test_any_shape(tmp_path_factory, agrees, largest, width, n_features, seed, activation, tied, normalize, cap):
    k = 1 + seed % n_features
    content = content_of(seed, width, n_features, tied=tied, jump=activation == "JumpReLU")
    more = f"_{k}" if "TopK" in activation else ""
    name = f"{n_features}_{width}_{activation}{more}_{tied}_{normalize}_{cap}_some_data.pth"
    file = write(tmp_path_factory.mktemp("sae"), name, content)
    acts_nd = torch.randn(8, width, generator=torch.Generator().manual_seed(seed)) * 2 + 1
    reference = forward(content, activation, largest, k=k, normalize=normalize, cap=cap)
    agrees(msae.load(str(file), "cpu"), acts_nd, reference, least=0.0)


@settings(max_examples=80, deadline=None)
@given(parts=st.lists(st.sampled_from(["24", "6", "ReLU", "TopK", "5", "True", "False", "0.0", "x", ""]), max_size=9))
def test_any_name_loads_or_ends_in_one_line(tmp_path_factory, parts):
    file = write(tmp_path_factory.mktemp("sae"), f"{'_'.join(parts) or 'x'}.pth", content_of())
    try:
        assert msae.load(str(file), "cpu").width == 6
    except ModelError as error:
        assert "\n" not in str(error)
