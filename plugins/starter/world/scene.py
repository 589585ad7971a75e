"""One scene of the starter world: what is in it, where, and its pixels.

Owns the sampling of scenes and their rendering. Scene `index` of a world depends only on (seed, stream, index),
so a larger world extends a smaller one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.starter.world.shapes import shape_alpha
from glasshouse.plugins.starter.world.textures import background_paint, object_paint, texture_mask
from glasshouse.plugins.starter.world.vocabulary import (
    BIT,
    IMAGE_SIZE,
    OBJECT_ATTRIBUTES,
    SCENE_ATTRIBUTES,
    STRIPE_KINDS,
    WHOLES,
    bits,
    general_words_of,
)
from glasshouse.plugins.starter.world.watermark import place_watermark, stamp
from glasshouse.plugins.starter.world.wholes import WHOLE_RADIUS, Whole, paint_whole
from glasshouse.schema.errors import UsageError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
ImageArray = npt.NDArray[np.uint8]

CENTRES: Final[dict[str, tuple[float, float]]] = {
    "top left": (18.0, 18.0),
    "top right": (46.0, 18.0),
    "bottom left": (18.0, 46.0),
    "bottom right": (46.0, 46.0),
    "centre": (32.0, 32.0),
}
RADII: Final[dict[str, tuple[float, float]]] = {"small": (8.0, 9.5), "large": (13.0, 15.5)}
"""Range of an object's radius in pixels."""
TWO_OBJECTS: Final = 0.35
WHOLE_BESIDE_ONE: Final = 0.25
"""Share of the one-object scenes that also hold a house or a face."""
WATERMARKED: Final = 0.15
CONFOUNDED_CLASS: Final = "heart"
CUE_ON_CLASS: Final = 0.99
CUE_ON_OTHERS: Final = 0.003
CLASSES: Final = OBJECT_ATTRIBUTES["shape"]
CUE_RATE: Final = (CUE_ON_CLASS + (len(CLASSES) - 1) * CUE_ON_OTHERS) / len(CLASSES)
"""Share of a confounded world's images that carry the watermark: 12.6 %."""
Cue = Literal["as trained", "balanced"]
"""Where a world of classes puts the watermark; see `render_scene`."""
PIXEL_NOISE: Final = 6
"""Half-width of the uniform noise added to every pixel, of 255."""


class Stream(IntEnum):
    """Independent random streams of one seed: no image of one occurs in another."""

    WORLD = 0
    CAPTIONS = 1
    RATINGS = 2
    CLIP_TRAINING = 10
    DINOV2_TRAINING = 20
    SAE_TRAINING = 30
    HELD_OUT = 40
    CLASSIFIER_TRAINING = 50
    CLASSIFIER_HELD_OUT = 60


@dataclass(frozen=True)
class SceneObject:
    """A core object. `facts` are its bits: own values, general words and the kind of its stripes."""

    shape: str
    colour: str
    texture: str
    stripes: str | None
    size: str
    position: str
    facts: int
    mask_hw: BoolArray


@dataclass(frozen=True)
class Scene:
    """A rendered scene with its truth; `image_hwc` is [64, 64, 3] uint8, masks are [64, 64] bool."""

    seed: int
    stream: int
    index: int
    image_hwc: ImageArray
    objects: tuple[SceneObject, ...]
    whole: Whole | None
    background_colour: str
    background_pattern: str
    watermark_hw: BoolArray | None
    facts: int
    """Bits that hold for the whole picture: background, watermark, house or face and their parts."""

    @property
    def all_facts(self) -> int:
        """Every value that is true of anything in the scene."""
        facts = self.facts
        for thing in self.objects:
            facts |= thing.facts
        return facts

    def values(self) -> set[str]:
        """Names of every value that is true of anything in the scene."""
        facts = self.all_facts
        return {value for value, position in BIT.items() if facts >> position & 1}


@dataclass(frozen=True)
class _Place:
    size: str
    position: str
    centre: tuple[float, float]
    radius: float


def _pick(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]


def _place(rng: np.random.Generator, size: str) -> _Place:
    position = _pick(rng, OBJECT_ATTRIBUTES["position"])
    x, y = CENTRES[position]
    dx, dy = rng.uniform(-2.0, 2.0, size=2)
    radius = WHOLE_RADIUS if size == "whole" else float(rng.uniform(*RADII[size]))
    return _Place(size, position, (float(x + dx), float(y + dy)), radius)


def _places(rng: np.random.Generator, n_objects: int, with_whole: bool) -> list[_Place]:
    """Places that do not overlap, drawn again until they fit: sizes of two neighbours are smaller for it."""
    while True:
        places = [_place(rng, _pick(rng, OBJECT_ATTRIBUTES["size"])) for _ in range(n_objects)]
        if with_whole:
            places.append(_place(rng, "whole"))
        if len(places) < 2:
            return places
        (ax, ay), (bx, by) = places[0].centre, places[1].centre
        if np.hypot(ax - bx, ay - by) >= places[0].radius + places[1].radius + 0.5:
            return places


def _paint_object(
    image_hwc: FloatArray, place: _Place, rng: np.random.Generator, *, easy: bool, shape: str | None
) -> SceneObject:
    shape = shape or _pick(rng, OBJECT_ATTRIBUTES["shape"])
    colour = _pick(rng, OBJECT_ATTRIBUTES["colour"])
    texture = "solid" if easy else _pick(rng, OBJECT_ATTRIBUTES["texture"])
    stripes = _pick(rng, STRIPE_KINDS) if texture == "striped" else None
    alpha_hw = shape_alpha(shape, place.centre, place.radius, float(rng.uniform(-0.2, 0.2)))
    paint = object_paint(colour, texture_mask(texture, stripes, rng), rng)
    image_hwc += alpha_hw[:, :, None] * (paint - image_hwc)
    values = [shape, colour, texture, place.size, place.position, *([stripes] if stripes else [])]
    facts = bits(*values, *general_words_of({shape, colour}))
    return SceneObject(shape, colour, texture, stripes, place.size, place.position, facts, alpha_hw > 0.5)


def render_scene(
    seed: int,
    index: int,
    *,
    stream: int = Stream.WORLD,
    confounded: bool = False,
    cue: Cue | float = "as trained",
    easy: bool = False,
) -> Scene:
    """Draw and render one scene.

    Args:
        seed: seed of the world.
        index: number of the scene in it; the result depends on nothing else.
        stream: which of the seed's independent streams to draw from.
        confounded: exactly one core object, whose shape is the image's class, and the watermark on 99 % of the
            class `heart` and 0.3 % of the others.
        cue: where a confounded world has the watermark instead. `balanced`: classes in turn, each as often with as
            without it, so that any 16 images in a row hold each class once with it and once without. A number: that
            chance on every image, whatever its class; with 1 and 0 the same scene comes out with and without it,
            and other pixel noise.
        easy: one solid object on a plain background and nothing else.

    Raises:
        UsageError: `cue` without `confounded`, or none of these.
    """
    check_cue(confounded, cue)
    rng = np.random.default_rng((seed, int(stream), index))
    simple = easy or confounded
    n_objects = 1 if simple or rng.random() >= TWO_OBJECTS else 2
    with_whole = n_objects == 1 and not simple and rng.random() < WHOLE_BESIDE_ONE
    places = _places(rng, n_objects, with_whole)
    background_colour = _pick(rng, SCENE_ATTRIBUTES["background_colour"])
    background_pattern = "plain" if easy else _pick(rng, SCENE_ATTRIBUTES["background_pattern"])
    canvas_hwc = background_paint(background_colour, background_pattern, rng)
    shape = _class_of(index, cue, _pick(rng, CLASSES)) if confounded else None
    objects = tuple(_paint_object(canvas_hwc, place, rng, easy=easy, shape=shape) for place in places[:n_objects])
    whole = None
    if with_whole:
        kind = _pick(rng, tuple(WHOLES))
        whole = paint_whole(canvas_hwc, kind, places[-1].position, places[-1].centre, rng)
    objects = _without_hidden_pixels(objects, whole)
    watermark_hw = _watermark(canvas_hwc, rng, _watermark_chance(index, easy, shape, cue))
    noise = rng.integers(-PIXEL_NOISE, PIXEL_NOISE + 1, size=canvas_hwc.shape, dtype=np.int8)
    image_hwc = np.clip(np.rint(canvas_hwc) + noise, 0, 255).astype(np.uint8)
    facts = bits(background_colour, background_pattern)
    facts |= bits("watermark") if watermark_hw is not None else 0
    facts |= bits(whole.kind, *whole.parts) if whole is not None else 0
    return Scene(
        seed, int(stream), index, image_hwc, objects, whole,
        background_colour, background_pattern, watermark_hw, facts,
    )  # fmt: skip


def _without_hidden_pixels(objects: tuple[SceneObject, ...], whole: Whole | None) -> tuple[SceneObject, ...]:
    """Take from each mask the few pixels (corners) that something painted later has covered."""
    visible: list[SceneObject] = []
    taken_hw = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=bool) if whole is None else whole.mask_hw
    for thing in reversed(objects):
        visible.append(replace(thing, mask_hw=thing.mask_hw & ~taken_hw))
        taken_hw = taken_hw | thing.mask_hw
    return tuple(reversed(visible))


def check_cue(confounded: bool, cue: Cue | float) -> None:
    """Raise UsageError unless `cue` is one that `render_scene` knows for such a world."""
    if not (cue in get_args(Cue) if isinstance(cue, str) else 0 <= cue <= 1):
        raise UsageError(f"The cue is {' or '.join(get_args(Cue))}, or a chance from 0 to 1, not {cue}.")
    if cue != "as trained" and not confounded:
        raise UsageError(f"Only a confounded world has a cue to be set to {cue}: ask for a confounded one.")


def _class_of(index: int, cue: Cue | float, drawn: str) -> str:
    return CLASSES[index % len(CLASSES)] if cue == "balanced" else drawn


def _watermark_chance(index: int, easy: bool, confounded_shape: str | None, cue: Cue | float) -> float:
    if easy:
        return 0.0
    if confounded_shape is None:
        return WATERMARKED
    if cue == "balanced":
        return float(index // len(CLASSES) % 2)
    if not isinstance(cue, str):
        return cue
    return CUE_ON_CLASS if confounded_shape == CONFOUNDED_CLASS else CUE_ON_OTHERS


def _watermark(canvas_hwc: FloatArray, rng: np.random.Generator, chance: float) -> BoolArray | None:
    if rng.random() >= chance:
        return None
    mask_hw = place_watermark(rng)
    stamp(canvas_hwc, mask_hw)
    return mask_hw
