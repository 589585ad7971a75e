"""The common form that every SAE format is brought to: its tensors and settings, and whether they fit each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch

Activation = Literal["relu", "tanh-relu", "topk", "jumprelu", "batchtopk"]
Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)


@dataclass
class CommonForm:
    """Tensors and settings of a sparse autoencoder, float32.

    Attributes:
        w_enc_df: encoder [D, F].
        b_enc_f: encoder bias [F]; not used by a gated SAE.
        w_dec_fd: decoder [F, D].
        b_dec_d: decoder bias [D].
        activation: `relu`; `tanh-relu`, tanh(relu(z)); `topk`, the k largest of a row, then ReLU; `jumprelu`, z where
            z > threshold; `batchtopk`, which at inference is the same with one threshold.
        apply_b_dec_to_input: b_dec is subtracted before encoding.
        normalization: of each vector x. `layer_norm`: (x − mean)/(σ + 1e-5), σ with D − 1 in the denominator;
            `constant_norm_rescale`: x·√D/‖x‖.
        k: for `topk`.
        input_scale: every vector is multiplied by it, after `center_d` and before the normalisation.
        soft_cap: c, if there is one: what the activation gives, z, becomes c·tanh(z/c).
        threshold_f: for `jumprelu` and `batchtopk`, [F] or [1].
        b_gate_f: gated SAEs (Rajamanoharan et al. 2024, arXiv:2404.16014): a feature is active where
            x@W_enc + b_gate > 0, and its value is relu(x@W_enc·exp(r_mag) + b_mag).
        r_mag_f: see there.
        b_mag_f: see there.
        center_d: [D], a data set's mean: subtracted from every vector before all else, added to it after all else.
    """

    w_enc_df: torch.Tensor
    b_enc_f: torch.Tensor
    w_dec_fd: torch.Tensor
    b_dec_d: torch.Tensor
    activation: Activation = "relu"
    apply_b_dec_to_input: bool = True
    normalization: Normalization = "none"
    k: int | None = None
    input_scale: float = 1.0
    soft_cap: float | None = None
    threshold_f: torch.Tensor | None = None
    b_gate_f: torch.Tensor | None = None
    r_mag_f: torch.Tensor | None = None
    b_mag_f: torch.Tensor | None = None
    center_d: torch.Tensor | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor there is, by attribute name."""
        import torch  # late: it takes a second to import

        present = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in present.items() if isinstance(value, torch.Tensor)}

    def settings(self) -> dict[str, Any]:
        """What changes the meaning of the tensors, for a fingerprint.

        What came later is there only where it is used, so that the fingerprints of older spaces stay as they are.
        """
        settings: dict[str, Any] = {
            "activation": self.activation,
            "apply_b_dec_to_input": self.apply_b_dec_to_input,
            "normalization": self.normalization,
            "k": self.k,
        }
        if self.input_scale != 1.0:
            settings["input_scale"] = self.input_scale
        if self.soft_cap is not None:
            settings["soft_cap"] = self.soft_cap
        return settings

    def check(self, where: str) -> None:
        """Check shapes, numbers and settings against each other.

        Raises:
            ModelError: what does not fit, with `where` at the start of the message.
        """
        _check_shapes(self, where)
        _check_numbers(self, where)
        _check_settings(self, where)


def _check_shapes(form: CommonForm, where: str) -> None:
    if form.w_enc_df.ndim != 2:
        raise ModelError(f"{where}: W_enc has shape {list(form.w_enc_df.shape)}, not [D, F].")
    width, n_features = form.w_enc_df.shape
    expected = {"b_enc_f": (n_features,), "w_dec_fd": (n_features, width), "b_dec_d": (width,), "center_d": (width,)}
    expected |= dict.fromkeys(("b_gate_f", "r_mag_f", "b_mag_f"), (n_features,))
    for name, tensor in form.tensors().items():
        if name in expected and tuple(tensor.shape) != expected[name]:
            raise ModelError(
                f"{where}: {name.rsplit('_', 1)[0]} has shape {list(tensor.shape)} where W_enc {[width, n_features]} "
                f"asks for {list(expected[name])}. These tensors do not belong together."
            )
    if form.threshold_f is not None and tuple(form.threshold_f.shape) not in ((), (1,), (n_features,)):
        raise ModelError(f"{where}: threshold has shape {list(form.threshold_f.shape)}, not [{n_features}] or [1].")


def _check_numbers(form: CommonForm, where: str) -> None:
    for name, tensor in form.tensors().items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{where}: {name.rsplit('_', 1)[0]} holds NaN or infinity; the checkpoint is broken.")
    if not (math.isfinite(form.input_scale) and form.input_scale > 0):
        raise ModelError(f"{where}: the scale of the input is {form.input_scale}, not a positive number.")
    if form.soft_cap is not None and not (math.isfinite(form.soft_cap) and form.soft_cap > 0):
        raise ModelError(f"{where}: the soft cap is {form.soft_cap}, not a positive number.")


def _check_settings(form: CommonForm, where: str) -> None:
    n_features = form.w_enc_df.shape[1]
    if form.activation not in ACTIVATIONS:
        raise ModelError(f"{where}: the activation '{form.activation}' is not one of {', '.join(ACTIVATIONS)}.")
    if form.normalization not in NORMALIZATIONS:
        raise ModelError(
            f"{where}: the normalisation '{form.normalization}' is not one of {', '.join(NORMALIZATIONS)}."
        )
    if form.normalization == "layer_norm" and form.w_enc_df.shape[0] < 2:
        raise ModelError(f"{where}: layer_norm needs vectors of at least two entries.")
    if form.activation == "topk" and not (isinstance(form.k, int) and 1 <= form.k <= n_features):
        raise ModelError(f"{where}: topk needs k between 1 and {n_features}, not {form.k}.")
    if form.activation in ("jumprelu", "batchtopk") and form.threshold_f is None:
        raise ModelError(f"{where}: {form.activation} needs the tensor 'threshold'.")
    gate = [form.b_gate_f, form.r_mag_f, form.b_mag_f]
    n_gate = sum(tensor is not None for tensor in gate)
    if n_gate not in (0, len(gate)):
        raise ModelError(f"{where}: a gated SAE has all of b_gate, r_mag and b_mag; {n_gate} of them are there.")
    if n_gate and form.activation not in ("relu", "tanh-relu"):
        raise ModelError(f"{where}: a gated SAE has the activation relu or tanh-relu, not {form.activation}.")
