"""A training as it will be run: a request checked against its encoder and images, and the buffer that they need."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from glasshouse.plugins.saes.neurons import Neurons
from glasshouse.plugins.saes.result_folder import check_folder
from glasshouse.plugins.training.buffer import rows_within
from glasshouse.plugins.training.checks import check_memory, check_numbers
from glasshouse.plugins.training.images import Reader, data_fingerprint, split_images
from glasshouse.plugins.training.recipe import KINDS, Kind, Recipe, default_learning_rate, parse_prefixes
from glasshouse.plugins.training.request import Request, default_l0
from glasshouse.schema.errors import UsageError, unknown_name
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.extraction.loading import StoredImage, stored_images
from glasshouse.warehouse.extraction.targets import SpaceRequest, resolve_space

if TYPE_CHECKING:
    from glasshouse.warehouse.contracts import Encoder, TokenPolicy
    from glasshouse.warehouse.layout import Layout

DEFAULT_EPOCHS = 3
LEAST_STEPS = 2_000
"""Where neither steps nor epochs are said: three epochs, as in CFM's recipe, but of a few images more."""
PATCH_BATCH, IMAGE_BATCH = 4_096, 1_024


@dataclass(frozen=True)
class Job:
    """A request that fits its encoder and images."""

    request: Request
    recipe: Recipe
    reader: Reader
    training: list[StoredImage]
    held_out: list[StoredImage]
    folder: Path
    capacity: int
    """Rows of the buffer."""
    streams: bool
    in_memory: bool

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on, by the names of the options."""
        request, recipe, encoder = self.request, self.recipe, self.reader.encoder
        return {
            "encoder": encoder.spec,
            "encoder's weights": encoder.fingerprint,
            "hook": request.hook,
            "tokens": request.tokens,
            "features": recipe.n_features,
            "kind": recipe.kind,
            "prefixes": list(recipe.prefixes),
            "l0": recipe.k,
            "steps": recipe.steps,
            "batch": recipe.batch,
            "learning-rate": recipe.learning_rate,
            "seed": recipe.seed,
            "held-out": request.held_out,
            "number of images": len(self.training) + len(self.held_out),
            "images": data_fingerprint([*self.training, *self.held_out]),
            "batch-size": request.batch_size,
            "buffered vectors": self.capacity if self.streams else "all",
        }


def prepared(layout: Layout, encoder: Encoder, request: Request, folder: Path) -> Job:
    """Check the request against encoder, images and folder."""
    check_numbers(request)
    check_folder(folder)
    asked = SpaceRequest("train", request.hook, cast("TokenPolicy", request.tokens), Neurons("cpu"))
    target = resolve_space(asked, encoder)
    with Catalogue(layout.root).reading() as connection:
        images = stored_images(connection)
    if len(images) < 2:
        raise UsageError(
            f"{layout.root} has {len(images) or 'no'} image{'' if len(images) == 1 else 's'}; one is held out, so two "
            "are needed at least. "
            "Add some with `glasshouse add FOLDER`."
        )
    training, held_out = split_images(images, request.held_out, request.seed)
    reader = Reader(encoder, target, layout.root, request.batch_size, request.workers)
    n_rows = len(training) * reader.rows_per_image
    width = target.point.width
    in_memory = n_rows <= rows_within(request.buffer, width)
    streams = not in_memory and n_rows > rows_within(request.disk, width)
    capacity = rows_within(request.disk, width) if streams else n_rows
    recipe = _recipe(request, n_rows, width)
    return Job(request, recipe, reader, training, held_out, folder, capacity, streams, in_memory)


def _recipe(request: Request, n_rows: int, width: int) -> Recipe:
    if request.kind not in KINDS:
        raise unknown_name("kind of dictionary", request.kind, KINDS)
    if request.prefixes is not None and request.kind != "matryoshka":
        raise UsageError(f"--prefixes are for --kind matryoshka, not {request.kind}.")
    l0 = default_l0(request.n_features) if request.l0 is None else request.l0
    if not 1 <= l0 <= request.n_features:
        raise UsageError(f"--l0 must be between 1 and the {request.n_features} features, not {l0}.")
    if request.steps is not None and request.epochs is not None:
        raise UsageError("Give --steps or --epochs, not both.")
    batch = request.batch or min(PATCH_BATCH if request.tokens == "patches" else IMAGE_BATCH, n_rows)
    check_memory(request.n_features, width, batch)
    if request.epochs is not None:
        n_vectors = request.epochs * n_rows
        if not math.isfinite(n_vectors):
            raise UsageError(f"--epochs {request.epochs:g} is too many.")
        steps = max(1, round(n_vectors / batch))
    else:
        steps = request.steps or max(LEAST_STEPS, math.ceil(DEFAULT_EPOCHS * n_rows / batch))
    nested = parse_prefixes(request.prefixes, request.n_features) if request.kind == "matryoshka" else None
    return Recipe(
        kind=cast("Kind", request.kind),
        n_features=request.n_features,
        k=l0,
        prefixes=nested or (request.n_features,),
        steps=steps,
        batch=batch,
        learning_rate=request.learning_rate or default_learning_rate(request.n_features),
        seed=request.seed,
    )
