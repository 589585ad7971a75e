"""Does an SAE fit the activations that it is given? Reconstruct some of them and look.

A wrong normalisation or hook point raises no error and fills a space with nonsense; it shows here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from glasshouse.warehouse.contracts import SparseAutoencoder

# Published SAEs of vision models explain 0.7 to 0.99 of the variance with cosines above 0.9, and an SAE on activations
# of the wrong scale or layer mostly less than none: the bounds lie in the gap, nearer to the bad end.
MIN_EXPLAINED_VARIANCE = 0.5
MIN_COSINE = 0.7
MIN_L0 = 1.0
"""Fewer than one active feature per row: most rows are not represented at all."""
MAX_ACTIVE_SHARE = 0.25
"""More than a quarter of all features: not sparse. Trained ones stay below a few per cent; small ones reach ten."""
MIN_ROWS = 8
"""With fewer rows their own variance is too poor an estimate to judge by."""


@dataclass(frozen=True)
class SelfTest:
    """How well an SAE reconstructs activations. All numbers are finite.

    Attributes:
        explained_variance: 1 − Σ‖x − x̂‖² / Σ‖x − mean‖²; 1 is perfect, below 0 is worse than the mean.
        l0: mean number of active features per row.
        cosine: mean cosine of x and x̂ over rows; 0 for a row where either is zero.
        n_rows: number of rows tested.
        n_not_finite: rows left out because they hold NaN or infinity.
    """

    explained_variance: float
    l0: float
    cosine: float
    n_rows: int
    n_not_finite: int = 0


def self_test(sae: SparseAutoencoder, acts_nd: torch.Tensor) -> SelfTest | None:
    """Encode and decode `acts_nd` [n, D]; None for an SAE without loss, or without a finite row."""
    import torch  # late: it takes a second to import

    if sae.is_lossless:
        return None
    acts_nd = acts_nd.detach().float()
    finite_n = acts_nd.isfinite().all(dim=1)
    acts_nd = acts_nd[finite_n]
    n_rows = acts_nd.shape[0]
    if n_rows == 0:
        return None
    codes = sae.encode(acts_nd)
    # In double precision: the sums run over every entry, and a few are hundreds of times larger than the rest.
    decoded_nd = sae.decode(codes, n_rows, acts_nd).to(acts_nd.device, torch.float64)
    acts_nd = acts_nd.double()
    residual = float((acts_nd - decoded_nd).square().sum())
    total = float((acts_nd - acts_nd.mean(dim=0)).square().sum())
    unexplained = residual / total if total > 0 else float(residual > 0)
    return SelfTest(
        explained_variance=1.0 - unexplained,
        l0=len(codes.value) / n_rows,
        cosine=float(torch.nn.functional.cosine_similarity(acts_nd, decoded_nd, dim=1).mean()),
        n_rows=n_rows,
        n_not_finite=int((~finite_n).sum()),
    )


def complaint(result: SelfTest, n_features: int) -> str | None:
    """Return one sentence when the result looks wrong, None when it does not.

    Args:
        result: what `self_test` found.
        n_features: F of the SAE.
    """
    faults = []
    if result.n_not_finite:
        faults.append(f"{result.n_not_finite} of {result.n_rows + result.n_not_finite} activations are not finite")
    if result.n_rows >= MIN_ROWS and result.explained_variance < MIN_EXPLAINED_VARIANCE:
        faults.append(f"it explains {result.explained_variance:.2f} of the variance (expected at least 0.5)")
    if result.cosine < MIN_COSINE:
        faults.append(f"the cosine with its reconstructions is {result.cosine:.2f} (expected at least 0.7)")
    if result.l0 < MIN_L0:
        faults.append(f"only {result.l0:.2f} features are active per row")
    if result.l0 > MAX_ACTIVE_SHARE * n_features:
        faults.append(f"{result.l0:.0f} of {n_features} features are active per row, so nothing is sparse")
    if not faults:
        return None
    return (
        f"the SAE does not seem to fit these activations: {', '.join(faults)}. Probably its normalisation, the hook "
        "point or the encoder's weights are not those that it was trained on, or the images are of another kind."
    )
