"""Patch features in CLIP's space, pooled over patches that belong together: the encoder of CFM, after CLIP-DINOiser.

Specs (after `dinoised:`): a CLIP of open_clip, then `#` and options with commas between them:
    open_clip:ViT-B-16/openai#affinity=hf:facebook/dino-vitb16,size=448
    open_clip:ViT-B-16/laion2b_s34b_b88k#checkpoint=last.pt,size=448

    affinity=SPEC     affinities from a DINO, DINOv2 or other ViT (hf:…, timm:…, or a folder)
    by=keys           from the keys of a block (the default), or from the patches that it puts out
    block=-1          which block, counted from the end; the last when it is not given
    checkpoint=FILE   affinities from the convolution in a checkpoint of CLIP-DINOiser
    size=448          side of the images in pixels; the CLIP's own when it is not given

The only hook point is `dinoised`: a token for each patch, no CLS, as wide as the CLIP's embedding. The image embedding
is the CLIP's at that size of images: its own where the size is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import EncoderLoader, Preset, PresetSpace
from glasshouse.plugins.encoders import local, open_clip, timm, transformers
from glasshouse.plugins.encoders.affinities import THRESHOLD, By, DinoGuide, LearnedGuide, pooled
from glasshouse.plugins.encoders.hooked import HookedEncoder, Tower
from glasshouse.plugins.encoders.maskclip import MaskClip
from glasshouse.plugins.encoders.tapping import Tap
from glasshouse.plugins.hookspecs import Register
from glasshouse.schema.errors import ModelError, UsageError, unknown_name

if TYPE_CHECKING:
    import torch
    from torch import nn

HOOK = "dinoised"
EXAMPLE = "dinoised:open_clip:ViT-B-16/openai#affinity=hf:facebook/dino-vitb16,size=448"
LOADERS: Mapping[str, Callable[[str, str], HookedEncoder]] = {
    "open_clip": open_clip.load,
    "hf": transformers.load,
    "timm": timm.load,
}
CFM_FOLDER = "./cfm"
CFM = Preset(
    encoder=f"dinoised:open_clip:ViT-B-16/laion2b_s34b_b88k#checkpoint={CFM_FOLDER}/last.pt,size=448",
    spaces=(PresetSpace("cfm", HOOK, "patches", f"dictionary_learning:{CFM_FOLDER}/sae"),),
    summary=f"CFM: CLIP-DINOiser ViT-B/16 at 448 pixels and its published SAE, from files in the folder {CFM_FOLDER}",
)
"""The authors publish both checkpoints as downloads, not on the hub."""

CHECKPOINT_PLACE = (
    "The preset cfm reads CLIP-DINOiser's last.pt, and the published SAE as sae/config.json and sae/ae.pt, in the "
    f"folder {CFM_FOLDER} of where it is run."
)
KNOWN = ("affinity", "block", "by", "checkpoint", "size")


class Guide(Protocol):
    """What says which patches belong together: `DinoGuide` or `LearnedGuide`."""

    model: Any
    description: dict[str, Any]

    def watching(self, batch_bchw: torch.Tensor) -> AbstractContextManager[Callable[[], torch.Tensor]]:
        """Watch a pass over preprocessed images; give what returns their guides [b, patches, C]."""


class DinoisedEncoder(HookedEncoder):
    """Reads patch features that lie beside the CLIP's pass: nothing of its embedding depends on them."""

    def forward_edited(
        self, batch_bchw: torch.Tensor, hook: str, edit: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Refuse: an edit would change nothing.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"{self.spec}: its image embedding is the CLIP's and depends on no '{HOOK}' patch, so an edit there would "
            "change nothing. Edit at a hook point of the CLIP itself, e.g. with a space of its blocks.<i>.resid_post."
        )


@dataclass(frozen=True)
class Options:
    """What follows the `#` of a spec: one of `affinity` and `checkpoint`, and how they are meant."""

    affinity: str | None = None
    checkpoint: str | None = None
    by: By = "keys"
    block: int = -1
    size: int | None = None


@hookimpl
def register_encoders(register: Register[EncoderLoader]) -> None:
    """Register `dinoised:`."""
    register(HOOK, EncoderLoader(load, f"patches in CLIP's space, pooled by affinities, e.g. {EXAMPLE}"))


@hookimpl
def register_presets(register: Register[Preset]) -> None:
    """Register `cfm`."""
    register("cfm", CFM)


def load(name: str, device: str) -> HookedEncoder:
    """Load the encoder that `name` stands for, see the module's docstring.

    Raises:
        UsageError: an option that does not exist, is missing or has no such value.
        ModelError: a model or a checkpoint that cannot be had, or that does not fit.
    """
    clip_spec, _, rest = name.partition("#")
    options = options_of(rest, f"dinoised:{name}")
    file = Path(options.checkpoint or "").expanduser().resolve()
    if options.checkpoint is not None and not file.is_file():  # said before a CLIP is fetched
        is_preset = file == Path(CFM_FOLDER, "last.pt").resolve()
        advice = CHECKPOINT_PLACE if is_preset else "checkpoint= is the path of a file of CLIP-DINOiser, e.g. last.pt."
        raise ModelError(f"There is no checkpoint {file}. {advice}")
    clip = _load_part(clip_spec, device)
    end = "" if options.size is None else f",size={options.size}"
    if options.affinity is None:
        return with_checkpoint(f"dinoised:{clip.spec}#checkpoint={file}{end}", clip, file, options.size)
    guide = _load_part(options.affinity, device)
    by = "" if options.by == "keys" else f",by={options.by}"
    block = "" if options.block == -1 else f",block={options.block}"
    said = f"dinoised:{clip.spec}#affinity={guide.spec}{by}{block}{end}"
    return with_dino(said, clip, guide, options.size, by=options.by, block=options.block)


def with_dino(
    spec: str, clip: HookedEncoder, dino: HookedEncoder, size: int | None = None, *, by: By = "keys", block: int = -1
) -> HookedEncoder:
    """Put an encoder together from a CLIP of open_clip and a DINO, both freshly loaded: they are changed in place.

    Args:
        spec: the name that it goes by.
        clip: gives features, embeddings and the preprocessing.
        dino: gives the affinities.
        size: side of the images in pixels; None for the CLIP's own.
        by: which of the DINO's features count.
        block: of which of its blocks, counted from the end.

    Raises:
        ModelError: one of them is of another kind, or the size does not fit the patches.
    """
    maskclip = _maskclip(clip, size)
    return _encoder(spec, clip, maskclip, DinoGuide(dino, maskclip.transform, maskclip.grid, by, block))


def with_checkpoint(spec: str, clip: HookedEncoder, file: Path, size: int | None = None) -> HookedEncoder:
    """Put an encoder together from a CLIP of open_clip and a checkpoint of CLIP-DINOiser; otherwise as `with_dino`."""
    maskclip = _maskclip(clip, size)
    return _encoder(spec, clip, maskclip, LearnedGuide(file, maskclip))


def options_of(text: str, spec: str) -> Options:
    """Read the options of a spec.

    Raises:
        UsageError: an option that does not exist, is missing or has no such value.
    """
    given: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if key not in KNOWN:
            raise unknown_name("option", key, KNOWN, f"A spec reads {EXAMPLE}.")
        if not equals or not value or key in given:
            raise UsageError(f"{spec}: '{part}' does not read {key}=VALUE, or is there twice. A spec reads {EXAMPLE}.")
        given[key] = value
    if ("affinity" in given) == ("checkpoint" in given):
        raise UsageError(f"{spec} needs affinity=SPEC (a DINO) or checkpoint=FILE (CLIP-DINOiser's). E.g. {EXAMPLE}.")
    if "checkpoint" in given and given.keys() & {"by", "block"}:
        raise UsageError(f"{spec}: by and block say what affinity=SPEC is computed from; leave them out.")
    by: By = "patches" if given.get("by") == "patches" else "keys"
    if given.get("by", by) != by:
        raise UsageError(f"{spec}: by=keys or by=patches, not '{given['by']}'.")
    block, size = given.get("block", "-1"), given.get("size")
    if not (block.startswith("-") and block[1:].isdecimal() and int(block)):
        raise UsageError(f"{spec}: block is counted from the end, e.g. block=-2, not '{block}'.")
    if size is not None and not (size.isdecimal() and int(size)):
        raise UsageError(f"{spec}: size is the side of the images in pixels, e.g. size=448, not '{size}'.")
    return Options(given.get("affinity"), given.get("checkpoint"), by, int(block), None if size is None else int(size))


def _load_part(spec: str, device: str) -> HookedEncoder:
    """Load the CLIP or the DINO of a spec."""
    scheme, _, rest = spec.partition(":")
    if scheme not in LOADERS and not Path(spec).expanduser().exists():
        raise unknown_name("scheme", scheme, LOADERS, f"A spec reads {EXAMPLE}.")
    try:
        return LOADERS[scheme](rest, device) if scheme in LOADERS else local.load(spec, device)
    except ModelError as error:
        raise ModelError(f"{error} In a dinoised spec: dinoised:open_clip:FOLDER#affinity=hf:FOLDER.") from error


def _maskclip(clip: HookedEncoder, size: int | None) -> MaskClip:
    if clip.tower.architecture.get("library") != "open_clip":
        raise ModelError(f"{clip.spec} is no CLIP of open_clip, and only those are read here. E.g. {EXAMPLE}.")
    return MaskClip(clip.tower.model, clip.spec, clip.tower.transform, size)


def _encoder(spec: str, clip: HookedEncoder, maskclip: MaskClip, guide: Guide) -> HookedEncoder:
    """Make an encoder of a CLIP and what guides the pooling."""
    from torch import nn  # late: it takes a second to import

    read_here = nn.Identity()
    tower = Tower(
        model=nn.ModuleDict({"clip": maskclip.model, "guide": guide.model}),
        taps={HOOK: Tap(read_here, "output", "tokens", 0, maskclip.grid)},
        embed_images=lambda batch_bchw: _pass(batch_bchw, maskclip, guide, read_here),
        embed_texts=clip.tower.embed_texts,
        transform=maskclip.transform,
        architecture={
            "library": "glasshouse", "class": HOOK, "threshold": THRESHOLD, "grid": list(maskclip.grid),
            "clip": dict(clip.tower.architecture), "guide": dict(guide.description),
        },
    )  # fmt: skip
    return DinoisedEncoder(spec, tower, clip.device)


def _pass(batch_bchw: torch.Tensor, maskclip: MaskClip, guide: Guide, read_here: nn.Module) -> torch.Tensor:
    """One pass of the CLIP, images [b, 3, H, W] to embeddings [b, E]; pooled features go through `read_here`.

    They are made when the last block begins, so that a pass which wants no embedding can end there.
    """
    with guide.watching(batch_bchw) as guides:

        def make(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            read_here(pooled(maskclip.features(inputs[0]), guides()))

        handle = maskclip.blocks[-1].register_forward_pre_hook(make)
        try:
            embedding_be: torch.Tensor = maskclip.model.encode_image(batch_bchw, normalize=False)
            return embedding_be
        finally:
            handle.remove()
