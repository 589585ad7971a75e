"""A model of the user's own: `python:FILE:FUNCTION` runs FUNCTION of FILE, which returns a torch module.

FUNCTION takes nothing and returns a `torch.nn.Module`, or a `UserModel` that says more about it. This runs the user's
code, so nothing that lies inside a warehouse is ever run, and a spec that was read out of a warehouse or an SAE's file
runs only when the user has named its FILE: in this process, or in $GLASSHOUSE_ALLOW_PYTHON.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import EncoderLoader
from glasshouse.plugins.encoders.heads import embedding_before_head
from glasshouse.plugins.encoders.hooked import HookedEncoder, Tower
from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.plugins.encoders.user_code import checked_file, digest, run_function, user_errors
from glasshouse.plugins.encoders.user_taps import user_taps
from glasshouse.plugins.hookspecs import Register
from glasshouse.schema.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

CONSENT_VARIABLE = "GLASSHOUSE_ALLOW_PYTHON"
CROPPED = 0.875
"""Share of the shorter side that is left after cropping, where nothing else is said."""

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
HOW = "FUNCTION takes nothing and returns a torch.nn.Module or a glasshouse.plugins.encoders.python.UserModel."


@dataclass(frozen=True)
class UserModel:
    """A torch module and what it does not say itself.

    Attributes:
        module: called with images [batch, 3, H, W], normalised.
        image_size: side of the images in pixels, or height and width.
        resize: the shorter side before the centre crop to `image_size`; None: the crop leaves 7/8 of it.
        mean: of each channel, of pixels in 0..1; ImageNet's when it is not given.
        std: likewise.
        interpolation: Pillow's name of the filter that resizes.
        class_names: of the classifier's outputs, in their order.
        embed: a full pass, from images to embeddings [batch, E]; None: what the last linear layer is handed.
        classifies: whether the module's output [batch, C] is logits. None: it is, where it has that form. Where it is
            not, and `embed` is None, the output itself is the embedding.
        n_prefix: tokens before the patches in outputs [batch, token, width]: CLS, then registers. None: 1 or 0 where
            a patch embedding (a convolution with kernel = stride) shows it, else 0.
        grid: rows and columns of the patch tokens; None: what the patch embedding gives, or what fits the image.
    """

    module: nn.Module
    image_size: int | tuple[int, int] = 224
    resize: int | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    class_names: Sequence[str] | None = None
    embed: Callable[[torch.Tensor], torch.Tensor] | None = None
    classifies: bool | None = None
    n_prefix: int | None = None
    grid: tuple[int, int] | None = None


@hookimpl
def register_encoders(register: Register[EncoderLoader]) -> None:
    """Register `python:`."""
    register(
        "python",
        EncoderLoader(load, "a torch module of your own, e.g. python:model.py:build", check_stored=check_consent),
    )


def load(name: str, device: str) -> HookedEncoder:
    """Run FUNCTION of FILE, `name` being `FILE:FUNCTION`, and make an encoder of what it returns.

    Raises:
        ModelError: there is no such file or function, its code fails, or what it returns cannot be used.
    """
    file, function = checked_file(name)
    spec = f"python:{file}:{function}"
    user = _user_model(run_function(spec, file, function), spec)
    user.module.eval()
    transform = _transform(user, spec)
    return HookedEncoder(spec, _tower(user, transform, spec, file, function), device)


def check_consent(name: str) -> None:
    """Refuse a spec that the user has not typed, unless $GLASSHOUSE_ALLOW_PYTHON names its file.

    Raises:
        ModelError: it does not.
    """
    file, function = checked_file(name)
    allowed = [Path(entry).expanduser().resolve() for entry in os.environ.get(CONSENT_VARIABLE, "").split(os.pathsep)]
    if file not in allowed:
        raise ModelError(
            f"python:{file}:{function} is written in the warehouse or in a model's file, and loading it would run the "
            f"code in {file}. If that is yours, say so with {CONSENT_VARIABLE}='{file}' and run the command again."
        )


def _user_model(returned: Any, spec: str) -> UserModel:
    import torch  # late: it takes a second to import

    user = returned if isinstance(returned, UserModel) else None
    module = returned if user is None else user.module
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"{spec} gave {_kind(module)}, no torch module. {HOW}")
    if not any(True for _ in module.parameters()):
        raise ModelError(f"{spec} gave a module without any weights.")
    return UserModel(module, image_size=getattr(module, "image_size", 224)) if user is None else user


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"an object of the kind {type(value).__name__}"


def _transform(user: UserModel, spec: str) -> ImageTransform:
    """The preprocessing: what the user says, or what a model of timm says of itself."""
    known = getattr(user.module, "pretrained_cfg", None)
    if isinstance(known, Mapping) and "input_size" in known and user == UserModel(user.module, user.image_size):
        from timm.data import resolve_data_config  # late: it takes seconds to import

        from glasshouse.plugins.encoders.timm import transform_of

        return transform_of(resolve_data_config(pretrained_cfg=dict(known)), spec)
    size = (user.image_size, user.image_size) if isinstance(user.image_size, int) else tuple(user.image_size)
    try:
        height, width = map(int, size)
        mean, std = (tuple(map(float, values)) for values in (user.mean, user.std))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{spec}: image_size is a whole number or two, mean and std are three numbers.") from error
    if min(height, width) < 1 or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ModelError(
            f"{spec}: image_size {height}×{width}, mean {mean} and std {std} do not describe images of three channels."
        )
    if user.resize is not None and (not isinstance(user.resize, int) or user.resize < min(height, width)):
        raise ModelError(
            f"{spec}: resize is the shorter side before the crop in whole pixels, {min(height, width)} or more, not "
            f"{user.resize}."
        )
    _check_filter(user.interpolation, spec)
    factor = 1 / CROPPED if user.resize is None else user.resize / min(height, width)
    return ImageTransform(
        resize="shortest" if height == width else "fill",
        resize_to=(round(height * factor), round(width * factor)),
        interpolation=user.interpolation,
        crop_to=(height, width),
        mean=mean,
        std=std,
    )


def _check_filter(name: str, spec: str) -> None:
    from PIL import Image  # late: a tenth of a second

    if name.upper() not in Image.Resampling.__members__:
        known = ", ".join(member.lower() for member in Image.Resampling.__members__)
        raise ModelError(f"{spec}: there is no filter '{name}' to resize with. Known: {known}.")


def _tower(user: UserModel, transform: ImageTransform, spec: str, file: Path, function: str) -> Tower:
    import torch  # late: it takes a second to import

    module, size = user.module, transform.output_size

    def run(batch_bchw: torch.Tensor) -> Any:
        with user_errors(spec, file):
            output = module(batch_bchw.clone())  # it may normalise its images in place; the caller's stay
        return _logits(output)

    with torch.no_grad():
        first = run(torch.zeros(2, 3, *size, device=next(module.parameters()).device))
    is_row = isinstance(first, torch.Tensor) and first.ndim == 2 and len(first) == 2
    classifies = is_row if user.classifies is None else user.classifies
    if classifies and not is_row:
        raise ModelError(f"{spec}: classifies=True, but the module gives {_form(first)} for two images, no [2, C].")
    if user.embed is not None:
        embed = _checked_embed(user.embed, spec, file)
    elif is_row and not classifies:
        embed = run
    else:
        embed = embedding_before_head(spec, module, size, run)
    return Tower(
        model=module,
        taps=user_taps(module, run, size, user.n_prefix, user.grid),
        embed_images=embed,
        transform=transform,
        architecture={
            "library": "python",
            "source": digest(file),
            "function": function,
            "structure": [[name, type(part).__qualname__, _settings(part)] for name, part in module.named_modules()],
        },
        classify=run if classifies else None,
        class_names=user.class_names,
    )


def _logits(output: Any) -> Any:
    """What a pass gives: a tensor, or the `logits` of an object, as models of transformers give them."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return output if named is None else named


def _checked_embed(
    embed: Callable[[torch.Tensor], torch.Tensor], spec: str, file: Path
) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch  # late: it takes a second to import

    def checked(batch_bchw: torch.Tensor) -> torch.Tensor:
        with user_errors(spec, file):
            embedding_be = embed(batch_bchw.clone())  # as above
        if not isinstance(embedding_be, torch.Tensor) or embedding_be.ndim != 2:
            raise ModelError(f"{spec}: embed gives {_form(embedding_be)}; embeddings are [batch, E].")
        return embedding_be

    return checked


def _form(value: Any) -> str:
    return str(list(value.shape)) if hasattr(value, "shape") else _kind(value)


def _settings(module: nn.Module) -> str:
    """What a module prints of itself beside its parts, without addresses, which change with every run."""
    return ADDRESS.sub("", module.extra_repr())
