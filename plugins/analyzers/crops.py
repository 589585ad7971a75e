"""Images cut to where a feature is active, and their embeddings.

Definition (SemanticLens, arXiv 2501.05398): pixels under 1 % of the largest attribution are cut off and the picture is
cropped to what remains. Where that is, is said by maps: see `attribution_maps.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.attribution_maps import FeatureMap
from glasshouse.schema.errors import GlasshouseError, ModelError
from glasshouse.warehouse.extraction.loading import read_image, stored_images
from glasshouse.warehouse.showing.overlay import heat_of

if TYPE_CHECKING:
    import torch

    from glasshouse.plugins.view import AnalysisView
    from glasshouse.warehouse.contracts import Encoder

PIECES_AT_ONCE = 8
"""Decoded and cut in parallel before the encoder sees the cut-outs."""
PIECE = 32
"""Cut-outs of one image at a time: many features can share one, and each cut-out of 224 pixels takes 0.6 MB."""
BATCH = 64
LONGEST_SIDE = 256
"""Pixels: maps are up-sampled to pictures of at most this size; a cut is exact to a 256th of the picture."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the picture."""


class CutOut(NamedTuple):
    """A part of an image that is about a feature."""

    feature_id: int
    image_id: int
    box: Box


@dataclass(frozen=True)
class Cutting:
    """How pictures are cut: pixels below `threshold` of the map's largest go, `margin` of the longer side is added."""

    threshold: float
    margin: float


def crop_box(
    map_hw: npt.NDArray[np.float32],
    framing: Any,
    size: tuple[int, int],
    threshold: float,
    margin: float,
) -> Box:
    """Return the part of a picture where a map is above a share of its maximum: left, top, right, bottom in pixels.

    Args:
        map_hw: the token map; active somewhere.
        framing: how the encoder cuts pictures, as stored with the space.
        size: width and height of the picture.
        threshold: share of the largest up-sampled value that counts as active.
        margin: widens every side by this share of the longer side.
    """
    width, height = size
    scale = min(1.0, LONGEST_SIDE / max(size))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    heat_hw, seen_hw = heat_of(map_hw, framing, small, original_size=size)
    heat_hw = np.where(seen_hw, heat_hw, 0)
    largest = heat_hw.max(initial=0)
    if largest <= 0:
        return 0, 0, width, height
    is_hot_hw = heat_hw >= threshold * largest if threshold > 0 else heat_hw > 0
    rows, columns = np.flatnonzero(is_hot_hw.any(axis=1)), np.flatnonzero(is_hot_hw.any(axis=0))
    x_scale, y_scale, wider = width / small[0], height / small[1], margin * max(size)
    return (
        max(0, floor(columns[0] * x_scale - wider)),
        max(0, floor(rows[0] * y_scale - wider)),
        min(width, ceil((columns[-1] + 1) * x_scale + wider)),
        min(height, ceil((rows[-1] + 1) * y_scale + wider)),
    )


def note_unreadable(view: AnalysisView, n_unreadable: int, n_pictures: int) -> None:
    """Note how many pictures could not be read, so that the same request goes on once they are back.

    Raises:
        ModelError: more than half of them.
    """
    if not n_unreadable:
        return
    found = f"{n_unreadable:,} of {n_pictures:,} pictures could not be read"
    if 2 * n_unreadable > n_pictures:
        raise ModelError(
            f"{found}: too many for vectors of cut-outs, so nothing was stored. Put the pictures back where they were "
            "added from."
        )
    view.note(incomplete=found)


def device_named(name: str) -> str:
    """Return the device that `auto` stands for, or the one that is named."""
    import torch  # late: it takes a second to import

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def embedded_cut_outs(
    view: AnalysisView, encoder: Encoder, maps: Sequence[FeatureMap], how: Cutting, unreadable: set[int]
) -> Iterator[tuple[list[CutOut], npt.NDArray[np.float32]]]:
    """Yield cut-outs and their embeddings [b, E], batch by batch.

    Args:
        view: of the space that the maps are of.
        encoder: that embeds.
        maps: ordered by image.
        how: they are cut.
        unreadable: the ids of images whose picture cannot be read are added to it.
    """
    import torch  # late: it takes a second to import

    cuts: list[CutOut] = []
    tensors: list[torch.Tensor] = []

    def batches(least: int) -> Iterator[tuple[list[CutOut], npt.NDArray[np.float32]]]:
        while len(cuts) >= least:
            batch_bchw = torch.stack(tensors[:BATCH])
            embedded_be = encoder.forward(batch_bchw, []).embedding_be
            if embedded_be is None:
                raise GlasshouseError(f"{encoder.spec} gives no image embedding.")
            yield cuts[:BATCH], embedded_be.float().cpu().numpy()
            del cuts[:BATCH], tensors[:BATCH]

    for pairs in _cut_outs(view, encoder, maps, how, unreadable):
        cuts += [cut for cut, _ in pairs]
        tensors += [tensor for _, tensor in pairs]
        yield from batches(BATCH)
    yield from batches(1)


def _cut_outs(
    view: AnalysisView, encoder: Encoder, maps: Sequence[FeatureMap], how: Cutting, unreadable: set[int]
) -> Iterator[list[tuple[CutOut, torch.Tensor]]]:
    """Yield cut-outs, preprocessed, of some images at a time; each picture is decoded once."""
    pieces = list(_pieces(maps))
    with view.warehouse.catalogue.reading() as connection:
        wanted = list(dict.fromkeys(piece[0].image_id for piece in pieces))
        stored = {image.image_id: image for image in stored_images(connection, wanted)}
    framing = view.warehouse.space(view.space).framing
    root = view.warehouse.root

    def cut(piece: Sequence[FeatureMap]) -> list[tuple[CutOut, torch.Tensor]]:
        try:
            picture = read_image(stored[piece[0].image_id], root)
        except GlasshouseError:
            unreadable.add(piece[0].image_id)
            return []
        found = []
        for one in piece:
            box = crop_box(one.map_hw, framing, picture.size, how.threshold, how.margin)
            found.append((CutOut(one.feature_id, one.image_id, box), encoder.preprocess(picture.crop(box))))
        return found

    with ThreadPoolExecutor(min(PIECES_AT_ONCE, os.cpu_count() or 1), thread_name_prefix="glasshouse-crop") as pool:
        for start in range(0, len(pieces), PIECES_AT_ONCE):
            yield [pair for pairs in pool.map(cut, pieces[start : start + PIECES_AT_ONCE]) for pair in pairs]


def _pieces(maps: Sequence[FeatureMap]) -> Iterator[list[FeatureMap]]:
    """Yield the maps of one image, or some of them where there are many."""
    for _, group in groupby(maps, key=lambda found: found.image_id):
        of_image = list(group)
        yield from (of_image[start : start + PIECE] for start in range(0, len(of_image), PIECE))
