"""What an SAE's weights and settings say, without any images; and what of it looks wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from glasshouse.plugins.saes.common import CommonSae
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    import torch

    from glasshouse.warehouse.contracts import SparseAutoencoder

UNEVEN_NORMS = 100.0
"""Longest over shortest decoder row: beyond it, values of different features are hardly on one scale."""


class Spread(NamedTuple):
    """Smallest, middle and largest of some numbers."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class Inspection:
    """An SAE at rest.

    Attributes:
        spec: the name that loads it.
        format: the checkpoint's, e.g. `SAELens (topk)`.
        fingerprint: SHA-256 over tensors and settings.
        width: D.
        n_features: F.
        activation: see `CommonForm`, as are `normalization`, `apply_b_dec_to_input`, `k`, `input_scale`, `soft_cap`.
        is_gated: whether a gate decides which features are active.
        is_centred: whether a data set's mean is subtracted first.
        threshold: of its features, or None.
        prefixes: sizes of a Matryoshka dictionary's nested prefixes, or None.
        hook: hook point that it was trained on, or None where the checkpoint does not say it; so are the next three.
        tokens: token policy.
        encoder: spec of the encoder.
        model: the encoder in the words of the checkpoint.
        decoder_norm: lengths of the decoder's rows, dead ones left out.
        n_dead: features whose decoder row is zero.
        reported: the self-test that the checkpoint reports of itself; empty where there is none.
        notes: what its user should know.
        wrong: what looks wrong, in sentences.
    """

    spec: str
    format: str
    fingerprint: str
    width: int
    n_features: int
    activation: str
    k: int | None
    is_gated: bool
    normalization: str
    apply_b_dec_to_input: bool
    is_centred: bool
    input_scale: float
    soft_cap: float | None
    threshold: Spread | None
    prefixes: tuple[int, ...] | None
    hook: str | None
    tokens: str | None
    encoder: str | None
    model: str | None
    decoder_norm: Spread | None
    n_dead: int
    reported: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        spreads = {name: getattr(self, name) for name in ("threshold", "decoder_norm")}
        return asdict(self) | {name: spread and spread._asdict() for name, spread in spreads.items()}


def in_common_form(sae: SparseAutoencoder) -> CommonSae:
    """An SAE whose tensors can be looked at.

    Raises:
        UsageError: it is none, as `neurons`, or a plugin's own kind.
    """
    if not isinstance(sae, CommonSae):
        raise UsageError(f"'{sae.spec}' has no tensors in the common form; name an SAE, e.g. starter:sae-cls.")
    return sae


def inspect(sae: CommonSae) -> Inspection:
    """Look at an SAE's tensors and settings."""
    form = sae.form
    norm_f = form.w_dec_fd.norm(dim=1)
    alive_f = norm_f > 0
    n_dead = int((~alive_f).sum())
    norms = _spread(norm_f[alive_f])
    return Inspection(
        spec=sae.spec,
        format=sae.about["format"],
        fingerprint=sae.fingerprint,
        width=sae.width,
        n_features=sae.n_features(sae.width),
        activation=form.activation,
        k=form.k,
        is_gated=form.b_gate_f is not None,
        normalization=form.normalization,
        apply_b_dec_to_input=form.apply_b_dec_to_input,
        is_centred=form.center_d is not None,
        input_scale=form.input_scale,
        soft_cap=form.soft_cap,
        threshold=None if form.threshold_f is None else _spread(form.threshold_f),
        prefixes=sae.prefixes,
        hook=sae.hook,
        tokens=sae.tokens,
        encoder=sae.about.get("encoder"),
        model=sae.about.get("model"),
        decoder_norm=norms,
        n_dead=n_dead,
        reported=dict(sae.about.get("self_test") or {}),
        notes=sae.notes,
        wrong=tuple(_faults(norm_f.numel(), n_dead, norms)),
    )


def _spread(values: torch.Tensor) -> Spread | None:
    if values.numel() == 0:
        return None
    values = values.flatten().float()
    return Spread(float(values.min()), float(values.median()), float(values.max()))


def _faults(n_features: int, n_dead: int, norms: Spread | None) -> list[str]:
    """What looks wrong in the weights alone."""
    faults = []
    if n_dead:
        faults.append(f"{n_dead:,} of {n_features:,} features have a decoder row of zeros: they are dead")
    if norms is not None and norms.max > UNEVEN_NORMS * norms.min:
        faults.append(
            f"decoder rows are between {norms.min:.3g} and {norms.max:.3g} long, so the values of different features "
            "are not on one scale"
        )
    return faults
