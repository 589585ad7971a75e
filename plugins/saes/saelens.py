"""SAELens' checkpoints: cfg.json and sae_weights.safetensors, in both generations of the configuration.

Specs (after `saelens:`): a folder; ORG/NAME or ORG/NAME/FOLDER on the hub.

Before 6.0 the configuration is flat (activation_fn_str, hook_point or hook_name); from 6.0 on it names an
architecture, and what it was trained on lies under `metadata`. Order: normalise → −b_dec (apply_b_dec_to_input) →
@W_enc + b_enc → activation → @W_dec + b_dec → undo. What is applied beside the tensors is folded into them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import SaeLoader
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.saes.checkpoint import (
    check_sizes,
    count,
    hook_of,
    locate,
    number,
    read_json,
    read_safetensors,
    require,
)
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.folding import fold_decoder_norm, fold_input_scale
from glasshouse.plugins.saes.form import CommonForm
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
SCALER_FILE = "activation_scaler.json"
PLACE = f"Place {CONFIG_FILE} and {WEIGHTS_FILE} in a folder and use --sae saelens:FOLDER."

ARCHITECTURES = {
    "standard": "relu",
    "jumprelu": "jumprelu",
    "gated": "relu",
    "topk": "topk",
    "batchtopk": "batchtopk",
    "matryoshka_batchtopk": "batchtopk",
}
"""Architectures and the activation of each; the last two are those of unfinished trainings, finished ones are
saved as `jumprelu`."""

NORMALIZATIONS = {
    None: "none", False: "none", "none": "none", "layer_norm": "layer_norm",
    "constant_norm_rescale": "constant_norm_rescale", True: "expected_average_only_in",
    "expected_average_only_in": "expected_average_only_in",
}  # fmt: skip


@hookimpl
def register_saes(register: Register[SaeLoader]) -> None:
    """Register `saelens:`."""
    register("saelens", SaeLoader(load, "SAELens' SAEs, in a folder or on the hub, e.g. saelens:FOLDER"))


def load(name: str, device: str) -> CommonSae:
    """Load the SAE that `name` stands for, see the module's docstring.

    Raises:
        ModelError: its files cannot be had or read, or do not fit each other.
    """
    path, spec = locate("saelens", name, PLACE, (CONFIG_FILE, WEIGHTS_FILE))
    return load_path(path, device, spec)


def holds(path: Path) -> bool:
    """Whether a folder, or a file in one, looks like SAELens'."""
    folder = path.parent if path.name == WEIGHTS_FILE else path
    return (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file()


def load_path(path: Path, device: str, spec: str) -> CommonSae:
    """Load a folder in SAELens' layout, or the weights in it; `spec` is the name the SAE goes by.

    Raises:
        ModelError: files are missing or broken, or do not fit each other.
    """
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / CONFIG_FILE, "SAELens'")
    file = folder / WEIGHTS_FILE
    tensors = read_safetensors(file)
    form = _form(config, tensors, folder)
    metadata = _metadata(config)
    hook = hook_of(metadata.get("hook_name") or metadata.get("hook_point"))
    about = {"format": f"SAELens ({_architecture(config, folder)})", "model": metadata.get("model_name")}
    return CommonSae(spec, form, device, hook=hook, about=about)


def _metadata(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where the configuration says what the SAE was trained on."""
    for key in ("metadata", "meta"):
        if isinstance(config.get(key), Mapping):
            found: Mapping[str, Any] = config[key]
            return found
    return config


def _form(config: Mapping[str, Any], tensors: dict[str, torch.Tensor], folder: Path) -> CommonForm:
    """The common form of a configuration and its tensors, with every outer factor folded in."""
    file, config_file = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    activation = _activation(config, config_file)
    gated = _architecture(config, folder) == "gated"
    biases = ["b_gate", "r_mag", "b_mag"] if gated else ["b_enc"]
    require(tensors, ["W_enc", "W_dec", "b_dec", *biases, *_thresholds(activation, config)], file, "SAELens")
    _check_reshape(config, config_file)
    normalization = _normalization(config, config_file)
    form = CommonForm(
        w_enc_df=tensors["W_enc"],
        b_enc_f=tensors["W_enc"].new_zeros(tensors["W_enc"].shape[-1:]) if gated else tensors["b_enc"],
        w_dec_fd=tensors["W_dec"],
        b_dec_d=tensors["b_dec"],
        activation=activation,  # type: ignore[arg-type]  # check() sees to it
        apply_b_dec_to_input=bool(config.get("apply_b_dec_to_input", True)),
        normalization="none" if normalization == "expected_average_only_in" else normalization,  # type: ignore[arg-type]
        k=_k(config, config_file) if activation == "topk" else None,
        threshold_f=next((tensors[name].float() for name in _thresholds(activation, config)), None),
        b_gate_f=tensors["b_gate"] if gated else None,
        r_mag_f=tensors["r_mag"] if gated else None,
        b_mag_f=tensors["b_mag"] if gated else None,
    )
    form.check(str(file))
    width, n_features = form.w_enc_df.shape
    said = {"d_in": config.get("d_in"), "d_sae": config.get("d_sae")}
    check_sizes(file, CONFIG_FILE, said, {"d_in": width, "d_sae": n_features})
    return _folded(form, config, tensors, normalization, folder)


def _folded(
    form: CommonForm, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], normalization: str, folder: Path
) -> CommonForm:
    form = replace(form, w_enc_df=form.w_enc_df.float(), w_dec_fd=form.w_dec_fd.float(), b_dec_d=form.b_dec_d.float())
    if config.get("finetuning_scaling_factor"):
        # Codes are multiplied by it on their way to the decoder only.
        require(tensors, ["finetuning_scaling_factor"], folder / WEIGHTS_FILE, "SAELens with finetuning_scaling_factor")
        form = replace(form, w_dec_fd=form.w_dec_fd * tensors["finetuning_scaling_factor"].float()[:, None])
    if normalization == "expected_average_only_in":
        form = fold_input_scale(form, _input_scale(config, folder))
    if config.get("rescale_acts_by_decoder_norm") and form.activation in ("topk", "batchtopk"):
        form = fold_decoder_norm(form)
    return form


def _architecture(config: Mapping[str, Any], folder: Path) -> str:
    name = config.get("architecture", "standard")
    if name not in tuple(ARCHITECTURES):
        raise ModelError(
            f"{folder / CONFIG_FILE}: the architecture '{name}' is not one of {', '.join(ARCHITECTURES)}; "
            "transcoders and others do not reconstruct what they read, or not with one dictionary."
        )
    return str(name)


def _activation(config: Mapping[str, Any], file: Path) -> str:
    """The activation, from the architecture and, before 6.0, from the function's name."""
    architecture = _architecture(config, file.parent)
    named = config.get("activation_fn_str") or config.get("activation_fn") or "relu"
    if architecture in ("standard", "gated") and named != "relu":
        return str(named)  # tanh-relu, or topk; what else there is, the form's check refuses
    if architecture == "jumprelu" and named != "relu":
        raise ModelError(f"{file}: jumprelu with the activation '{named}' beneath it is not known, only with relu.")
    return ARCHITECTURES[architecture]


def _thresholds(activation: str, config: Mapping[str, Any]) -> list[str]:
    """The names of the threshold tensors that an activation needs."""
    return {"jumprelu": ["threshold"], "batchtopk": ["topk_threshold"]}.get(activation, [])


def _k(config: Mapping[str, Any], file: Path) -> int:
    older = config.get("activation_fn_kwargs")
    k = config.get("k", older.get("k") if isinstance(older, Mapping) else None)
    if k is None:
        raise ModelError(f"{file} says topk, but neither k nor activation_fn_kwargs.k.")
    return count(k, "k", file)


def _normalization(config: Mapping[str, Any], file: Path) -> str:
    said = config.get("normalize_activations")
    if isinstance(said, list | dict) or said not in NORMALIZATIONS:
        known = ", ".join(key for key in NORMALIZATIONS if isinstance(key, str))
        raise ModelError(f"{file}: normalize_activations '{said}' is not one of {known}.")
    return NORMALIZATIONS[said]


def _check_reshape(config: Mapping[str, Any], file: Path) -> None:
    hook = _metadata(config).get("hook_name") or _metadata(config).get("hook_point") or ""
    if config.get("reshape_activations", "none") not in ("none", None) or str(hook).endswith("_z"):
        raise ModelError(f"{file}: it reads attention heads (hook_z), which no hook point of glasshouse gives.")


def _input_scale(config: Mapping[str, Any], folder: Path) -> float:
    """The factor s = √D / mean norm of the activations, which `expected_average_only_in` multiplies the input with."""
    scaler = folder / SCALER_FILE
    if "norm_scaling_factor" in config:
        value, file = config["norm_scaling_factor"], folder / CONFIG_FILE
    elif scaler.is_file():
        value, file = read_json(scaler, "SAELens'").get("scaling_factor"), scaler
    else:
        raise ModelError(
            f"{folder / CONFIG_FILE}: the input is multiplied by √D / mean norm of the activations "
            '(expected_average_only_in), but the number is not there. Add it to the file as "norm_scaling_factor".'
        )
    scale = number(value, "the scaling factor", file)
    if scale <= 0:
        raise ModelError(f"{file}: the scaling factor is {scale:g}, not positive.")
    return scale
