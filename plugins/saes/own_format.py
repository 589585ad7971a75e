"""glasshouse's own SAE format: one safetensors file that describes itself. Reads and writes it.

Tensors: W_enc [D, F], b_enc [F], W_dec [F, D], b_dec [D]; `threshold` [F] or [1] where the activation needs one;
b_gate, r_mag, b_mag [F] for a gated SAE; `center` [D] where a mean is subtracted first. Half precision is welcome on
disk; float32 is what runs.
The description is JSON under the metadata key `glasshouse_sae`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.form import Activation, CommonForm, Normalization
from glasshouse.schema.errors import ModelError

FILE_NAME = "sae.safetensors"
METADATA_KEY = "glasshouse_sae"

TENSOR_NAMES = {
    "W_enc": "w_enc_df", "b_enc": "b_enc_f", "W_dec": "w_dec_fd", "b_dec": "b_dec_d", "threshold": "threshold_f",
    "b_gate": "b_gate_f", "r_mag": "r_mag_f", "b_mag": "b_mag_f", "center": "center_d",
}  # fmt: skip
"""Names on disk and the attributes of `CommonForm` that they become."""

REQUIRED_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")


class SaeDescription(BaseModel):
    """What the file says of itself. Keys that are not known here are kept and ignored.

    Attributes:
        format: version of this layout. 2 is needed for what 1 could not say: `center`, `input_scale`, `soft_cap`, and
            None for hook, tokens or encoder; readers that know only 1 refuse it instead of computing nonsense.
        activation: see `CommonForm`.
        k: for `topk`.
        apply_b_dec_to_input: see `CommonForm`.
        normalization: see `CommonForm`.
        input_scale: see `CommonForm`.
        soft_cap: see `CommonForm`.
        prefixes: sizes of a Matryoshka dictionary's nested prefixes, rising, the last one F.
        hook: hook point that it was trained on; None where it is not known.
        tokens: token policy that it was trained on, or None.
        encoder: spec of the encoder that it was trained on, or None.
        encoder_weights_sha256: SHA-256 of that encoder's weights file.
        training: data, seed and settings, free of form.
        self_test: how it did on held-out data, free of form.
        notes: sentences about what its user should know.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    format: Literal[1, 2]
    activation: Activation
    k: int | None = None
    apply_b_dec_to_input: bool
    normalization: Normalization
    input_scale: float = 1.0
    soft_cap: float | None = None
    prefixes: list[int] | None = None
    hook: str | None
    tokens: str | None
    encoder: str | None
    encoder_weights_sha256: str | None = None
    training: dict[str, Any] = {}
    self_test: dict[str, Any] = {}
    notes: list[str] = []

    @property
    def needs_format_2(self) -> bool:
        """Whether a reader of format 1 would misread it; a tensor `center` is another reason."""
        unknown = None in (self.hook, self.tokens, self.encoder)
        return unknown or self.input_scale != 1.0 or self.soft_cap is not None


def load(path: Path, device: str, spec: str) -> CommonSae:
    """Load a file in this format, or the folder that holds `sae.safetensors`.

    Args:
        path: the file or folder.
        device: `cpu` or `cuda`.
        spec: the name that the SAE goes by.

    Raises:
        ModelError: no such file, or what is wrong with it.
    """
    file = path / FILE_NAME if path.is_dir() else path
    description, tensors = read(file)
    form = CommonForm(
        **{TENSOR_NAMES[name]: tensor for name, tensor in tensors.items() if name in TENSOR_NAMES},
        activation=description.activation,
        apply_b_dec_to_input=description.apply_b_dec_to_input,
        normalization=description.normalization,
        k=description.k,
        input_scale=description.input_scale,
        soft_cap=description.soft_cap,
    )
    form.check(str(file))
    _check_prefixes(description.prefixes, form.w_enc_df.shape[1], file)
    return CommonSae(
        spec,
        form,
        device,
        prefixes=description.prefixes,
        hook=description.hook,
        tokens=description.tokens,
        notes=description.notes,
        about={
            **description.model_dump(include={"encoder", "encoder_weights_sha256", "training", "self_test"}),
            "format": "glasshouse",
        },
    )


def read(file: Path) -> tuple[SaeDescription, dict[str, Any]]:
    """Read the description and the tensors, as they are on disk.

    Raises:
        ModelError: no such file, no safetensors file, no description in it, or tensors are missing.
    """
    from safetensors import SafetensorError, safe_open  # late: it imports torch

    if not file.is_file():
        raise ModelError(f"There is no SAE file {file}.")
    try:
        with safe_open(str(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is no safetensors file: {error}.") from error
    if METADATA_KEY not in metadata:
        raise ModelError(
            f"{file} is a safetensors file without the metadata '{METADATA_KEY}', so it does not say how to use its "
            "tensors. `glasshouse.plugins.saes.own_format.write` writes files that do; docs/models.md has the layout."
        )
    missing = [name for name in REQUIRED_TENSORS if name not in tensors]
    if missing:
        raise ModelError(f"{file} lacks the tensors {', '.join(missing)}; it has {', '.join(sorted(tensors))}.")
    description = _description(metadata[METADATA_KEY], file)
    _check_format(description, tensors, file)
    return description, tensors


def write(file: Path, tensors: Mapping[str, Any], description: SaeDescription | Mapping[str, Any]) -> None:
    """Write `tensors` (by their names on disk) and their description to `file`.

    Raises:
        ModelError: the description or the tensors do not fit, so the file could not be loaded.
        OSError: it cannot be written.
    """
    import safetensors.torch  # late: it takes a second to import

    if not isinstance(description, SaeDescription):
        description = _description(json.dumps(dict(description)), file)
    unknown = sorted(set(tensors) - set(TENSOR_NAMES))
    missing = [name for name in REQUIRED_TENSORS if name not in tensors]
    if unknown or missing:
        raise ModelError(
            f"{file}: the tensors of an SAE are {', '.join(TENSOR_NAMES)}; "
            f"missing: {', '.join(missing) or 'none'}, unknown: {', '.join(unknown) or 'none'}."
        )
    _check_format(description, tensors, file)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # As bytes: the library's own file would be readable for its owner alone, and a full disk its own kind of error.
    file.write_bytes(safetensors.torch.save(contiguous, {METADATA_KEY: description.model_dump_json()}))


def _description(text: str, file: Path) -> SaeDescription:
    try:
        return SaeDescription.model_validate_json(text)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'JSON'}: {e['msg']}" for e in error.errors())
        raise ModelError(f"{file}: the description '{METADATA_KEY}' is not usable: {wrong}.") from error


def _check_format(description: SaeDescription, tensors: Mapping[str, Any], file: Path) -> None:
    if description.format == 1 and (description.needs_format_2 or "center" in tensors):
        raise ModelError(
            f"{file}: the tensor 'center', input_scale, soft_cap, and null for hook, tokens or encoder need "
            'the description to say "format": 2.'
        )


def _check_prefixes(prefixes: list[int] | None, n_features: int, file: Path) -> None:
    if prefixes is None:
        return
    if not prefixes or prefixes != sorted(set(prefixes)) or prefixes[0] < 1 or prefixes[-1] != n_features:
        raise ModelError(f"{file}: prefixes {prefixes} must rise and end with the number of features, {n_features}.")
