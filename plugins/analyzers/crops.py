"""Images cut to where a feature is active, and their embeddings.

Definition (SemanticLens, arXiv 2501.05398): pixels under 1 % of the largest attribution are cut off and the picture is
cropped to what remains. The attribution of a feature of patches is its map of token activations, up-sampled bilinearly.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from math import ceil, floor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glasshouse.plugins.analyzers.concepts import ConceptParameters, ConceptSums, Examples
from glasshouse.schema.errors import GlasshouseError, ModelError
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.extraction.loading import read_image, stored_images
from glasshouse.warehouse.search.encoders import EmbeddingRecord, encoder_of
from glasshouse.warehouse.showing.overlay import heat_of

if TYPE_CHECKING:
    import torch

    from glasshouse.plugins.view import AnalysisView
    from glasshouse.warehouse.contracts import Encoder

FEATURES_AT_ONCE = 2048
"""Features whose maps are in memory at a time."""
PIECES_AT_ONCE = 8
"""Decoded and cut in parallel before the encoder sees the cut-outs."""
PIECE = 32
"""Cut-outs of one image at a time: many features can share one, and each cut-out of 224 pixels takes 0.6 MB."""
BATCH = 64
LONGEST_SIDE = 256
"""Pixels: maps are up-sampled to pictures of at most this size; a cut is exact to a 256th of the picture."""


class FeatureMap(NamedTuple):
    """Where a feature is active on one image: its activations ≥ 0 over the token grid [rows, columns]."""

    image_id: int
    feature_id: int
    map_hw: npt.NDArray[np.float32]


def crop_box(
    map_hw: npt.NDArray[np.float32],
    framing: Any,
    size: tuple[int, int],
    threshold: float,
    margin: float,
) -> tuple[int, int, int, int]:
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


def cropped_sums(
    view: AnalysisView, record: EmbeddingRecord, examples: Examples, parameters: ConceptParameters
) -> ConceptSums:
    """Sum the embeddings of each feature's examples, cut to where the feature is active.

    Images whose picture cannot be read are left out; the run notes how many pairs and pictures that are.

    Raises:
        ModelError: fewer than half of the pictures could be read; so few examples would be worse than what is stored.
    """
    encoder = encoder_of(view.warehouse, record, device_named(parameters.device))
    feature_ids = np.unique(examples.feature_p)
    sums_fe = np.zeros((len(feature_ids), record.width))
    n_f = np.zeros(len(feature_ids), dtype=np.int64)
    n_done = 0
    unreadable: set[int] = set()
    for maps in maps_by_block(view, examples):
        for owners, embedded_be in embedded_cut_outs(view, encoder, maps, parameters, unreadable):
            rows = np.searchsorted(feature_ids, owners)
            np.add.at(sums_fe, rows, embedded_be)
            np.add.at(n_f, rows, 1)
            n_done += len(owners)
            view.progress(n_done, len(examples.feature_p))
    view.note(n_examples_unreadable=len(examples.feature_p) - n_done)
    note_unreadable(view, len(unreadable), len(np.unique(examples.image_p)))
    is_there_f = n_f > 0
    return ConceptSums(feature_ids[is_there_f], sums_fe[is_there_f], n_f[is_there_f])


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


def maps_by_block(view: AnalysisView, examples: Examples) -> Iterator[list[FeatureMap]]:
    """Yield the maps of some features at a time, ordered by image."""
    feature_ids = np.unique(examples.feature_p)
    for start in range(0, len(feature_ids), FEATURES_AT_ONCE):
        block = feature_ids[start : start + FEATURES_AT_ONCE]
        is_here_p = (examples.feature_p >= block[0]) & (examples.feature_p <= block[-1])
        yield list(_maps(view, examples.feature_p[is_here_p], examples.image_p[is_here_p]))


def _maps(view: AnalysisView, feature_p: npt.NDArray[np.int32], image_p: npt.NDArray[np.int32]) -> Iterator[FeatureMap]:
    rows, columns = view.grid or (0, 0)
    with view.connection() as connection:
        connection.register("pairs", pa.table({"feature_id": feature_p, "image_id": image_p}))
        bounds = {"first": int(feature_p[0]), "last": int(feature_p[-1])}
        found = connection.sql(read_sql("queries/token_maps_of_pairs.sql"), params=bounds).fetchnumpy()
    pairs = np.stack([found["image_id"], found["feature_id"]])
    starts = np.flatnonzero(np.any(np.diff(pairs, axis=1, prepend=-1) != 0, axis=0))
    for start, stop in zip(starts, [*starts[1:], pairs.shape[1]], strict=True):
        map_t = np.zeros(rows * columns, dtype=np.float32)
        map_t[found["token"][start:stop]] = found["value"][start:stop]
        yield FeatureMap(int(pairs[0, start]), int(pairs[1, start]), map_t.reshape(rows, columns))


def embedded_cut_outs(
    view: AnalysisView,
    encoder: Encoder,
    maps: Sequence[FeatureMap],
    parameters: ConceptParameters,
    unreadable: set[int],
) -> Iterator[tuple[list[int], npt.NDArray[np.float32]]]:
    """Yield features and the embeddings [b, E] of their cut-outs, batch by batch."""
    import torch  # late: it takes a second to import

    owners: list[int] = []
    tensors: list[torch.Tensor] = []

    def batches(least: int) -> Iterator[tuple[list[int], npt.NDArray[np.float32]]]:
        while len(owners) >= least:
            batch_bchw = torch.stack(tensors[:BATCH])
            embedded_be = encoder.forward(batch_bchw, []).embedding_be
            if embedded_be is None:
                raise GlasshouseError(f"{encoder.spec} gives no image embedding.")
            yield owners[:BATCH], embedded_be.float().cpu().numpy()
            del owners[:BATCH], tensors[:BATCH]

    for pairs in _cut_outs(view, encoder, maps, parameters, unreadable):
        owners += [owner for owner, _ in pairs]
        tensors += [tensor for _, tensor in pairs]
        yield from batches(BATCH)
    yield from batches(1)


def _cut_outs(
    view: AnalysisView,
    encoder: Encoder,
    maps: Sequence[FeatureMap],
    parameters: ConceptParameters,
    unreadable: set[int],
) -> Iterator[list[tuple[int, torch.Tensor]]]:
    """Yield (feature, preprocessed cut-out) of some images at a time; each picture is decoded once.

    The ids of images whose picture cannot be read are added to `unreadable`.
    """
    pieces = list(_pieces(maps))
    with view.warehouse.catalogue.reading() as connection:
        wanted = list(dict.fromkeys(piece[0].image_id for piece in pieces))
        stored = {image.image_id: image for image in stored_images(connection, wanted)}
    framing = view.warehouse.space(view.space).framing
    root = view.warehouse.root

    def cut(piece: Sequence[FeatureMap]) -> list[tuple[int, torch.Tensor]]:
        try:
            picture = read_image(stored[piece[0].image_id], root)
        except GlasshouseError:
            unreadable.add(piece[0].image_id)
            return []
        threshold, margin = parameters.crop_threshold, parameters.crop_margin
        boxes = [crop_box(found.map_hw, framing, picture.size, threshold, margin) for found in piece]
        return [
            (found.feature_id, encoder.preprocess(picture.crop(box))) for found, box in zip(piece, boxes, strict=True)
        ]

    with ThreadPoolExecutor(min(PIECES_AT_ONCE, os.cpu_count() or 1), thread_name_prefix="glasshouse-crop") as pool:
        for start in range(0, len(pieces), PIECES_AT_ONCE):
            yield [pair for pairs in pool.map(cut, pieces[start : start + PIECES_AT_ONCE]) for pair in pairs]


def _pieces(maps: Sequence[FeatureMap]) -> Iterator[list[FeatureMap]]:
    """Yield the maps of one image, or some of them where there are many."""
    for _, group in groupby(maps, key=lambda found: found.image_id):
        of_image = list(group)
        yield from (of_image[start : start + PIECE] for start in range(0, len(of_image), PIECE))
