"""Spaces whose decoder lies in CLIP's space: those of the hook point `dinoised`, whose activations are CLIP vectors.

There a feature's decoder row is itself a CLIP vector, which texts can be compared with directly, and the codes of a
patch decode to a CLIP vector of the patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.space_models import sae_of
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.contracts import SparseCodes

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView
    from glasshouse.warehouse.contracts import SparseAutoencoder

Floats = npt.NDArray[np.float32]
HOOK = "dinoised"
HOW = (
    "Extract one with `glasshouse extract --encoder SPEC --space NAME --hook dinoised --tokens patches --sae SPEC`; "
    "the encoder is a dinoised:… (docs/models.md) or starter:dinoised."
)


class Decoder(NamedTuple):
    """The affine part of an SAE: a patch is decoded as codes @ vectors + bias.

    Attributes:
        vectors_fe: of each feature, in the units of the activations, float32 [F, E].
        bias_e: float32 [E].
    """

    vectors_fe: Floats
    bias_e: Floats


def is_clip_space(view: AnalysisView) -> bool:
    """Say whether the activations of a space are CLIP vectors."""
    return bool(view.record["hook"] == HOOK and view.record["sae_spec"])


def require_clip_space(view: AnalysisView, name: str) -> None:
    """Refuse a space whose activations are no CLIP vectors.

    Raises:
        UsageError: it is another one; says what to extract.
    """
    if not is_clip_space(view) or view.grid is None:
        raise UsageError(
            f"'{name}' needs a space of patches in CLIP's space, which '{view.space}' is not: it decodes features to "
            f"vectors that texts can be compared with. {HOW}"
        )


def decoder(view: AnalysisView) -> Decoder | None:
    """Return the decoder of a space in CLIP's space; None for other spaces.

    Raises:
        UsageError: the warehouse was opened without plugins.
        ModelError: the SAE cannot be loaded, has other weights now, or normalises each vector by itself.
    """
    return affine_decoder(sae_of(view), view.n_features) if is_clip_space(view) else None


def affine_decoder(sae: SparseAutoencoder, n_features: int) -> Decoder:
    """Return the affine part of an SAE, by decoding each feature alone and nothing at all.

    Raises:
        ModelError: it normalises each vector by itself, so that no such part exists.
    """
    import torch  # late: it takes a second to import

    each = torch.arange(n_features, dtype=torch.int32)
    none = torch.zeros(0, dtype=torch.int32)
    # `neurons` asks how wide the vectors are, and has as many features.
    shape_nd = torch.zeros(n_features, n_features) if sae.width is None else None
    bias_1e = sae.decode(SparseCodes(none, none, none.float()), 1, None if shape_nd is None else shape_nd[:1])
    vectors_fe = sae.decode(SparseCodes(each, each, torch.ones(n_features)), n_features, shape_nd) - bias_1e
    return Decoder(vectors_fe.float().cpu().numpy(), bias_1e[0].float().cpu().numpy())


def decoder_vectors(view: AnalysisView) -> Floats | None:
    """Return each feature's vector in CLIP's space, float32 [F, E], not normalised; None for other spaces."""
    found = decoder(view)
    return None if found is None else found.vectors_fe


def decoder_bias(view: AnalysisView) -> Floats | None:
    """Return what is decoded where no feature is active, float32 [E]; None for other spaces."""
    found = decoder(view)
    return None if found is None else found.bias_e
