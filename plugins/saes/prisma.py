"""Prisma's SAE checkpoints (ViT-Prisma; organisation Prisma-Multimodal on the hub), and the preset of seven of them.

Specs (after `prisma:`): ORG/NAME or ORG/NAME/FILE on the hub; a folder with config.json and weights.pt or
n_images_<N>.pt, or such a file in it. Without FILE the checkpoint after the most images is taken.

A `.pt` is {"cfg": a pickled object, "state_dict": …} or a bare state dict; the configuration is read from config.json
and the object is never built. Order: normalise → −b_dec → @W_enc + b_enc → activation → @W_dec + b_dec → undo.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import Preset, PresetSpace, SaeLoader
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.hub import hub_errors
from glasshouse.plugins.saes.checkpoint import read_json
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.form import CommonForm
from glasshouse.plugins.saes.inert_pickle import load_tensors
from glasshouse.schema.errors import ModelError
from glasshouse.warehouse.contracts import TokenPolicy

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.pt"
PLACE = (
    f"Without a hub, place {CONFIG_FILE} and {WEIGHTS_FILE} (or n_images_<N>.pt) of that repository in a folder and "
    "use --sae prisma:FOLDER."
)
REQUIRED_KEYS = ("d_in", "activation_fn_str", "normalize_activations", "hook_point_layer", "layer_subtype")

_TENSOR_NAMES = {
    "W_enc": "w_enc_df", "b_enc": "b_enc_f", "W_dec": "w_dec_fd", "b_dec": "b_dec_d",
    "b_gate": "b_gate_f", "r_mag": "r_mag_f", "b_mag": "b_mag_f",
}  # fmt: skip
_ORGANISATION = "Prisma-Multimodal"
_VANILLA = f"prisma:{_ORGANISATION}/sparse-autoencoder-clip-b-32-sae-vanilla-x64-layer-"
_SPATIAL = f"prisma:{_ORGANISATION}/imagenet-sweep-vanilla-x64-Spatial_max_"
_AFTER_TRAINING = "n_images_2600058.pt"


def _space(layer: int, tokens: TokenPolicy, sae: str) -> PresetSpace:
    return PresetSpace(f"l{layer}-{tokens}", f"blocks.{layer}.resid_post", tokens, sae)


PRISMA_CLIP_B32 = Preset(
    encoder="open_clip:ViT-B-32/datacomp_xl_s13b_b90k",
    spaces=(
        _space(7, "cls", f"{_VANILLA}7-hook_resid_post-l1-0.0001/{_AFTER_TRAINING}"),
        _space(8, "cls", f"{_VANILLA}8-hook_resid_post-l1-1e-05/{_AFTER_TRAINING}"),
        _space(11, "cls", f"{_VANILLA}11-hook_resid_post-l1-8e-05/{_AFTER_TRAINING}"),
        _space(7, "patches", f"{_SPATIAL}7-hook_resid_post-984.1376953125-99/{WEIGHTS_FILE}"),
        _space(8, "patches", f"{_SPATIAL}8-hook_resid_post-965.125-99/{WEIGHTS_FILE}"),
        _space(9, "patches", f"{_SPATIAL}9-hook_resid_post-854.891540527344-99/{WEIGHTS_FILE}"),
        _space(11, "patches", f"{_SPATIAL}11-hook_resid_post-829.0498046875-99/{WEIGHTS_FILE}"),
    ),
    summary="CLIP ViT-B-32 (DataComp) with Prisma's seven published SAEs of 49,152 features",
)


@hookimpl
def register_saes(register: Register[SaeLoader]) -> None:
    """Register `prisma:`."""
    register("prisma", SaeLoader(load, "Prisma's SAEs, on the hub or in a folder, e.g. prisma:ORG/NAME"))


@hookimpl
def register_presets(register: Register[Preset]) -> None:
    """Register `prisma-clip-b32`."""
    register("prisma-clip-b32", PRISMA_CLIP_B32)


def load(name: str, device: str) -> CommonSae:
    """Load the SAE that `name` stands for, see the module's docstring.

    Raises:
        ModelError: its files cannot be had or read, or do not fit each other.
    """
    path = Path(name).expanduser()
    if name and path.exists():
        return load_path(path.resolve(), device, f"prisma:{path.resolve()}")
    parts = name.split("/")
    if name.startswith((".", "/", "~")) or len(parts) not in (2, 3) or not all(parts):
        raise ModelError(f"There is no folder {name}, and a name on the hub reads ORG/NAME or ORG/NAME/FILE. {PLACE}")
    return load_path(_download(f"{parts[0]}/{parts[1]}", *parts[2:]), device, f"prisma:{name}")


def load_path(path: Path, device: str, spec: str) -> CommonSae:
    """Load a folder in Prisma's layout, or one weights file in it; `spec` is the name the SAE goes by.

    Raises:
        ModelError: files are missing or broken, or do not fit each other.
    """
    folder, weights = (path, _newest(path)) if path.is_dir() else (path.parent, path)
    config = _config(folder / CONFIG_FILE)
    form = _form(_state_dict(weights), config, weights)
    subtype = str(config["layer_subtype"]).removeprefix("hook_")
    tokens = "cls" if config.get("cls_token_only") else "patches" if config.get("use_patches_only") else None
    hook = f"blocks.{config['hook_point_layer']}.{subtype}"
    about = {"format": "Prisma", "model": config.get("model_name")}
    return CommonSae(spec, form, device, hook=hook, tokens=tokens, about=about)


def weight_files(folder: Path) -> list[Path]:
    """Weights files in a folder of Prisma's layout, the one to prefer first; empty where there are none."""
    if not folder.is_dir():
        return []
    numbered = {
        file: int(match[1])
        for file in folder.glob("n_images_*.pt")
        if (match := re.fullmatch(r"n_images_(\d+)\.pt", file.name))
    }
    last = [folder / WEIGHTS_FILE] if (folder / WEIGHTS_FILE).is_file() else []
    return sorted(numbered, key=lambda file: numbered[file], reverse=True) + last


def _newest(folder: Path) -> Path:
    found = weight_files(folder)
    if not found:
        raise ModelError(f"{folder} has no {WEIGHTS_FILE} and no n_images_<N>.pt, so it is no SAE of Prisma's.")
    return found[0]


def _download(repository: str, file: str | None = None) -> Path:
    """Fetch the configuration and one weights file from the hub; the path of the weights in the local cache."""
    from huggingface_hub import hf_hub_download, list_repo_files  # late: an eighth of a second

    with hub_errors(f"prisma:{repository}", PLACE):
        hf_hub_download(repository, CONFIG_FILE)
        if file is None:
            file = _preferred(list_repo_files(repository), repository)
        return Path(hf_hub_download(repository, file))


def _preferred(names: list[str], repository: str) -> str:
    """The checkpoint after the most images, else weights.pt."""
    numbered = [(int(match[1]), name) for name in names if (match := re.fullmatch(r"n_images_(\d+)\.pt", name))]
    if numbered:
        return max(numbered)[1]
    if WEIGHTS_FILE in names:
        return WEIGHTS_FILE
    raise ModelError(f"prisma:{repository} has no {WEIGHTS_FILE} and no n_images_<N>.pt; it has {', '.join(names)}.")


def _config(file: Path) -> dict[str, Any]:
    config = read_json(file, "Prisma's")
    missing = [key for key in REQUIRED_KEYS if key not in config]
    if missing:
        raise ModelError(f"{file} lacks {', '.join(missing)}, so it is no configuration of Prisma's.")
    if config.get("is_transcoder"):
        raise ModelError(f"{file} describes a transcoder, which writes to another layer than it reads; use an SAE.")
    return config


def _state_dict(file: Path) -> dict[str, Any]:
    """Tensors by Prisma's names, out of either layout of a `.pt`."""
    import torch  # late: it takes a second to import

    content = load_tensors(file)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ModelError(f"{file} holds no state dict, so it is no SAE of Prisma's.")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if "b_gate" in tensors and "b_enc" not in tensors and "W_enc" in tensors:
        tensors["b_enc"] = torch.zeros(tensors["W_enc"].shape[-1])  # a gated SAE has other biases in its place
    missing = [name for name in ("W_enc", "b_enc", "W_dec", "b_dec") if name not in tensors]
    if missing:
        raise ModelError(
            f"{file} lacks the tensors {', '.join(missing)}, so it is no SAE of Prisma's; "
            f"it has {', '.join(sorted(tensors)) or 'none'}."
        )
    return tensors


def _form(tensors: dict[str, Any], config: Mapping[str, Any], file: Path) -> CommonForm:
    """The common form of a checkpoint and its configuration."""
    k = (config.get("activation_fn_kwargs") or {}).get("k")
    form = CommonForm(
        **{_TENSOR_NAMES[name]: tensor for name, tensor in tensors.items() if name in _TENSOR_NAMES},
        activation=config["activation_fn_str"],
        normalization=config["normalize_activations"] or "none",
        k=k if config["activation_fn_str"] == "topk" else None,
        apply_b_dec_to_input=True,
    )
    form.check(str(file))
    width, n_features = form.w_enc_df.shape
    said, factor = config["d_in"], config.get("expansion_factor")
    if said != width or (isinstance(factor, int) and factor * width != n_features):
        raise ModelError(
            f"{file} is {width} wide with {n_features} features, but its {CONFIG_FILE} says d_in {said} and "
            f"expansion_factor {factor}: they belong to different SAEs."
        )
    if config.get("architecture") == "gated" and form.b_gate_f is None:
        raise ModelError(f"{file}: the configuration says gated, but b_gate, r_mag and b_mag are not there.")
    return form
