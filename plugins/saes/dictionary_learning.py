"""Checkpoints of dictionary_learning (and of sae-for-vlm): `trainer_i/config.json` and `ae.pt`, in seven classes.

Specs (after `dictionary_learning:`): the folder; a file `ae.pt` or `checkpoints/ae_<step>.pt` in it; ORG/NAME or
ORG/NAME/FOLDER on the hub. The configuration's `trainer.dict_class` says which class it is. An interrupted run's
`ae.pt` holds an SAE of activations divided by `norm_factor`; it is folded, as the end of the run would have done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import SaeLoader
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.saes.checkpoint import (
    check_sizes,
    count,
    locate,
    number,
    read_json,
    require,
    state_dict,
    transposed,
)
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.folding import fold_decoder_norm, fold_norm_factor
from glasshouse.plugins.saes.form import CommonForm
from glasshouse.plugins.saes.inert_pickle import load_tensors
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "ae.pt"
WHOSE = "dictionary_learning"
PLACE = f"Place {CONFIG_FILE} and {WEIGHTS_FILE} in a folder and use --sae dictionary_learning:FOLDER."

Tensors = Mapping[str, "torch.Tensor"]


class Dictionary(NamedTuple):
    """A class of dictionary_learning: the tensors that it must have, and the common form of them."""

    tensors: tuple[str, ...]
    form: Callable[[Tensors, Mapping[str, Any], Path], CommonForm]


def _linear(tensors: Tensors, file: Path, b_dec: str, **settings: Any) -> CommonForm:
    """The classes whose matrices are torch.nn.Linear: encoder.weight [F, D], decoder.weight [D, F]."""
    w_enc_df = transposed(tensors, "encoder.weight", file)
    return CommonForm(
        w_enc_df=w_enc_df,
        b_enc_f=tensors.get("encoder.bias", w_enc_df.new_zeros(w_enc_df.shape[1])),
        w_dec_fd=transposed(tensors, "decoder.weight", file),
        b_dec_d=tensors[b_dec],
        **settings,
    )


def _autoencoder(tensors: Tensors, trainer: Mapping[str, Any], file: Path) -> CommonForm:
    """`AutoEncoder`: −bias, ReLU. Its loader divides decoder columns by their norms, the encoder makes up for it."""
    form = _linear(tensors, file, "bias")
    form.check(str(file))
    return fold_decoder_norm(form)


def _autoencoder_new(tensors: Tensors, trainer: Mapping[str, Any], file: Path) -> CommonForm:
    """`AutoEncoderNew`: nothing subtracted, ReLU; the April 2024 update of Anthropic."""
    return _linear(tensors, file, "decoder.bias", apply_b_dec_to_input=False)


def _topk(tensors: Tensors, trainer: Mapping[str, Any], file: Path) -> CommonForm:
    """`AutoEncoderTopK` (Gao et al. 2024, arXiv:2406.04093): −b_dec, ReLU, the k largest."""
    return _linear(tensors, file, "b_dec", activation="topk", k=_k(tensors, trainer, file))


def _batch_topk(tensors: Tensors, trainer: Mapping[str, Any], file: Path) -> CommonForm:
    """`BatchTopKSAE` (Bussmann et al. 2024, arXiv:2412.06410): −b_dec, ReLU, those above one threshold."""
    return _linear(tensors, file, "b_dec", **_by_threshold(tensors, trainer, file))


def _matryoshka(tensors: Tensors, trainer: Mapping[str, Any], file: Path) -> CommonForm:
    """`MatryoshkaBatchTopKSAE` (Bussmann et al. 2025, arXiv:2503.17547): as BatchTopK, with nested groups."""
    return _named(tensors, **_by_threshold(tensors, trainer, file))


def _jump_relu(tensors: Tensors, trainer: Mapping[str, Any], file: Path) -> CommonForm:
    """`JumpReluAutoEncoder` (Rajamanoharan et al. 2024, arXiv:2407.14435): z where z > threshold."""
    return _named(tensors, activation="jumprelu", threshold_f=tensors["threshold"], apply_b_dec_to_input=False)


def _gated(tensors: Tensors, trainer: Mapping[str, Any], file: Path) -> CommonForm:
    """`GatedAutoEncoder` (Rajamanoharan et al. 2024, arXiv:2404.16014): −decoder_bias, gate and magnitude."""
    gate = {"b_gate_f": tensors["gate_bias"], "r_mag_f": tensors["r_mag"], "b_mag_f": tensors["mag_bias"]}
    return _linear(tensors, file, "decoder_bias", **gate)


def _named(tensors: Tensors, **settings: Any) -> CommonForm:
    """The classes whose matrices are W_enc [D, F] and W_dec [F, D]."""
    return CommonForm(tensors["W_enc"], tensors["b_enc"], tensors["W_dec"], tensors["b_dec"], **settings)


_LINEAR = ("encoder.weight", "encoder.bias", "decoder.weight")
_NAMED = ("W_enc", "b_enc", "W_dec", "b_dec")
CLASSES = {
    "AutoEncoder": Dictionary(("bias", *_LINEAR), _autoencoder),
    "AutoEncoderNew": Dictionary((*_LINEAR, "decoder.bias"), _autoencoder_new),
    "AutoEncoderTopK": Dictionary((*_LINEAR, "b_dec"), _topk),
    "BatchTopKSAE": Dictionary((*_LINEAR, "b_dec"), _batch_topk),
    "MatryoshkaBatchTopKSAE": Dictionary((*_NAMED, "group_sizes"), _matryoshka),
    "MatroyshkaBatchTopKSAE": Dictionary((*_NAMED, "group_sizes"), _matryoshka),  # an older spelling
    "JumpReluAutoEncoder": Dictionary((*_NAMED, "threshold"), _jump_relu),
    "GatedAutoEncoder": Dictionary(
        ("decoder_bias", "encoder.weight", "decoder.weight", "r_mag", "gate_bias", "mag_bias"), _gated
    ),
}


@hookimpl
def register_saes(register: Register[SaeLoader]) -> None:
    """Register `dictionary_learning:`."""
    summary = "dictionary_learning's SAEs, in a folder or on the hub, e.g. dictionary_learning:FOLDER"
    register("dictionary_learning", SaeLoader(load, summary))


def load(name: str, device: str) -> CommonSae:
    """Load the SAE that `name` stands for, see the module's docstring.

    Raises:
        ModelError: its files cannot be had or read, or do not fit each other.
    """
    path, spec = locate(WHOSE, name, PLACE, (CONFIG_FILE, WEIGHTS_FILE))
    return load_path(path, device, spec)


def holds(path: Path) -> bool:
    """Whether a folder, or a file `ae.pt` or `ae_<step>.pt`, looks like dictionary_learning's."""
    if path.is_dir():
        return (path / CONFIG_FILE).is_file() and (path / WEIGHTS_FILE).is_file()
    return path.suffix == ".pt" and path.stem.split("_")[0] == "ae" and _config_file(path).is_file()


def load_path(path: Path, device: str, spec: str) -> CommonSae:
    """Load a folder, or a file in it; `spec` is the name the SAE goes by.

    Raises:
        ModelError: files are missing or broken, or do not fit each other.
    """
    file = path / WEIGHTS_FILE if path.is_dir() else path
    trainer = _trainer(_config_file(file))
    name = trainer["dict_class"]
    tensors, factor, notes = _tensors(file)
    require(tensors, CLASSES[name].tensors, file, f"{WHOSE}'s class {name}")
    form = CLASSES[name].form(tensors, trainer, file)
    form.check(str(file))
    width, n_features = form.w_enc_df.shape
    said = {"activation_dim": trainer.get("activation_dim"), "dict_size": trainer.get("dict_size")}
    check_sizes(file, CONFIG_FILE, said, {"activation_dim": width, "dict_size": n_features})
    if form.activation == "topk" and name != "AutoEncoderTopK":
        notes.append(
            f"its threshold was never set, so the {form.k} largest codes of each vector are taken, which is not what "
            f"a {name} is trained for"
        )
    return CommonSae(
        spec,
        fold_norm_factor(form, factor) if factor != 1.0 else form,
        device,
        prefixes=_prefixes(tensors, n_features, file),
        hook=_hook(trainer),
        notes=notes,
        about={"format": f"{WHOSE} ({name})", "model": trainer.get("lm_name")},
    )


def _config_file(file: Path) -> Path:
    """The configuration beside the weights, or above a folder `checkpoints`."""
    return (file.parent.parent if file.parent.name == "checkpoints" else file.parent) / CONFIG_FILE


def _trainer(file: Path) -> Mapping[str, Any]:
    trainer = read_json(file, f"{WHOSE}'s").get("trainer")
    if not isinstance(trainer, Mapping) or "dict_class" not in trainer:
        raise ModelError(f"{file} lacks trainer.dict_class, so it is no configuration of {WHOSE}.")
    if trainer["dict_class"] not in tuple(CLASSES):
        raise ModelError(f"{file}: the class '{trainer['dict_class']}' is not one of {', '.join(CLASSES)}.")
    return trainer


def _tensors(file: Path) -> tuple[dict[str, torch.Tensor], float, list[str]]:
    """The state dict, the factor that an interrupted run did not fold in yet, and what to know about it."""
    content = load_tensors(file)
    if not isinstance(content, Mapping) or not isinstance(content.get("ae"), Mapping):
        return state_dict(content, file, WHOSE), 1.0, []
    if "norm_factor" not in content:
        raise ModelError(
            f"{file} is of an interrupted run and does not say norm_factor, by which its activations were divided. "
            "Finish the run, or take one of the files in its folder 'checkpoints'."
        )
    factor = content["norm_factor"]
    factor = 1.0 if factor is None else number(factor, "norm_factor", file)
    if factor <= 0:
        raise ModelError(f"{file}: norm_factor is {factor:g}, not positive.")
    note = f"it is of a run that was interrupted at step {content.get('step', '?')}; norm_factor was folded in"
    return state_dict(content["ae"], file, WHOSE), factor, [note]


def _k(tensors: Tensors, trainer: Mapping[str, Any], file: Path) -> int:
    """The number k from the checkpoint; from the configuration for older ones, which have none."""
    if "k" not in tensors:
        if "k" not in trainer:
            raise ModelError(f"{file} has no k, and neither has its {CONFIG_FILE}.")
        return count(trainer["k"], "k", _config_file(file))
    k = count(tensors["k"], "k", file)
    check_sizes(file, CONFIG_FILE, {"k": trainer.get("k")}, {"k": k})
    return k


def _by_threshold(tensors: Tensors, trainer: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """BatchTopK's threshold; −1 means that it was never set, and then only k is left."""
    threshold = number(tensors["threshold"], "threshold", file) if "threshold" in tensors else -1.0
    if threshold < 0:
        return {"activation": "topk", "k": _k(tensors, trainer, file)}
    return {"activation": "batchtopk", "threshold_f": tensors["threshold"].reshape(1)}


def _prefixes(tensors: Tensors, n_features: int, file: Path) -> list[int] | None:
    if "group_sizes" not in tensors:
        return None
    sizes = [int(size) for size in tensors["group_sizes"].reshape(-1)]
    if not sizes or min(sizes) < 1 or sum(sizes) != n_features:
        raise ModelError(f"{file}: group_sizes {sizes} must be positive and add up to {n_features} features.")
    return [sum(sizes[: i + 1]) for i in range(len(sizes))]


def _hook(trainer: Mapping[str, Any]) -> str | None:
    """The hook point, where the configuration names the output of a block; other modules' names stay theirs."""
    layer, name = trainer.get("layer"), trainer.get("submodule_name")
    if isinstance(layer, int) and name in (f"resid_post_layer_{layer}", f"blocks.{layer}"):
        return f"blocks.{layer}.resid_post"
    return None
