"""Ablation of features inside an encoder: what becomes of the embedding when a concept is taken out of the pass.

At the hook point, x' = x + decode(code') − decode(code) on the tokens on which the feature is active: what the SAE does
not explain of x stays. With `reconstruction`, x' = decode(code') and x = decode(code) on every token of the space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.ablation_edits import Change, Floats, Ints, TokenEdits
from glasshouse.plugins.analyzers.space_models import encoder_of, sae_of
from glasshouse.schema.errors import GlasshouseError, UsageError
from glasshouse.warehouse.contracts import EditingEncoder, Encoder, HookPoint, SparseAutoencoder

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from glasshouse.plugins.view import AnalysisView

POLICIES = ("cls", "patches")
"""Token policies whose rows are tokens of the pass; the others pool several into one, which nothing can put back."""

JOBS_AT_ONCE = 64
"""Edited images that go through the rest of the encoder together."""


class Model(NamedTuple):
    """What a space was extracted with, and which tokens of the hook point are its rows."""

    encoder: Encoder
    editor: EditingEncoder
    sae: SparseAutoencoder
    point: HookPoint
    tokens: slice


class Jobs(NamedTuple):
    """Images and what is done on each: parallel arrays [jobs]. `is_random`: a random direction instead."""

    image_j: Ints
    feature_j: Ints
    is_random_j: npt.NDArray[np.bool_]


class Edited(NamedTuple):
    """Embeddings of edited passes beside those of the passes as they are; features that were not active are missing."""

    job: Ints
    """[n] positions in `Jobs`"""
    before_ne: Floats
    after_ne: Floats
    removed_n: Floats
    """Largest |a' − a| over the tokens of each."""


def load_model(view: AnalysisView, device: str) -> Model:
    """Load the encoder and the SAE of a space, as they were when it was extracted.

    Raises:
        UsageError: the space was imported, its encoder cannot be edited, or its tokens are pooled.
        ModelError: one cannot be loaded, or has other weights now.
    """
    record = view.record
    spec, hook, tokens = record["encoder_spec"], record["hook"], record["tokens"]
    if spec is None or record["sae_spec"] is None:
        raise UsageError(
            f"The space '{view.space}' was imported: its encoder is not known, so nothing can be taken out of it. "
            "Ablation needs a space made by `glasshouse extract`."
        )
    if tokens not in POLICIES:
        raise UsageError(
            f"The rows of the space '{view.space}' are pooled over tokens ({tokens}), and no token can be given back "
            "its part. Ablation needs --tokens cls or patches."
        )
    encoder = encoder_of(view, device)
    if not isinstance(encoder, EditingEncoder):
        raise UsageError(
            f"{spec} cannot run on with edited activations, so nothing can be taken out of it. Its plugin would have "
            "to offer `forward_edited` (EditingEncoder)."
        )
    sae = sae_of(view, encoder.device)
    point = next(point for point in encoder.hook_points() if point.name == hook)
    rows = slice(0, 1) if tokens == "cls" else slice(point.n_prefix, None)
    model = Model(encoder, encoder, sae, point, rows)
    _check_reaches(model, view.space)
    return model


def _check_reaches(model: Model, space: str) -> None:
    """See that the embedding depends on the tokens at all, with two pictures of noise."""
    import torch  # late: it takes a second to import

    batch_bchw = noise(model.encoder, 0)

    def shifted(acts_btd: torch.Tensor) -> torch.Tensor:
        acts_btd[:, model.tokens] = acts_btd[:, model.tokens].flip(2) * 2 + 1
        return acts_btd

    hook = model.point.name
    same_be = model.editor.forward_edited(batch_bchw, hook, lambda acts_btd: acts_btd)
    if torch.equal(same_be, model.editor.forward_edited(batch_bchw, hook, shifted)):
        raise UsageError(
            f"The embedding of {model.encoder.spec} does not depend on the tokens of the space '{space}' ({hook}, "
            f"{'CLS' if model.tokens.stop == 1 else 'patches'}): nothing after that point reads them, so taking a "
            "feature out would change nothing. Ablate a space of an earlier hook point."
        )


def noise(encoder: Encoder, seed: int) -> torch.Tensor:
    """Two images of noise, as `preprocess` makes them."""
    import torch  # late: it takes a second to import
    from PIL import Image

    shape = encoder.preprocess(Image.new("RGB", (64, 64))).shape
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))


def shares_passes(model: Model) -> bool:
    """Say whether the pass up to the hook point can be run once for several edits of the same images.

    The rest of the pass then sees other images than the start of it; where a model joins the two (a residual stream
    around the hook point) that fails, or would be wrong: it is tried with two pictures of noise.
    """
    batch_bchw = noise(model.encoder, 1)
    return multiplies_rows(lambda edit: model.editor.forward_edited(batch_bchw, model.point.name, edit))


def multiplies_rows(edited_pass: Callable[[Callable[[torch.Tensor], torch.Tensor]], torch.Tensor]) -> bool:
    """Say whether a pass of two images gives the right rows when an edit hands on several copies of each.

    Args:
        edited_pass: from an edit of the hook point to the output of the pass.
    """
    import torch  # late: it takes a second to import

    rows = [0, 1, 1, 0, 1]
    plain_bo = edited_pass(lambda acts_btd: acts_btd)
    try:
        several_bo = edited_pass(lambda acts_btd: acts_btd[rows])
    except (RuntimeError, ValueError, TypeError):  # whatever the library raises where shapes do not fit
        return False
    return several_bo.shape == plain_bo[rows].shape and torch.allclose(several_bo, plain_bo[rows], 1e-3, 1e-4)


class Ablator:
    """Takes features out of passes.

    Args:
        model: of the space.
        change: to what activations are set.
        reconstruction: the SAE's reconstruction stands for the activations, instead of keeping its error.
        seed: of the random directions.
    """

    def __init__(self, model: Model, change: Change, *, reconstruction: bool = False, seed: int = 0) -> None:
        self.model = model
        self.change = change
        self.reconstruction = reconstruction
        self.seed = seed
        self.shares = shares_passes(model)

    def edited(self, batch_bchw: torch.Tensor, row_j: Ints, jobs: Jobs) -> tuple[Floats, Edited]:
        """Run the jobs of a batch of images.

        Args:
            batch_bchw: pre-processed images.
            row_j: the image of each job, as a row of the batch.
            jobs: of these images.

        Returns:
            The embeddings of the batch as it is [b, E], and what the jobs gave.
        """
        hook, tokens = self.model.point.name, self.model.tokens
        result = self.model.encoder.forward(batch_bchw, [hook])
        acts_btd = result.activations[hook][:, tokens]
        edits = TokenEdits(self.model.sae, acts_btd, self.change, self.seed)
        before_be = self._plain(batch_bchw, edits, result.embedding_be)
        starts = range(0, len(row_j), JOBS_AT_ONCE)
        parts = (self._some(batch_bchw, edits, row_j[at : at + JOBS_AT_ONCE], jobs, at) for at in starts)
        found = [part for part in parts if part is not None]
        if not found:
            nothing = np.zeros((0, before_be.shape[1]))
            return before_be, Edited(np.zeros(0, dtype=int), nothing, nothing, np.zeros(0))
        job_n, after_ne, removed_n = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return before_be, Edited(job_n, before_be[row_j[job_n]], after_ne, removed_n)

    def _plain(self, batch_bchw: torch.Tensor, edits: TokenEdits, embedding_be: torch.Tensor | None) -> Floats:
        """Return the embeddings that edited ones are compared with [b, E]."""
        if self.reconstruction:
            tokens = self.model.tokens

            def reconstruct(acts_btd: torch.Tensor) -> torch.Tensor:
                acts_btd[:, tokens] = edits.decoded_btd
                return acts_btd

            embedding_be = self.model.editor.forward_edited(batch_bchw, self.model.point.name, reconstruct)
        if embedding_be is None:
            raise GlasshouseError(f"{self.model.encoder.spec} gives no image embedding.")
        return embedding_be.double().cpu().numpy()

    def _some(
        self, batch_bchw: torch.Tensor, edits: TokenEdits, row_j: Ints, jobs: Jobs, start: int
    ) -> tuple[Ints, Floats, Floats] | None:
        """Run some jobs; returns their positions, embeddings and what was removed; None where nothing is active."""
        import torch  # late: it takes a second to import

        stop = start + len(row_j)
        deltas = edits.deltas(row_j, jobs.feature_j[start:stop], jobs.is_random_j[start:stop])
        active = deltas.active
        if not len(active):
            return None
        rows, tokens = torch.as_tensor(row_j[active]), self.model.tokens

        def edit(acts_btd: torch.Tensor) -> torch.Tensor:
            acts_jtd = acts_btd[rows.to(acts_btd.device)] if self.shares else acts_btd
            if self.reconstruction:
                acts_jtd[:, tokens] = edits.decoded_btd[rows.to(acts_btd.device)]
            acts_jtd[:, tokens] += deltas.delta_jtd.to(acts_btd.device)
            return acts_jtd

        given_bchw = batch_bchw if self.shares else batch_bchw[rows]
        after_je = self.model.editor.forward_edited(given_bchw, self.model.point.name, edit)
        return start + active, after_je.double().cpu().numpy(), deltas.removed_j
