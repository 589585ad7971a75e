"""Where on an image a feature is active, as maps: what crops, heat maps and places are made from.

Three origins: the stored tokens of a space of patches; the map of a neuron's activations, computed anew where a space
keeps only its pooled value (CNN channels, ViT neurons); and CRP, the pixels that make a neuron active.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glasshouse.plugins.analyzers.space_models import encoder_of
from glasshouse.schema.errors import UsageError
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.contracts import ClassifyingEncoder, Encoder, HookPoint
from glasshouse.warehouse.extraction.loading import BatchLoader, LoadedBatch, stored_images

if TYPE_CHECKING:
    import torch

    from glasshouse.plugins.analyzers.example_vectors import Examples
    from glasshouse.plugins.view import AnalysisView

FEATURES_AT_ONCE = 2048
"""Features whose maps are in memory at a time."""
IMAGES_AT_ONCE = 16
"""Images that go through the encoder together."""
MAPS_AT_ONCE = 32
"""Images of one pass of CRP: it goes back through the whole network for each."""


class FeatureMap(NamedTuple):
    """Where a feature is active on one image: values ≥ 0 over a grid [rows, columns] of what the encoder sees."""

    image_id: int
    feature_id: int
    map_hw: npt.NDArray[np.float32]


def attribution_maps(
    view: AnalysisView, examples: Examples, attribution: Literal["map", "crp"], device: str
) -> Iterator[list[FeatureMap]]:
    """Yield the maps of examples, some at a time, each part ordered by image.

    Args:
        view: of the space.
        examples: features and images.
        attribution: `map` of activations, or `crp`.
        device: of the encoder, where one is needed.

    Raises:
        UsageError: the space has no such maps.
        ModelError: the encoder cannot be loaded or has other weights now; `crp` without the extra `attribution`.
    """
    if attribution == "map" and view.grid is not None:
        yield from maps_by_block(view, examples)
        return
    encoder = encoder_of(view, device)
    yield from crp_maps(view, encoder, examples) if attribution == "crp" else computed_maps(view, encoder, examples)


def maps_by_block(view: AnalysisView, examples: Examples) -> Iterator[list[FeatureMap]]:
    """Yield stored token maps, of some features at a time, ordered by image."""
    feature_ids = np.unique(examples.feature_p)
    for start in range(0, len(feature_ids), FEATURES_AT_ONCE):
        block = feature_ids[start : start + FEATURES_AT_ONCE]
        is_here_p = (examples.feature_p >= block[0]) & (examples.feature_p <= block[-1])
        yield list(_maps(view, examples.feature_p[is_here_p], examples.image_p[is_here_p]))


def _maps(view: AnalysisView, feature_p: npt.NDArray[np.int32], image_p: npt.NDArray[np.int32]) -> Iterator[FeatureMap]:
    rows, columns = view.grid or (0, 0)
    with view.connection(strongest=view.keep) as connection:
        connection.register("pairs", pa.table({"feature_id": feature_p, "image_id": image_p}))
        bounds = {"first": int(feature_p[0]), "last": int(feature_p[-1])}
        found = connection.sql(read_sql("queries/token_maps_of_pairs.sql"), params=bounds).fetchnumpy()
    pairs = np.stack([found["image_id"], found["feature_id"]])
    starts = np.flatnonzero(np.any(np.diff(pairs, axis=1, prepend=-1) != 0, axis=0))
    if view.keep is not None and len(starts) < len(feature_p):
        raise UsageError(
            f"The space '{view.space}' keeps the maps of only the {view.keep:,} strongest images of each feature, and "
            f"{len(feature_p) - len(starts):,} of the examples are others. Choose examples by activation, or extract "
            "the same under another name without --keep."
        )
    for start, stop in zip(starts, [*starts[1:], pairs.shape[1]], strict=True):
        map_t = np.zeros(rows * columns, dtype=np.float32)
        map_t[found["token"][start:stop]] = found["value"][start:stop]
        yield FeatureMap(int(pairs[0, start]), int(pairs[1, start]), map_t.reshape(rows, columns))


def computed_maps(view: AnalysisView, encoder: Encoder, examples: Examples) -> Iterator[list[FeatureMap]]:
    """Yield the maps of neurons max(x, 0) over the tokens of the hook point, by one forward pass of each image."""
    point = hook_point_of(view, encoder)
    if point.grid is None:
        raise UsageError(f"{point.name} of {encoder.spec} has no patch tokens, so there is nothing to crop to.")
    order = np.argsort(examples.image_p, kind="stable")
    feature_p, image_p = examples.feature_p[order], examples.image_p[order]
    for batch in batches_of(view, encoder, np.unique(image_p), IMAGES_AT_ONCE):
        if batch.batch_bchw is None:
            continue
        acts_btd = encoder.forward(batch.batch_bchw, [point.name], embedding=False).activations[point.name]
        maps_btd = acts_btd[:, point.n_prefix :].clamp_min(0).cpu().numpy()
        maps_bhwd = maps_btd.reshape(len(maps_btd), *point.grid, -1)
        found = []
        for image, map_hwd in zip(batch.image_ids, maps_bhwd, strict=True):
            first, end = np.searchsorted(image_p, [image, image + 1])
            found += [FeatureMap(image, int(f), map_hwd[..., f].copy()) for f in feature_p[first:end]]
        yield found


def crp_maps(view: AnalysisView, encoder: Encoder, examples: Examples) -> Iterator[list[FeatureMap]]:
    """Yield the pixels that make neurons active, by CRP: what counts against them is left out.

    Each example needs a pass forward and back through the network, where activations cost one forward for each image.
    """
    if not isinstance(encoder, ClassifyingEncoder):
        raise UsageError(f"{encoder.spec} does not say which pixels count. Leave --attribution away.")
    hook = hook_point_of(view, encoder).name
    order = np.argsort(examples.image_p, kind="stable")
    feature_p, image_p = examples.feature_p[order], examples.image_p[order]
    for batch in batches_of(view, encoder, np.unique(image_p), IMAGES_AT_ONCE):
        if batch.batch_bchw is None:
            continue
        ids = np.array(batch.image_ids)
        here = np.flatnonzero(np.isin(image_p, ids))
        row_j = np.searchsorted(ids, image_p[here])
        found = []
        for start in range(0, len(here), MAPS_AT_ONCE):
            part = slice(start, start + MAPS_AT_ONCE)
            maps_jhw = _crp(encoder, batch.batch_bchw, hook, row_j[part], feature_p[here[part]])
            found += [
                FeatureMap(int(image), int(feature), map_hw)
                for image, feature, map_hw in zip(image_p[here[part]], feature_p[here[part]], maps_jhw, strict=True)
            ]
        yield found


def _crp(
    encoder: ClassifyingEncoder,
    batch_bchw: torch.Tensor,
    hook: str,
    row_j: npt.NDArray[np.integer],
    feature_j: npt.NDArray[np.integer],
) -> npt.NDArray[np.float32]:
    import torch  # late: it takes a second to import

    features = torch.as_tensor(feature_j.astype(np.int64))
    maps_jhw = encoder.component_maps(batch_bchw[torch.as_tensor(row_j)], hook, features)
    positive_jhw: npt.NDArray[np.float32] = maps_jhw.clamp_min(0).float().cpu().numpy()
    return positive_jhw


def hook_point_of(view: AnalysisView, encoder: Encoder) -> HookPoint:
    """Return the hook point that a space was extracted at."""
    return next(point for point in encoder.hook_points() if point.name == view.record["hook"])


def batches_of(
    view: AnalysisView, encoder: Encoder, image_ids: npt.NDArray[np.integer], size: int
) -> Iterator[LoadedBatch]:
    """Yield images of the warehouse as the encoder takes them, decoded in threads beside the passes."""
    with view.warehouse.catalogue.reading() as connection:
        stored = stored_images(connection, [int(image) for image in image_ids])
    blocks = [stored[start : start + size] for start in range(0, len(stored), size)]
    workers = min(8, os.cpu_count() or 1)
    yield from BatchLoader(blocks, encoder.preprocess, view.warehouse.root, workers=workers, ahead=1)
