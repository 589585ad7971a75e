"""The encoder and the SAE of a space, as they were when it was extracted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView
    from glasshouse.warehouse.contracts import Encoder, SparseAutoencoder


def sae_of(view: AnalysisView, device: str = "cpu") -> SparseAutoencoder:
    """Load the SAE of a space.

    Raises:
        UsageError: the warehouse was opened without plugins.
        ModelError: it cannot be loaded, or has other weights than when the space was extracted.
    """
    sae = view.warehouse.load_sae(view.record["sae_spec"], device)
    _check_same(view, sae, view.record["sae_fingerprint"])
    return sae


def encoder_of(view: AnalysisView, device: str = "cpu") -> Encoder:
    """Load the encoder of a space; the warehouse keeps it.

    Raises:
        UsageError: the warehouse was opened without plugins.
        ModelError: it cannot be loaded, or has other weights than when the space was extracted.
    """
    encoder = view.warehouse.kept_encoder(view.record["encoder_spec"], device)
    _check_same(view, encoder, view.record["encoder_fingerprint"])
    return encoder


def _check_same(view: AnalysisView, model: Encoder | SparseAutoencoder, fingerprint: str) -> None:
    if model.fingerprint != fingerprint:
        drawn = " Does its function draw weights at random? Then seed it." if model.spec.startswith("python:") else ""
        raise ModelError(
            f"{model.spec} has other weights than when the space '{view.space}' was extracted.{drawn} Put the old ones "
            f"back, or run `glasshouse drop space {view.space}` and extract it again."
        )
