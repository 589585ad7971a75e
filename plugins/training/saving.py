"""A finished dictionary as `sae.safetensors` in our own format, with everything that was known of its making."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins.saes import own_format
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.form import CommonForm
from glasshouse.plugins.training.figures import Figures, figures_of
from glasshouse.plugins.training.trainer import Trained
from glasshouse.warehouse.atomic import replacing

if TYPE_CHECKING:
    import torch

HOW_THRESHOLD = "the value at which training vectors have k active features on average, found at the end"


def save_trained(
    folder: Path,
    trained: Trained,
    held_out_nd: torch.Tensor,
    origin: Mapping[str, Any],
    training: Mapping[str, Any],
    *,
    half: bool = False,
) -> Figures:
    """Write the dictionary; the figures in its description are those of the tensors as they are on disk.

    Args:
        folder: where `sae.safetensors` goes.
        trained: what came of the run.
        held_out_nd: vectors [n, D] for the figures.
        origin: `hook`, `tokens`, `encoder`, `encoder_weights_sha256` of the description.
        training: data and settings, beside the recipe's.
        half: store float16.

    Raises:
        OSError: it cannot be written.
    """
    form, recipe = trained.form, trained.recipe
    tensors = {name: value.half() if half else value for name, value in form.tensors().items()}
    stored = CommonForm(**{**vars(form), **{name: value.float() for name, value in tensors.items()}})
    prefixes = list(recipe.prefixes) if len(recipe.prefixes) > 1 else None
    found = figures_of(CommonSae("stored", stored, prefixes=prefixes), held_out_nd)
    how = {} if form.threshold_f is None else {"threshold": HOW_THRESHOLD}
    description = {
        "format": 1,
        "activation": form.activation,
        "k": recipe.k,
        "apply_b_dec_to_input": True,
        "normalization": "none",
        "prefixes": prefixes,
        **origin,
        "training": {**training, **recipe.as_dict(), **how},
        "self_test": found.as_dict(),
    }
    named = {name: tensors[attribute] for name, attribute in own_format.TENSOR_NAMES.items() if attribute in tensors}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / own_format.FILE_NAME) as temporary:
        own_format.write(temporary, named, description)
    return found
