"""Selection, loss and gradients against the dense formulas, by sorting everything and by autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glasshouse.plugins.training.gradients import auxiliary_gradients, loss_and_gradients
from glasshouse.plugins.training.selection import BatchTop, Chosen, row_top

N, D, F, K = 24, 7, 30, 3


def dense(chosen: Chosen, shape: tuple[int, int]) -> torch.Tensor:
    codes_nf = torch.zeros(shape)
    codes_nf[chosen.row, chosen.feature] = chosen.value
    return codes_nf


def naive_batch_top(pre_nf: torch.Tensor, n_kept: int) -> torch.Tensor:
    """The largest of the whole batch by sorting all of it, ties with the last and nothing below zero."""
    kth = pre_nf.flatten().sort(descending=True).values[n_kept - 1]
    return torch.where(pre_nf >= kth, pre_nf, 0).relu()


@pytest.mark.parametrize("seed", range(8))
def test_the_largest_of_a_batch(seed: int) -> None:
    """Also from a bar that is far too high or too low, as after a jump, and where few values are above zero."""
    torch.manual_seed(seed)
    select = BatchTop()
    for shift, scale in ((0.0, 1.0), (0.0, 1.3), (0.0, 0.01), (50.0, 1.0), (-2.5, 1.0), (-90.0, 1.0), (0.0, 1.0)):
        pre_nf = torch.randn(N, F) * scale + shift
        chosen = select(pre_nf, N * K)
        assert torch.equal(dense(chosen, (N, F)), naive_batch_top(pre_nf, N * K)), (shift, scale)
        flat = chosen.row * F + chosen.feature
        assert torch.equal(flat, flat.sort().values)


def test_ties_of_a_batch_are_all_kept_and_zeros_are_not() -> None:
    pre_nf = torch.tensor([[9.0, 8.0, 7.0, 0.0], [1.0, 2.0, 0.0, 3.0], [3.0, 0.0, 0.0, 0.0]])
    assert dense(BatchTop()(pre_nf, 4), (3, 4)).tolist() == [[9.0, 8.0, 7.0, 0], [0, 0, 0, 3.0], [3.0, 0, 0, 0]]
    assert len(BatchTop()(pre_nf, 12).value) == 7


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_of_each_row(seed: int) -> None:
    torch.manual_seed(seed)
    pre_nf = torch.randn(N, F) - 1.5
    chosen = row_top(pre_nf, K)
    expected_nf = torch.zeros(N, F)
    for row in range(N):
        for feature in sorted(range(F), key=lambda f: -float(pre_nf[row, f]))[:K]:
            expected_nf[row, feature] = max(0.0, float(pre_nf[row, feature]))
    assert torch.equal(dense(chosen, (N, F)), expected_nf)
    assert (expected_nf > 0).sum() < N * K


def parts(seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((N, D), (F, D), (F,), (F, D), (D,))
    return tuple(torch.randn(shape, generator=generator).double() for shape in shapes)


@pytest.mark.parametrize("sizes", [(F,), (5, 12, F), (1, 2, 3, F)])
@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_gradients_are_those_of_the_dense_formula(sizes: tuple[int, ...], kind: str) -> None:
    acts_nd, w_enc_fd, b_enc_f, w_dec_fd, b_dec_d = parts(0)
    centred_nd = acts_nd - b_dec_d
    pre_nf = centred_nd @ w_enc_fd.T + b_enc_f
    chosen = row_top(pre_nf, K) if kind == "topk" else BatchTop()(pre_nf, N * K)
    group_f = torch.tensor([sum(f >= size for size in sizes) for f in range(F)])
    weights = (w_enc_fd, w_dec_fd, b_dec_d)
    found = loss_and_gradients(acts_nd, centred_nd, chosen, weights, group_f, len(sizes))

    leaves = [tensor.clone().requires_grad_() for tensor in (w_enc_fd, b_enc_f, w_dec_fd, b_dec_d)]
    w_enc, b_enc, w_dec, b_dec = leaves
    kept_nf = dense(Chosen(chosen.row, chosen.feature, torch.ones(len(chosen.row))), (N, F)).double()
    codes_nf = torch.relu((acts_nd - b_dec) @ w_enc.T + b_enc) * kept_nf
    loss: Any = 0
    for size in sizes:
        decoded_nd = codes_nf[:, :size] @ w_dec[:size] + b_dec
        loss = loss + (acts_nd - decoded_nd).square().sum(1).mean() / len(sizes)
    loss.backward()
    assert float(found.loss) == pytest.approx(float(loss.detach()), rel=1e-12)
    assert torch.allclose(found.residual_nd, (acts_nd - decoded_nd).detach(), atol=1e-12)
    for name, gradient, leaf in zip(found.gradients._fields, found.gradients, leaves, strict=True):
        assert leaf.grad is not None
        assert torch.allclose(gradient, leaf.grad, atol=1e-12), name
        assert leaf.grad.abs().max() > 0.01


def test_auxiliary_gradients_are_those_of_the_dense_formula() -> None:
    acts_nd, w_enc_fd, b_enc_f, w_dec_fd, _ = parts(1)
    residual_nd = torch.randn(N, D, generator=torch.Generator().manual_seed(2)).double()
    leaves = [tensor.clone().requires_grad_() for tensor in (w_enc_fd, b_enc_f, w_dec_fd)]
    pre_nm = acts_nd @ leaves[0].T + leaves[1]
    codes_nm = torch.zeros(N, F).double()
    for row in range(N):
        for feature in sorted(range(F), key=lambda f: -float(pre_nm[row, f].detach()))[:4]:
            codes_nm[row, feature] = pre_nm[row, feature].relu()
    loss = 0.25 * (residual_nd - codes_nm @ leaves[2]).square().sum(1).mean()
    loss.backward()
    found, *gradients = auxiliary_gradients(acts_nd, residual_nd, pre_nm.detach(), w_dec_fd, 4, 0.25)
    assert float(found) == pytest.approx(float(loss.detach()), rel=1e-12)
    for gradient, leaf in zip(gradients, leaves, strict=True):
        assert leaf.grad is not None and torch.allclose(gradient, leaf.grad, atol=1e-12)
