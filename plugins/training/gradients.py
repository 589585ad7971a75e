"""Loss and gradients of one batch, through sparse codes instead of dense ones.

The only dense product is x·W_encᵀ: of n·F codes n·k are not zero, so decoding and all gradients are sums over n·k
rows. Written out by hand; a test compares them with what autograd gives for the dense formula.

With x̂_p the reconstruction from the first m_p features, w_p = 1/P, and R_p = (2/n) Σ_{q ≥ p} w_q (x̂_q − x):
    L = Σ_p w_p · mean_n ‖x − x̂_p‖²                       (Bussmann et al. 2025, arXiv 2503.17547, over P)
    ∂L/∂z_{n,f} = R_{p(f)}[n] · W_dec[f]                  where p(f) is the group of f and z_{n,f} is kept
    ∂L/∂W_dec[f] = Σ_n z_{n,f} R_{p(f)}[n],  ∂L/∂W_enc[f] = Σ_n ∂L/∂z_{n,f} (x_n − b_dec)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from glasshouse.plugins.training.selection import Chosen

if TYPE_CHECKING:
    import torch


class Gradients(NamedTuple):
    """Of W_enc [F, D], b_enc [F], W_dec [F, D] and b_dec [D]."""

    w_enc_fd: torch.Tensor
    b_enc_f: torch.Tensor
    w_dec_fd: torch.Tensor
    b_dec_d: torch.Tensor


class Result(NamedTuple):
    """Loss of a batch, its gradients, and what all features together leave unexplained, x − x̂ [n, D]."""

    loss: torch.Tensor
    gradients: Gradients
    residual_nd: torch.Tensor


def decode_groups(
    codes: Chosen, n_rows: int, w_dec_fd: torch.Tensor, group_f: torch.Tensor, n_groups: int
) -> torch.Tensor:
    """Decode the codes of each group of features by itself, [n, P, D], without b_dec."""
    from torch.nn.functional import embedding_bag  # late: torch takes a second to import

    bag = codes.row if n_groups == 1 else codes.row * n_groups + group_f[codes.feature]
    starts = starts_of(bag, n_rows * n_groups)
    parts = embedding_bag(codes.feature, w_dec_fd, starts, mode="sum", per_sample_weights=codes.value)
    return parts.view(n_rows, n_groups, -1)


def loss_and_gradients(
    acts_nd: torch.Tensor,
    centred_nd: torch.Tensor,
    codes: Chosen,
    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    group_f: torch.Tensor,
    n_groups: int,
) -> Result:
    """Loss and gradients of a batch whose kept codes are known.

    Args:
        acts_nd: x.
        centred_nd: x − b_dec.
        codes: what is kept of (x − b_dec)·W_encᵀ + b_enc.
        weights: W_enc [F, D], W_dec [F, D], b_dec [D].
        group_f: the group of each feature, rising.
        n_groups: P.
    """
    import torch  # late: it takes a second to import

    w_enc_fd, w_dec_fd, _ = weights
    n_rows, n_features = len(acts_nd), len(w_dec_fd)
    value = codes.value.detach().requires_grad_()
    with torch.enable_grad():
        parts_npd = decode_groups(codes._replace(value=value), n_rows, w_dec_fd, group_f, n_groups)
    error_npd = parts_npd.detach().clone()
    error_npd[:, 0] -= centred_nd
    for group in range(1, n_groups):
        error_npd[:, group] += error_npd[:, group - 1]
    flat = error_npd.view(-1)
    loss = flat.dot(flat) / (n_rows * n_groups)
    residual_nd = -error_npd[:, -1]
    behind_npd = error_npd.mul_(2 / (n_rows * n_groups))
    for group in range(n_groups - 2, -1, -1):
        behind_npd[:, group] += behind_npd[:, group + 1]
    # One product of two rows for each kept code; autograd of the bag does it without copying the rows.
    (code_gradient,) = torch.autograd.grad(parts_npd, value, behind_npd)
    order = codes.feature.argsort(stable=True)
    feature = codes.feature[order]
    first_f = starts_of(feature, n_features)
    row = codes.row[order]
    source = row if n_groups == 1 else row * n_groups + group_f[feature]
    b_enc_f = code_gradient.new_zeros(n_features).index_add_(0, feature, code_gradient[order])
    gradients = Gradients(
        w_enc_fd=_weighted_rows(centred_nd, row, code_gradient[order], first_f),
        b_enc_f=b_enc_f,
        w_dec_fd=_weighted_rows(behind_npd.flatten(0, 1), source, codes.value[order], first_f),
        b_dec_d=behind_npd[:, 0].sum(0) - b_enc_f @ w_enc_fd,
    )
    return Result(loss, gradients, residual_nd)


def starts_of(bag: torch.Tensor, n_bags: int) -> torch.Tensor:
    """Where each bag starts in a rising list of bag numbers, [n_bags]."""
    import torch  # late: it takes a second to import

    starts = torch.zeros(n_bags + 1, dtype=torch.int64, device=bag.device)
    torch.cumsum(torch.bincount(bag, minlength=n_bags), 0, out=starts[1:])
    return starts[:-1]


def _weighted_rows(
    rows: torch.Tensor, index: torch.Tensor, weight: torch.Tensor, first_f: torch.Tensor
) -> torch.Tensor:
    """For each feature the sum of its rows times their weights, [F, D]."""
    from torch.nn.functional import embedding_bag  # late: torch takes a second to import

    return embedding_bag(index, rows, first_f, mode="sum", per_sample_weights=weight)


def auxiliary_gradients(
    centred_nd: torch.Tensor,
    residual_nd: torch.Tensor,
    pre_nm: torch.Tensor,
    w_dec_md: torch.Tensor,
    k: int,
    weight: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """AuxK (Gao et al. 2024, arXiv 2406.04093, appendix A.2): dead features learn what the living leave over.

    With e = x − x̂ and z the k largest pre-activations of the m dead features of each vector, after ReLU:
    L_aux = α · mean_n ‖e − z·W_dec‖². e is a constant here, and so is b_dec.

    Args:
        centred_nd: x − b_dec, of the rows that take part.
        residual_nd: e of those rows.
        pre_nm: pre-activations of the dead features.
        w_dec_md: their decoder rows.
        k: codes for each vector.
        weight: α.

    Returns:
        L_aux, and the gradients of the dead features' W_enc [m, D], b_enc [m] and W_dec [m, D].
    """
    import torch  # late: it takes a second to import

    top = pre_nm.topk(min(k, pre_nm.shape[1]), dim=1, sorted=False)
    codes_nm = torch.zeros_like(pre_nm).scatter_(1, top.indices, top.values.relu())
    error_nd = codes_nm @ w_dec_md - residual_nd
    loss = weight * error_nd.square().sum() / len(error_nd)
    scaled_nd = error_nd * (2 * weight / len(error_nd))
    code_gradient_nm = (scaled_nd @ w_dec_md.T) * (codes_nm > 0)
    return loss, code_gradient_nm.T @ centred_nd, code_gradient_nm.sum(0), codes_nm.T @ scaled_nd
