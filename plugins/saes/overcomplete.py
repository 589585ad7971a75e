"""overcomplete's SAEs (KempnerInstitute), as state dicts.

Specs (after `overcomplete:`): FILE, or ORG/NAME/FILE on the hub; then, where the SAE is no plain ReLU one, `#k=K` for
a TopKSAE or `#threshold=T` for a BatchTopKSAE: a state dict does not say it, and neither can be guessed.

encoder.final_block.0.weight [F, D] and .bias, dictionary._weights [F, D], dictionary.multiplier. Nothing is subtracted
and nothing added; the dictionary's rows are divided by their norms (+ 1e-8) and multiplied by exp(multiplier).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import SaeLoader
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.saes.checkpoint import locate, number, require, state_dict, transposed
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.form import CommonForm
from glasshouse.plugins.saes.inert_pickle import load_tensors
from glasshouse.schema.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch

PLACE = "Place the file somewhere and use --sae overcomplete:FILE."
ENCODER = "encoder.final_block.0.weight"
ENCODER_BIAS = "encoder.final_block.0.bias"
DICTIONARY = "dictionary._weights"
MULTIPLIER = "dictionary.multiplier"
THRESHOLDS = "thresholds"
"""Of a JumpSAE: logarithms of its thresholds."""
NORM_EPSILON = 1e-8

HOW_TO_CONVERT = (
    "A whole pickled module cannot be read without running its code. Where overcomplete is installed, type: "
    "torch.save(torch.load(FILE, weights_only=False).state_dict(), NEW_FILE), and use --sae overcomplete:NEW_FILE."
)
RELU_NOTE = (
    "its state dict does not say how codes are made sparse; all positive ones are taken. For a TopKSAE append #k=K to "
    "the spec, for a BatchTopKSAE #threshold=T with its running_threshold"
)


@hookimpl
def register_saes(register: Register[SaeLoader]) -> None:
    """Register `overcomplete:`."""
    summary = "overcomplete's SAEs, a file with a state dict, e.g. overcomplete:sae.pt#k=20"
    register("overcomplete", SaeLoader(load, summary))


def load(name: str, device: str) -> CommonSae:
    """Load the SAE that `name` stands for, see the module's docstring.

    Raises:
        ModelError: the file cannot be had or read, or its tensors do not fit each other.
        UsageError: what follows `#` is none of what there is.
    """
    place, mark, setting = name.partition("#")
    given = _setting(setting) if mark else {}
    path, spec = locate("overcomplete", place, PLACE)
    if not path.is_file():
        raise ModelError(f"{path} is no file; an SAE of overcomplete's is one.")
    return load_path(path, device, spec + mark + setting, given)


def load_path(path: Path, device: str, spec: str, given: Mapping[str, float] | None = None) -> CommonSae:
    """Load one file; `spec` is the name the SAE goes by, `given` is k or threshold.

    Raises:
        ModelError: it is none of overcomplete's, is broken, or its tensors do not fit each other.
    """
    content = load_tensors(path)
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} is no state dict of overcomplete's. {HOW_TO_CONVERT}")
    tensors = state_dict(content, path, "overcomplete")
    require(tensors, (ENCODER, ENCODER_BIAS, DICTIONARY), path, "overcomplete")
    _check_plain(tensors, path)
    form = CommonForm(
        w_enc_df=transposed(tensors, ENCODER, path),
        b_enc_f=tensors[ENCODER_BIAS],
        w_dec_fd=_dictionary(tensors, path),
        b_dec_d=tensors[DICTIONARY].new_zeros(tensors[DICTIONARY].shape[-1:]),
        apply_b_dec_to_input=False,
        **_sparsity(tensors, given or {}, path),
    )
    notes = [] if form.activation != "relu" else [RELU_NOTE]
    return CommonSae(spec, form, device, notes=notes, about={"format": "overcomplete"})


def _setting(text: str) -> dict[str, float]:
    """What follows `#` in a spec."""
    if match := re.fullmatch(r"k=(\d+)", text):
        return {"k": int(match[1])}
    if match := re.fullmatch(r"threshold=(\d+(?:\.\d*)?(?:e[+-]?\d+)?)", text):
        return {"threshold": float(match[1])}
    raise UsageError(f"'#{text}' says nothing about an SAE of overcomplete's. Write #k=K or #threshold=T, e.g. #k=20.")


def _check_plain(tensors: Mapping[str, Any], file: Path) -> None:
    """Refuse encoders of more than one linear layer, and dictionaries that are made of others."""
    known = {ENCODER, ENCODER_BIAS, DICTIONARY, MULTIPLIER, THRESHOLDS}
    more = sorted(set(tensors) - known)
    if more:
        raise ModelError(
            f"{file} has {', '.join(more[:4])}{', …' if len(more) > 4 else ''}: an encoder with norms or several "
            "blocks, or an archetypal dictionary, has no common form. One linear layer and a free dictionary have."
        )


def _dictionary(tensors: Mapping[str, torch.Tensor], file: Path) -> torch.Tensor:
    """Rows of norm exp(multiplier) [F, D]."""
    weights_fd = transposed(tensors, DICTIONARY, file).T.float()
    unit_fd: torch.Tensor = weights_fd / (weights_fd.norm(dim=1, keepdim=True) + NORM_EPSILON)
    if MULTIPLIER not in tensors:
        return unit_fd
    return unit_fd * number(tensors[MULTIPLIER].float().exp(), f"exp({MULTIPLIER})", file)


def _sparsity(tensors: Mapping[str, torch.Tensor], given: Mapping[str, float], file: Path) -> dict[str, Any]:
    """The activation and what it needs. Thresholds include equality there, exceed here: a case of measure zero."""
    if THRESHOLDS in tensors:
        if given:
            raise UsageError(f"{file} has thresholds of its own; leave #{next(iter(given))}=… away.")
        return {"activation": "jumprelu", "threshold_f": tensors[THRESHOLDS].float().exp()}
    if "k" in given:
        return {"activation": "topk", "k": int(given["k"])}
    if "threshold" in given:
        return {"activation": "batchtopk", "threshold_f": tensors[ENCODER_BIAS].new_full((1,), given["threshold"])}
    return {}
