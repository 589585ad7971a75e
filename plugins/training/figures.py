"""What a dictionary does on held-out activations: explained variance, also of each prefix, L0, cosine, dead share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.sparse import keep, sparse_product

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Figures:
    """Of an SAE on n held-out vectors.

    Attributes:
        explained_variance: 1 − Σ‖x − x̂‖² / Σ‖x − mean‖².
        l0: mean number of active features of a vector.
        cosine: mean cosine of x and x̂; 0 where either is zero.
        dead_share: share of the features that are active on none of these vectors.
        prefixes: explained variance with the first m features alone, by m; empty where there is one prefix.
        n_rows: n.
    """

    explained_variance: float
    l0: float
    cosine: float
    dead_share: float
    prefixes: dict[str, float]
    n_rows: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def figures_of(sae: CommonSae, acts_nd: torch.Tensor) -> Figures:
    """Encode once, decode with every prefix. In double precision, as the self-test of an extraction."""
    import torch  # late: it takes a second to import

    n_rows, form = len(acts_nd), sae.form
    n_features = sae.n_features(sae.width)
    codes = sae.encode(acts_nd)
    wanted_nd = acts_nd.to(form.w_dec_fd.device, torch.float64)
    total = float((wanted_nd - wanted_nd.mean(0)).square().sum())
    explained: dict[int, float] = {}
    cosine = 0.0
    for size in sae.prefixes or (n_features,):
        part = codes if size == n_features else keep(codes, codes.feature < size)
        decoded_nd = (sparse_product(part, n_rows, form.w_dec_fd) + form.b_dec_d).double()
        residual = float((wanted_nd - decoded_nd).square().sum())
        explained[size] = 1.0 - (residual / total if total > 0 else float(residual > 0))
        if size == n_features:
            cosine = float(torch.nn.functional.cosine_similarity(wanted_nd, decoded_nd, dim=1).mean())
    n_active = int((codes.feature.bincount(minlength=n_features) > 0).sum())
    return Figures(
        explained_variance=explained[n_features],
        l0=len(codes.value) / n_rows,
        cosine=cosine,
        dead_share=1.0 - n_active / n_features,
        prefixes={str(size): value for size, value in explained.items()} if len(explained) > 1 else {},
        n_rows=n_rows,
    )
