"""The embedded default as a plugin: small trained models of the starter world, which need no hub.

`starter:clip` and `starter:dinov2` are loaded by the same code as any folder of open_clip and transformers, and
`starter:dinoised` is put together of both as any `dinoised:…`; `starter:sae-cls`, `starter:sae-patches` and
`starter:sae-dinoised` are loaded as any SAE in glasshouse's own format. `starter:classifier` and its control
`starter:classifier-clean` are CNNs that tell shapes apart.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import EncoderLoader, Preset, PresetSpace, SaeLoader
from glasshouse.plugins.encoders import dinoised, open_clip, transformers
from glasshouse.plugins.encoders.hooked import HookedEncoder
from glasshouse.plugins.hookspecs import Register
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.schema.errors import unknown_name

ENCODERS = {"clip": open_clip.load_folder, "dinov2": transformers.load_folder}
CLASSIFIERS = ("classifier", "classifier-clean")
DINOISED = "dinoised"
DINOISED_BLOCK = -3
"""Affinities come from the patches that this block of the Dinov2Model puts out: its dense losses were on them."""
_ENCODER_NAMES = (*ENCODERS, DINOISED, *CLASSIFIERS)

SAES = ("sae-cls", "sae-patches", "sae-dinoised")

STARTER = Preset(
    encoder="starter:clip",
    spaces=(
        PresetSpace("cls", "blocks.3.resid_post", "cls", "starter:sae-cls"),
        PresetSpace("patches", "blocks.2.resid_post", "patches", "starter:sae-patches"),
    ),
    summary="the small CLIP that ships with glasshouse, and its SAEs of CLS and of patches",
)


@hookimpl
def register_encoders(register: Register[EncoderLoader]) -> None:
    """Register `starter:` for encoders."""
    names = ", ".join(f"starter:{name}" for name in _ENCODER_NAMES)
    register("starter", EncoderLoader(load_encoder, f"small models that ship with glasshouse: {names}"))


@hookimpl
def register_saes(register: Register[SaeLoader]) -> None:
    """Register `starter:` for SAEs."""
    names = ", ".join(f"starter:{name}" for name in SAES)
    register("starter", SaeLoader(load_sae, f"SAEs of the starter's encoders: {names}"))


@hookimpl
def register_presets(register: Register[Preset]) -> None:
    """Register `starter`."""
    register("starter", STARTER)


def load_encoder(name: str, device: str) -> HookedEncoder:
    """Load `clip` or `dinov2`, `dinoised`, which is both, or `classifier` or `classifier-clean`.

    Raises:
        UsageError: another name.
    """
    if name == DINOISED:
        clip, dino = (load_encoder(part, device) for part in ("clip", "dinov2"))
        return dinoised.with_dino(f"starter:{DINOISED}", clip, dino, by="patches", block=DINOISED_BLOCK)
    if name in CLASSIFIERS:
        from glasshouse.plugins.starter import classifier  # late: it brings torch

        return classifier.load_folder(_data(name), device, f"starter:{name}")
    if name not in ENCODERS:
        raise unknown_name("starter encoder", name, _ENCODER_NAMES)
    return ENCODERS[name](_data(name), device, f"starter:{name}")


def load_sae(name: str, device: str) -> CommonSae:
    """Load `sae-cls` or `sae-patches`, of `starter:clip`, or `sae-dinoised`, of `starter:dinoised`.

    Raises:
        UsageError: another name.
    """
    from glasshouse.plugins.saes import own_format  # late: it brings pydantic

    if name not in SAES:
        raise unknown_name("starter SAE", name, SAES)
    return own_format.load(_data(name), device, f"starter:{name}")


def _data(name: str) -> Path:
    """The folder of one shipped model."""
    return Path(str(files("glasshouse.plugins.starter").joinpath("data", name)))
