"""saev's checkpoints (OSU-NLP-Group): one file, a line of JSON and then a PyTorch state dict.

Specs (after `saev:`): the file; ORG/NAME/FILE on the hub.

W_enc [D, F], b_enc, W_dec [F, D], b_dec; with `activation.threshold` for BatchTopK. Since the header has a `schema`
nothing is subtracted before encoding; the code before that subtracted b_dec.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import SaeLoader
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.saes.checkpoint import check_sizes, count, locate, require, state_dict
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.form import CommonForm
from glasshouse.plugins.saes.inert_pickle import load_state_dict
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch

PLACE = "Place the file somewhere and use --sae saev:FILE."
NEWEST_SCHEMA = 5
MAX_HEADER_BYTES = 1 << 20
THRESHOLD = "activation.threshold"
ACTIVATIONS = ("Relu", "TopK", "BatchTopK")

LEGACY_NOTE = (
    "its header has no schema, so it comes from early code, which subtracted b_dec before encoding and centred and "
    "scaled the activations by numbers that were not saved: believe its codes only when the self-test finds nothing"
)
NEGATIVE_NOTE = (
    "saev's TopK keeps negative values where fewer than k are positive; features have positive values only, so "
    "those are left out"
)
NO_THRESHOLD_NOTE = "it has no threshold, so the {k} largest codes of each vector are taken, as its code of then did"


@hookimpl
def register_saes(register: Register[SaeLoader]) -> None:
    """Register `saev:`."""
    register("saev", SaeLoader(load, "saev's SAEs, a file or on the hub, e.g. saev:sae.pt"))


def load(name: str, device: str) -> CommonSae:
    """Load the SAE that `name` stands for, see the module's docstring.

    Raises:
        ModelError: the file cannot be had or read, or its parts do not fit each other.
    """
    path, spec = locate("saev", name, PLACE)
    return load_path(path, device, spec)


def holds(path: Path) -> bool:
    """Whether a file begins as saev's do: JSON, and PyTorch's zip archive on the next line."""
    if not path.is_file():
        return False
    with path.open("rb") as opened:
        if opened.read(1) != b"{":
            return False
        return opened.readline(MAX_HEADER_BYTES).endswith(b"\n") and opened.read(2) == b"PK"


def load_path(path: Path, device: str, spec: str) -> CommonSae:
    """Load one file; `spec` is the name the SAE goes by.

    Raises:
        ModelError: it is none of saev's, is broken, or its parts do not fit each other.
    """
    if not path.is_file():
        raise ModelError(f"{path} is no file; an SAE of saev's is one, such as sae.pt.")
    with path.open("rb") as opened:
        header = _header(opened, path)
        tensors = state_dict(load_state_dict(io.BytesIO(opened.read()), path), path, "saev")
    require(tensors, ("W_enc", "b_enc", "W_dec", "b_dec"), path, "saev")
    is_legacy = "schema" not in header
    config = header if is_legacy else header["cfg"]
    activation = ("Relu", {}) if is_legacy else _activation(header, config, path)
    form, notes = _form(tensors, *activation, path)
    form.apply_b_dec_to_input = is_legacy
    form.check(str(path))
    _check_sizes(config, form, path)
    kind = "legacy" if is_legacy else f"schema {header['schema']}, {activation[0]}"
    return CommonSae(
        spec, form, device, notes=[LEGACY_NOTE, *notes] if is_legacy else notes, about={"format": f"saev ({kind})"}
    )


def _header(opened: BinaryIO, file: Path) -> dict[str, Any]:
    line = opened.readline(MAX_HEADER_BYTES)
    try:
        header = json.loads(line)
    except ValueError as error:
        raise ModelError(f"{file} does not begin with a line of JSON, so it is no SAE of saev's.") from error
    if not isinstance(header, dict):
        raise ModelError(f"{file}: the first line holds no JSON object, so it is no SAE of saev's.")
    if "schema" not in header:
        if "d_vit" not in header or "exp_factor" not in header:
            raise ModelError(
                f"{file}: the first line has neither schema nor d_vit and exp_factor; it is none of saev's."
            )
        return header
    schema = header["schema"]
    if isinstance(schema, bool) or not isinstance(schema, int) or not 1 <= schema <= NEWEST_SCHEMA:
        raise ModelError(f"{file} has the schema {schema}; 1 to {NEWEST_SCHEMA} are known.")
    if not isinstance(header.get("cfg"), Mapping):
        raise ModelError(f"{file}: the first line has no cfg.")
    return header


def _activation(header: Mapping[str, Any], config: Mapping[str, Any], file: Path) -> tuple[str, Mapping[str, Any]]:
    """Name and parameters of the activation; the first files of schema 1 have them elsewhere."""
    found = config.get("activation")
    if found is None and header["schema"] == 1:
        name = header.get("cls")
        found = {"cls": name if name in ACTIVATIONS else "Relu", "params": config}
    if not isinstance(found, Mapping) or not isinstance(found.get("params", {}), Mapping):
        raise ModelError(f"{file}: the first line has no cfg.activation with cls and params.")
    if found.get("cls") not in ACTIVATIONS:
        raise ModelError(f"{file}: the activation '{found.get('cls')}' is not one of {', '.join(ACTIVATIONS)}.")
    return found["cls"], found.get("params", {})


def _form(
    tensors: Mapping[str, torch.Tensor], activation: str, params: Mapping[str, Any], file: Path
) -> tuple[CommonForm, list[str]]:
    """The common form, and what to know about it."""
    form = CommonForm(tensors["W_enc"], tensors["b_enc"], tensors["W_dec"], tensors["b_dec"])
    if activation == "Relu":
        return form, []
    if activation == "BatchTopK" and THRESHOLD in tensors:
        form.activation, form.threshold_f = "batchtopk", tensors[THRESHOLD].reshape(-1)
        return form, []
    form.activation, form.k = "topk", count(params.get("top_k"), "top_k", file)
    return form, [NEGATIVE_NOTE] if activation == "TopK" else [NO_THRESHOLD_NOTE.format(k=form.k), NEGATIVE_NOTE]


def _check_sizes(config: Mapping[str, Any], form: CommonForm, file: Path) -> None:
    """Compare the header with the tensors; older headers have d_vit and exp_factor for d_model and d_sae."""
    width, n_features = form.w_enc_df.shape
    factor = config.get("exp_factor")
    wide = width * factor if isinstance(factor, int) else None
    said = {"d_model": config.get("d_model", config.get("d_vit")), "d_sae": config.get("d_sae", wide)}
    check_sizes(file, "first line", said, {"d_model": width, "d_sae": n_features})
