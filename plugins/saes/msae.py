"""MSAE's checkpoints (WolodjaZ; Zaigrajew et al. 2025, arXiv:2502.20578), whose file name holds the hyper-parameters.

Specs (after `msae:`): {F}_{D}_{activation}_{tied}_{normalize}_{softcap}_{dataset}.pth; ORG/NAME/FILE on the hub. The
activation is ReLU, TopK_<k>, TopKReLU_<k>, BatchTopKReLU_<k> or JumpReLU_<F>; words between it and {tied} that say
how training weighted its terms (an L1 coefficient, UW, RW) are passed over.

Order: (x − mean_center)·scaling_factor → row layer norm where {normalize} → −pre_bias → @encoder + latent_bias →
activation → c·tanh(z/c) for a soft cap c > 0 → @decoder + pre_bias → undo.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import SaeLoader
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.saes.checkpoint import check_sizes, locate, number, require, state_dict, transposed
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.form import CommonForm
from glasshouse.plugins.saes.inert_pickle import load_tensors
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch

PLACE = "Place the file somewhere, under its own name, and use --sae msae:FILE."
PATTERN = "{F}_{D}_{activation}_{tied}_{normalize}_{softcap}_{dataset}.pth"
LOG_THRESHOLD = "activation.log_threshold"

_NAME = re.compile(
    r"(?P<f>\d+)_(?P<d>\d+)_(?P<activation>[A-Za-z0-9]+)(?P<more>(?:_[^_]+)*?)"
    r"_(?P<tied>True|False)_(?P<normalize>True|False)_(?P<cap>\d+(?:\.\d+)?)_(?P<dataset>.+)\.pth?"
)
ACTIVATIONS = {
    "ReLU": "relu", "TopK": "topk", "TopKReLU": "topk", "BatchTopK": "topk", "BatchTopKReLU": "topk",
    "JumpReLU": "jumprelu",
}  # fmt: skip
NEGATIVE_NOTE = (
    "its activation {name} keeps negative values where fewer than k are positive; features have positive values only, "
    "so those are left out"
)
BATCH_NOTE = "{name} stores no threshold, so the {k} largest codes of each vector are taken instead of a batch's"
TOPK_NOTE = "the k largest codes are kept; MSAE's own evaluations take all positive ones of such a model"


@dataclass(frozen=True)
class NamedSettings:
    """What a file's name says."""

    n_features: int
    width: int
    activation: str
    k: int | None
    is_tied: bool
    is_normalised: bool
    soft_cap: float


@hookimpl
def register_saes(register: Register[SaeLoader]) -> None:
    """Register `msae:`."""
    register("msae", SaeLoader(load, "MSAE's SAEs, a file under its own name, e.g. msae:8192_512_ReLU_…_cc3m.pth"))


def load(name: str, device: str) -> CommonSae:
    """Load the SAE that `name` stands for, see the module's docstring.

    Raises:
        ModelError: the file cannot be had or read, or does not fit its name.
    """
    path, spec = locate("msae", name, PLACE)
    return load_path(path, device, spec)


def holds(path: Path) -> bool:
    """Whether a file is named as MSAE names its own."""
    return path.is_file() and _NAME.fullmatch(path.name) is not None


def load_path(path: Path, device: str, spec: str) -> CommonSae:
    """Load one file; `spec` is the name the SAE goes by.

    Raises:
        ModelError: it is none of MSAE's, is broken, or does not fit its name.
    """
    named = read_name(path)
    content = load_tensors(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise ModelError(f"{path} holds no dictionary with a model, so it is no SAE of MSAE's.")
    tensors = state_dict(content["model"], path, "MSAE")
    require(tensors, ("encoder", "pre_bias", "latent_bias", *([] if named.is_tied else ["decoder"])), path, "MSAE")
    missing = [name for name in ("mean_center", "scaling_factor") if name not in content]
    if missing:
        raise ModelError(f"{path} lacks {', '.join(missing)}, so it does not say how its input was prepared.")
    form = _form(tensors, content, named, path)
    form.check(str(path))
    width, n_features = form.w_enc_df.shape
    check_sizes(path, "name", {"D": named.width, "F": named.n_features}, {"D": width, "F": n_features})
    return CommonSae(spec, form, device, notes=_notes(named), about={"format": f"MSAE ({named.activation})"})


def read_name(path: Path) -> NamedSettings:
    """Take a file's name apart.

    Raises:
        ModelError: it is named otherwise, or has an activation without a common form.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ModelError(
            f"{path}: the name does not read {PATTERN}, and it is the only place where MSAE's hyper-parameters are."
        )
    activation, more = match["activation"], match["more"].lstrip("_").split("_")
    if activation not in ACTIVATIONS:
        raise ModelError(f"{path}: the activation '{activation}' is not one of {', '.join(ACTIVATIONS)}.")
    k = None
    if ACTIVATIONS[activation] == "topk":
        if not more[0].isdecimal() or int(more[0]) < 1:
            raise ModelError(f"{path}: {activation} is not followed by k, as in {activation}_64.")
        k = int(more[0])
    return NamedSettings(
        n_features=int(match["f"]),
        width=int(match["d"]),
        activation=activation,
        k=k,
        is_tied=match["tied"] == "True",
        is_normalised=match["normalize"] == "True",
        soft_cap=float(match["cap"]),
    )


def _form(
    tensors: Mapping[str, torch.Tensor], content: Mapping[str, Any], named: NamedSettings, file: Path
) -> CommonForm:
    activation = ACTIVATIONS[named.activation]
    if activation == "jumprelu":
        require(tensors, (LOG_THRESHOLD,), file, "MSAE with JumpReLU")
    return CommonForm(
        w_enc_df=tensors["encoder"],
        b_enc_f=tensors["latent_bias"],
        w_dec_fd=transposed(tensors, "encoder", file) if named.is_tied else tensors["decoder"],
        b_dec_d=tensors["pre_bias"],
        activation=activation,  # type: ignore[arg-type]  # the table has no others
        normalization="layer_norm" if named.is_normalised else "none",
        k=named.k,
        input_scale=number(content["scaling_factor"], "scaling_factor", file),
        soft_cap=named.soft_cap or None,
        threshold_f=tensors[LOG_THRESHOLD].float().exp() if activation == "jumprelu" else None,
        center_d=_center(content["mean_center"], named.width, file),
    )


def _center(value: Any, width: int, file: Path) -> torch.Tensor:
    """The data set's mean [D]; files of data that were not centred hold one zero."""
    import torch  # late: it takes a second to import

    if isinstance(value, torch.Tensor) and value.numel() != 1:
        return value.reshape(-1)
    return torch.full((width,), number(value, "mean_center", file))


def _notes(named: NamedSettings) -> list[str]:
    if ACTIVATIONS[named.activation] != "topk":
        return []
    notes = [BATCH_NOTE.format(name=named.activation, k=named.k) if "Batch" in named.activation else TOPK_NOTE]
    return notes if named.activation.endswith("ReLU") else [*notes, NEGATIVE_NOTE.format(name=named.activation)]
