"""`neurons`: no autoencoder at all; every neuron of the hook point is a feature.

value = max(x, 0). Negative parts are dropped: activations are at least zero throughout the warehouse, so that
"more active" means one thing in every space, and behind a ReLU nothing is lost by it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import SaeLoader
from glasshouse.plugins.devices import torch_device
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.saes.sparse import sparse_codes
from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.contracts import SparseCodes

if TYPE_CHECKING:
    import torch


@hookimpl
def register_saes(register: Register[SaeLoader]) -> None:
    """Register `neurons`."""
    register("neurons", SaeLoader(load, "every neuron of the hook point as a feature, without an autoencoder"))


def load(name: str, device: str) -> Neurons:
    """Return `neurons`; it takes no name.

    Raises:
        ModelError: a name was given.
    """
    if name:
        raise ModelError(f"'neurons' takes nothing after it, not ':{name}'. Write --sae neurons.")
    return Neurons(torch_device(device))


class Neurons:
    """The identity with a ReLU, as a `SparseAutoencoder`."""

    spec = "neurons"
    width: int | None = None
    hook: str | None = None
    tokens: str | None = None
    is_lossless = True
    """There is nothing that a self-test could find out: the weights are the encoder's own."""

    def __init__(self, device: str) -> None:
        self.device = device

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the rule itself: there are no weights."""
        return hashlib.sha256(b"neurons: max(x, 0)").hexdigest()

    def n_features(self, width: int) -> int:
        """As many features as the hook point has neurons."""
        return width

    def encode(self, acts_nd: torch.Tensor) -> SparseCodes:
        """The positive entries of [n, D]."""
        acts_nd = acts_nd.detach().float().contiguous()
        return sparse_codes(acts_nd, acts_nd > 0)

    def decode(self, codes: SparseCodes, n_rows: int, acts_nd: torch.Tensor | None = None) -> torch.Tensor:
        """The positive entries put back in place, [n_rows, D]; the rest is zero.

        Args:
            codes: what `encode` returned.
            n_rows: number of rows that were encoded.
            acts_nd: what was encoded; only its width D is used.

        Raises:
            UsageError: without `acts_nd`, since codes alone do not say how wide they were.
        """
        import torch  # late: it takes a second to import

        if acts_nd is None:
            raise UsageError("'neurons' decodes into the width of the activations: pass them as `acts_nd`.")
        out_nd = torch.zeros(n_rows, acts_nd.shape[1])
        out_nd[codes.row.long(), codes.feature.long()] = codes.value
        return out_nd.to(self.device)
