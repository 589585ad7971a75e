"""SAEs with random weights, and what the definitions say they should give, written with loops over plain numbers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from glasshouse.plugins.saes.form import CommonForm


@pytest.fixture(scope="session")
def make_form() -> Callable[..., CommonForm]:
    """Random SAEs: `make_form(width, n_features, seed, **settings)`; `gated`, `centred` add the gate, a mean."""

    def make(
        width: int, n_features: int, seed: int = 0, *, gated: bool = False, centred: bool = False, **settings: Any
    ) -> CommonForm:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return torch.randn(*shape, generator=generator) * scale

        if gated:
            settings |= {
                "b_gate_f": normal(n_features, scale=0.3),
                "r_mag_f": normal(n_features, scale=0.3),
                "b_mag_f": normal(n_features, scale=0.3),
            }
        if centred:
            settings |= {"center_d": normal(width)}
        if settings.get("activation") in ("jumprelu", "batchtopk"):
            settings.setdefault("threshold_f", normal(n_features, scale=0.5))
        return CommonForm(
            w_enc_df=normal(width, n_features, scale=width**-0.5),
            b_enc_f=normal(n_features, scale=0.3),
            w_dec_fd=normal(n_features, width, scale=width**-0.5),
            b_dec_d=normal(width, scale=0.5),
            **settings,
        )

    return make


def _normalised(x: np.ndarray, rule: str) -> tuple[np.ndarray, float, float]:
    """The vector, and the shift and scale that undo its normalisation."""
    n = len(x)
    if rule == "layer_norm":
        mean = sum(x) / n
        sigma = (sum((value - mean) ** 2 for value in x) / (n - 1)) ** 0.5
        return np.array([(value - mean) / (sigma + 1e-5) for value in x]), mean, sigma
    if rule == "constant_norm_rescale":
        norm = sum(value * value for value in x) ** 0.5
        if norm == 0:
            return x, 0.0, 1.0
        return np.array([value * n**0.5 / norm for value in x]), 0.0, norm / n**0.5
    return x, 0.0, 1.0


def _activated(z: np.ndarray, form: CommonForm) -> np.ndarray:
    """Codes of one row from its pre-activations."""
    positive = np.array([max(value, 0.0) for value in z])
    if form.activation == "tanh-relu":
        return np.tanh(positive)
    if form.activation == "topk":
        largest = sorted(range(len(z)), key=lambda feature: -z[feature])[: form.k]
        return np.array([positive[feature] if feature in largest else 0.0 for feature in range(len(z))])
    if form.activation in ("jumprelu", "batchtopk"):
        assert form.threshold_f is not None
        limits = np.broadcast_to(form.threshold_f.double().numpy(), z.shape)
        return np.array([p if value > limit else 0.0 for value, p, limit in zip(z, positive, limits, strict=True)])
    return positive


def _naive(acts_nd: torch.Tensor, form: CommonForm) -> SimpleNamespace:
    """Codes [n, F], reconstructions [n, D] and pre-activations [n, F] by the definitions, in double precision."""
    tensors = {name: tensor.double().numpy() for name, tensor in form.tensors().items()}
    codes_nf, decoded_nd, pre_nf = [], [], []
    center = tensors.get("center_d", np.zeros(acts_nd.shape[1]))
    for x in acts_nd.double().numpy():
        inputs, shift, scale = _normalised((x - center) * form.input_scale, form.normalization)
        if form.apply_b_dec_to_input:
            inputs = inputs - tensors["b_dec_d"]
        product = inputs @ tensors["w_enc_df"]
        if form.b_gate_f is None:
            pre = product + tensors["b_enc_f"]
            codes = _activated(pre, form)
        else:
            pre = product + tensors["b_gate_f"]
            magnitudes = _activated(product * np.exp(tensors["r_mag_f"]) + tensors["b_mag_f"], form)
            codes = np.array([m if gate > 0 else 0.0 for m, gate in zip(magnitudes, pre, strict=True)])
        if form.soft_cap is not None:
            codes = np.array([form.soft_cap * np.tanh(code / form.soft_cap) for code in codes])
        codes_nf.append(codes)
        decoded = (codes @ tensors["w_dec_fd"] + tensors["b_dec_d"]) * scale + shift
        decoded_nd.append(decoded / form.input_scale + center)
        pre_nf.append(pre)
    shape = (len(acts_nd), form.w_enc_df.shape[1])
    return SimpleNamespace(
        codes_nf=np.array(codes_nf).reshape(shape),
        decoded_nd=np.array(decoded_nd).reshape(tuple(acts_nd.shape)),
        pre_nf=np.array(pre_nf).reshape(shape),
    )


@pytest.fixture(scope="session")
def naive() -> Callable[[torch.Tensor, CommonForm], SimpleNamespace]:
    """`naive(acts_nd, form)`: codes_nf, decoded_nd and pre_nf by the definitions."""
    return _naive


@pytest.fixture(scope="session")
def dense() -> Callable[..., np.ndarray]:
    """`dense(codes, n_rows, n_features)`: sparse codes as an array, after checking their order, types and signs."""

    def build(codes: Any, n_rows: int, n_features: int) -> np.ndarray:
        assert codes.row.dtype == codes.feature.dtype == torch.int32
        assert codes.value.dtype == torch.float32
        assert len(codes.row) == len(codes.feature) == len(codes.value)
        assert (codes.value > 0).all()
        flat = codes.row.long() * n_features + codes.feature
        assert (flat.diff() > 0).all(), "ordered by row, then feature, none twice"
        codes_nf = np.zeros((n_rows, n_features))
        codes_nf[codes.row.numpy(), codes.feature.numpy()] = codes.value.numpy()
        return codes_nf

    return build


def _largest(z_f: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """The k largest entries, others zero, and by how much the k-th is ahead of the next."""
    order = np.argsort(-z_f, kind="stable")
    kept_f = np.zeros_like(z_f)
    kept_f[order[:k]] = z_f[order[:k]]
    return kept_f, float(z_f[order[k - 1]] - z_f[order[k]]) if k < len(z_f) else np.inf


@pytest.fixture(scope="session")
def largest() -> Callable[[np.ndarray, int], tuple[np.ndarray, float]]:
    """`largest(z_f, k)`: the k largest entries, others zero, and the margin."""
    return _largest


@pytest.fixture(scope="session")
def agrees(dense: Callable[..., np.ndarray]) -> Callable[..., None]:
    """`agrees(sae, acts_nd, reference)`: encoding and decoding equal a forward pass written for the test.

    `reference(x_d)` takes one vector in double precision and returns its codes, its reconstruction, and how far the
    nearest pre-activation is from a jump; rows where single precision may land on its other side are left out.
    """

    def compare(sae: Any, acts_nd: torch.Tensor, reference: Callable[..., Any], least: float = 0.8) -> None:
        rows = [reference(x_d) for x_d in acts_nd.double().numpy()]
        clear_n = np.array([margin > 2e-4 for _, _, margin in rows])
        assert clear_n.mean() >= least
        codes = sae.encode(acts_nd)
        n_features = sae.n_features(acts_nd.shape[1])
        codes_nf = np.array([codes_f for codes_f, _, _ in rows])
        decoded_nd = np.array([decoded_d for _, decoded_d, _ in rows])
        found_nf = dense(codes, len(acts_nd), n_features)
        scale = 1 + np.abs(codes_nf).max()
        np.testing.assert_allclose(found_nf[clear_n], codes_nf[clear_n], atol=1e-4 * scale)
        found_nd = sae.decode(codes, len(acts_nd), acts_nd).numpy()
        scale = 1 + np.abs(decoded_nd).max()
        np.testing.assert_allclose(found_nd[clear_n], decoded_nd[clear_n], atol=2e-4 * scale)

    return compare


@pytest.fixture(scope="session")
def refused() -> Callable[..., None]:
    """`refused(load, message)`: it ends in one line of a `ModelError` that has the message in it."""
    from glasshouse.schema.errors import ModelError

    def check(load: Callable[[], Any], message: str) -> None:
        with pytest.raises(ModelError, match=message) as caught:
            load()
        assert "\n" not in str(caught.value)

    return check
