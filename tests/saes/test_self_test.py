"""The self-test: its numbers against plain formulas, and what it complains about."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from glasshouse.plugins.saes import neurons
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.form import CommonForm
from glasshouse.warehouse.extraction.self_test import SelfTest, complaint, self_test

GOOD = SelfTest(explained_variance=0.9, l0=30.0, cosine=0.95, n_rows=100)


def test_numbers_follow_the_formulas(make_form, naive):
    form = make_form(8, 40, normalization="layer_norm")
    acts_nd = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) * 2 + 1
    result = self_test(CommonSae("a", form), acts_nd)
    expected, x = naive(acts_nd, form), acts_nd.double().numpy()
    residual = ((x - expected.decoded_nd) ** 2).sum()
    assert result.explained_variance == pytest.approx(1 - residual / ((x - x.mean(0)) ** 2).sum(), rel=1e-4)
    assert result.l0 == pytest.approx((expected.codes_nf > 0).sum(1).mean())
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(expected.decoded_nd, axis=1)
    assert result.cosine == pytest.approx(((x * expected.decoded_nd).sum(1) / lengths).mean(), rel=1e-4)
    assert result.n_rows == 50


def perfect_sae(width):
    """x = relu(x) − relu(−x)."""
    eye = torch.eye(width)
    return CommonSae(
        "a", CommonForm(torch.cat([eye, -eye], 1), torch.zeros(2 * width), torch.cat([eye, -eye]), torch.zeros(width))
    )


def test_a_perfect_sae_and_the_wrong_normalisation():
    """A dictionary fits vectors it was made for, and is found out on the same vectors at another scale."""
    acts_nd = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    result = self_test(perfect_sae(16), acts_nd)
    assert result == SelfTest(pytest.approx(1.0), pytest.approx(16.0), pytest.approx(1.0), 64)
    form = perfect_sae(16).form
    wrong = CommonSae("a", CommonForm(**{**vars(form), "b_dec_d": torch.full((16,), 5.0)}))
    shifted = self_test(wrong, acts_nd * 0.1)
    assert complaint(shifted, 1000) is None, "still exact: b_dec goes out and comes back"
    not_subtracted = CommonSae("a", CommonForm(**{**vars(wrong.form), "apply_b_dec_to_input": False}))
    words = complaint(self_test(not_subtracted, acts_nd * 0.1), 1000)
    assert words is not None
    assert "variance" in words
    assert "normalisation" in words


def test_neurons_are_not_tested():
    assert self_test(neurons.load("", "cpu"), torch.randn(5, 4)) is None


@pytest.mark.parametrize("rows", [torch.ones(1, 8), torch.ones(20, 8), torch.zeros(20, 8)])
def test_numbers_stay_finite_without_variance(make_form, rows):
    result = self_test(CommonSae("a", make_form(8, 40)), rows)
    text = json.dumps(asdict(result), allow_nan=False)
    assert json.loads(text)["n_rows"] == len(rows)


def test_rows_that_are_not_finite_are_left_out_and_told():
    acts_nd = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    clean = self_test(perfect_sae(8), acts_nd[2:])
    acts_nd[0, 0], acts_nd[1, 3] = float("nan"), float("inf")
    result = self_test(perfect_sae(8), acts_nd)
    assert result.n_not_finite == 2
    assert result.explained_variance == clean.explained_variance
    assert "2 of 20 activations are not finite" in complaint(result, 1000)
    assert self_test(perfect_sae(8), acts_nd[:2]) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"explained_variance": 0.49}, "0.49 of the variance"),
        ({"explained_variance": -3.0}, "-3.00 of the variance"),
        ({"explained_variance": 0.49, "n_rows": 7}, None),
        ({"cosine": 0.69}, "cosine with its reconstructions is 0.69"),
        ({"l0": 0.5}, "only 0.50 features"),
        ({"l0": 251.0}, "251 of 1000 features"),
        ({"l0": 250.0}, None),
    ],
)
def test_what_is_complained_about(change, words):
    said = complaint(SelfTest(**{**asdict(GOOD), **change}), 1000)
    if words is None:
        assert said is None
    else:
        assert words in said
        assert "normalisation, the hook point" in said
        assert "\n" not in said
