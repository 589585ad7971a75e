"""Training pictures in memory: images, facts, captions, and what lies on each patch.

Three quarters are scenes, 15 % are crops around an object (what analyses cut out of an image) and 10 % are easy
scenes. Everything depends on (seed, stream) alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from glasshouse.plugins.starter.world.captions import make_caption
from glasshouse.plugins.starter.world.scene import Scene, render_scene
from glasshouse.plugins.starter.world.truth import Caption, Facts, facts_of, pack_facts
from glasshouse.plugins.starter.world.vocabulary import (
    ANY_OBJECT_FACT,
    IMAGE_SIZE,
    POSSIBLE_IN_CROPS,
    bits,
)

PATCH: Final = 8
GRID: Final = IMAGE_SIZE // PATCH
CROP_SHARE: Final = 0.15
EASY_SHARE: Final = 0.10
_COVERS: Final = {"object": 0.2, "whole": 0.2, "part": 0.12, "watermark": 0.1}
"""Share of a patch that a thing must cover for the patch to be labelled with it."""

BoolArray = npt.NDArray[np.bool_]
Box = tuple[int, int, int]


@dataclass(frozen=True)
class Picture:
    """A scene or a crop of one, as a model sees it.

    image_hwc is uint8 [64, 64, 3]; object_mask_hw marks core objects; patch_facts_t holds the bits of what lies on
    each of the 64 patches, row by row.
    """

    image_hwc: npt.NDArray[np.uint8]
    facts: Facts
    object_mask_hw: BoolArray
    patch_facts_t: npt.NDArray[np.uint64]


@dataclass(frozen=True)
class PictureSet:
    """Many pictures as arrays: images_nhwc uint8, facts_n32 and patch_facts_nt uint64, masks_np packed bits."""

    images_nhwc: npt.NDArray[np.uint8]
    facts_n32: npt.NDArray[np.uint64]
    patch_facts_nt: npt.NDArray[np.uint64]
    masks_np: npt.NDArray[np.uint8]
    easy_n: BoolArray
    captions: list[tuple[Caption, ...]]


def crop_box(mask_hw: BoolArray, rng: np.random.Generator) -> Box:
    """A square (left, top, side) around a mask with a margin of 4 to 14 pixels, inside the image."""
    rows, columns = np.flatnonzero(mask_hw.any(1)), np.flatnonzero(mask_hw.any(0))
    extent = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = int(min(IMAGE_SIZE, extent + 2 * rng.integers(4, 15)))
    centre_x, centre_y = (columns[0] + columns[-1]) / 2, (rows[0] + rows[-1]) / 2
    left, top = (int(np.clip(round(c - side / 2), 0, IMAGE_SIZE - side)) for c in (centre_x, centre_y))
    return left, top, side


def _zoom(mask_hw: BoolArray, box: Box) -> BoolArray:
    left, top, side = box
    index = ((np.arange(IMAGE_SIZE) + 0.5) * side / IMAGE_SIZE).astype(int)
    zoomed_hw: BoolArray = mask_hw[np.ix_(top + index, left + index)]
    return zoomed_hw


def _visible(mask_hw: BoolArray, box: Box) -> float:
    left, top, side = box
    return float(mask_hw[top : top + side, left : left + side].sum() / max(1, mask_hw.sum()))


def _after_crop(certain: int, anything: int, visible: float) -> tuple[int, int]:
    """(certain, possible) of a thing of which a share is still visible."""
    if visible >= 0.6:
        return certain, certain
    return (0, anything) if visible >= 0.05 else (0, 0)


def crop_facts(scene: Scene, box: Box) -> Facts:
    """What can be said of a crop: size and position become unknown, and so does what is cut off."""
    objects = []
    for thing in scene.objects:
        visible = _visible(thing.mask_hw, box)
        certain, possible = _after_crop(thing.facts, ANY_OBJECT_FACT, visible)
        objects.append((certain & ~POSSIBLE_IN_CROPS, possible | (POSSIBLE_IN_CROPS if possible else 0)))
    certain_scene = possible_scene = bits(scene.background_colour, scene.background_pattern)
    pieces: list[tuple[int, BoolArray]] = []
    if scene.whole is not None:
        pieces.append((bits(scene.whole.kind), scene.whole.mask_hw))
        pieces += [(bits(part), mask_hw) for part, mask_hw in scene.whole.parts.items()]
    if scene.watermark_hw is not None:
        pieces.append((bits("watermark"), scene.watermark_hw))
    for fact, mask_hw in pieces:
        certain, possible = _after_crop(fact, fact, _visible(mask_hw, box))
        certain_scene, possible_scene = certain_scene | certain, possible_scene | possible
    return Facts(tuple(objects), (certain_scene, possible_scene))


def _coverage(mask_hw: BoolArray) -> npt.NDArray[np.float64]:
    """Share of each of the 64 patches that a mask covers."""
    covered_t: npt.NDArray[np.float64] = mask_hw.reshape(GRID, PATCH, GRID, PATCH).mean(axis=(1, 3)).ravel()
    return covered_t


def _patch_facts(scene: Scene, see: Callable[[BoolArray], BoolArray]) -> npt.NDArray[np.uint64]:
    facts_t = np.zeros(GRID * GRID, dtype=np.uint64)
    best_t = np.full(GRID * GRID, _COVERS["object"])
    for thing in scene.objects:
        covered_t = _coverage(see(thing.mask_hw))
        facts_t[covered_t >= best_t] = thing.facts
        best_t = np.maximum(best_t, covered_t)
    pieces: list[tuple[str, str, BoolArray]] = []
    if scene.whole is not None:
        pieces.append(("whole", scene.whole.kind, scene.whole.mask_hw))
        pieces += [("part", part, mask_hw) for part, mask_hw in scene.whole.parts.items()]
    if scene.watermark_hw is not None:
        pieces.append(("watermark", "watermark", scene.watermark_hw))
    for kind, value, mask_hw in pieces:
        facts_t[_coverage(see(mask_hw)) >= _COVERS[kind]] |= np.uint64(bits(value))
    return facts_t


def whole_picture(scene: Scene) -> Picture:
    """The scene as it is."""
    mask_hw = np.logical_or.reduce([thing.mask_hw for thing in scene.objects])
    return Picture(scene.image_hwc, facts_of(scene), mask_hw, _patch_facts(scene, lambda mask: mask))


def cropped_picture(scene: Scene, rng: np.random.Generator) -> Picture:
    """A crop around one core object, scaled back to the size of an image."""
    box = crop_box(scene.objects[int(rng.integers(len(scene.objects)))].mask_hw, rng)
    left, top, side = box
    image = Image.fromarray(scene.image_hwc).resize(
        (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, (left, top, left + side, top + side)
    )
    mask_hw = _zoom(np.logical_or.reduce([thing.mask_hw for thing in scene.objects]), box)
    patch_facts_t = _patch_facts(scene, lambda mask: _zoom(mask, box))
    return Picture(np.asarray(image), crop_facts(scene, box), mask_hw, patch_facts_t)


def make_pictures(
    seed: int,
    stream: int,
    n_pictures: int,
    n_captions: int,
    progress: Callable[[int], None] | None = None,
) -> PictureSet:
    """Render training pictures; memory is about 13 kB each."""
    images_nhwc = np.empty((n_pictures, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    facts, captions = [], []
    patch_facts_nt = np.empty((n_pictures, GRID * GRID), dtype=np.uint64)
    masks_np = np.empty((n_pictures, IMAGE_SIZE * IMAGE_SIZE // 8), dtype=np.uint8)
    easy_n = np.zeros(n_pictures, dtype=bool)
    for index in range(n_pictures):
        rng = np.random.default_rng((seed, stream + 1, index))
        lot = rng.random()
        easy_n[index] = lot < EASY_SHARE
        scene = render_scene(seed, index, stream=stream, easy=bool(easy_n[index]))
        crop = EASY_SHARE <= lot < EASY_SHARE + CROP_SHARE
        picture = cropped_picture(scene, rng) if crop else whole_picture(scene)
        images_nhwc[index] = picture.image_hwc
        patch_facts_nt[index] = picture.patch_facts_t
        masks_np[index] = np.packbits(picture.object_mask_hw.ravel())
        facts.append(picture.facts)
        captions.append(tuple(make_caption(picture.facts, rng) for _ in range(n_captions)))
        if progress is not None:
            progress(index + 1)
    return PictureSet(images_nhwc, pack_facts(facts), patch_facts_nt, masks_np, easy_n, captions)
