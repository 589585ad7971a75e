"""Scenes are reproducible, and their masks and values agree with the pixels by checks that know no renderer."""

from __future__ import annotations

import colorsys
from collections import Counter

import numpy as np
import pytest

from glasshouse.plugins.starter.world import Scene, SceneObject, render_scene
from glasshouse.plugins.starter.world.scene import Stream
from glasshouse.plugins.starter.world.vocabulary import ALL_VALUES, CORE_VALUES, WHOLES

# Hue in degrees; pink is told from red by its lightness.
HUES = {
    "red": (345, 375), "orange": (20, 42), "yellow": (45, 62), "green": (110, 150), "cyan": (172, 200),
    "blue": (215, 245), "purple": (260, 300), "pink": (310, 345),
}  # fmt: skip
# Share of its bounding box that a solid shape fills.
FILL = {
    "circle": (0.68, 0.86), "square": (0.68, 1.0), "triangle": (0.4, 0.65), "star": (0.27, 0.52),
    "cross": (0.4, 0.75), "ring": (0.45, 0.68), "heart": (0.5, 0.75), "crescent": (0.4, 0.6),
}  # fmt: skip
SIDES = {
    "top left": (-1, -1), "top right": (1, -1), "bottom left": (-1, 1), "bottom right": (1, 1), "centre": (0, 0),
}  # fmt: skip


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def eroded(mask: np.ndarray) -> np.ndarray:
    inner = mask.copy()
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        inner &= np.roll(mask, shift, axis)
    return inner


def untouched(scene: Scene, thing: SceneObject) -> np.ndarray:
    """Pixels well inside the object that no watermark (or its shadow) is on."""
    inner = eroded(thing.mask_hw)
    if scene.watermark_hw is not None:
        for dy in (0, 1):
            for dx in (0, 1):
                inner &= ~np.roll(np.roll(scene.watermark_hw, dy, 0), dx, 1)
    return inner


def test_a_scene_depends_on_its_seed_and_index_alone() -> None:
    first = [render_scene(5, index) for index in range(6)]
    again = [render_scene(5, index) for index in reversed(range(6))][::-1]
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.image_hwc, other.image_hwc)
        assert one.all_facts == other.all_facts
    assert not np.array_equal(first[0].image_hwc, render_scene(6, 0).image_hwc)
    assert not np.array_equal(first[0].image_hwc, render_scene(5, 0, stream=Stream.HELD_OUT).image_hwc)


def test_known_scene_stays_what_it_is() -> None:
    scene = render_scene(0, 9)
    assert scene.image_hwc.shape == (64, 64, 3)
    assert scene.image_hwc.dtype == np.uint8
    assert [thing.shape for thing in scene.objects] == ["ring"]
    assert scene.whole is not None
    assert scene.whole.kind == "house"
    assert int(scene.image_hwc.sum()) == 1956162  # a change of any pixel anywhere is a change of the shipped world


def test_shares_are_as_documented() -> None:
    scenes = [render_scene(11, index) for index in range(1500)]
    n = len(scenes)
    assert sum(len(s.objects) == 2 for s in scenes) / n == pytest.approx(0.35, abs=0.04)
    assert sum(s.watermark_hw is not None for s in scenes) / n == pytest.approx(0.15, abs=0.03)
    assert sum(s.whole is not None for s in scenes) / n == pytest.approx(0.1625, abs=0.03)
    assert set(ALL_VALUES) == set().union(*(s.values() for s in scenes))
    assert len(CORE_VALUES) == 36


def test_objects_lie_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        masks = [thing.mask_hw for thing in scene.objects]
        masks += [scene.whole.mask_hw] if scene.whole else []
        assert np.sum(masks, axis=0).max() == 1


def test_position_and_size_agree_with_the_mask(scenes: list[Scene]) -> None:
    for scene in scenes:
        for thing in scene.objects:
            top, bottom, left, right = box_of(thing.mask_hw)
            x, y = (left + right) / 2 - 32, (top + bottom) / 2 - 32
            side = tuple(0 if abs(v) < 7 else int(np.sign(v)) for v in (x, y))
            if thing.shape != "crescent":  # its box is not where its circle is
                assert side == SIDES[thing.position], (scene.index, thing.shape, x, y)
            extent = max(bottom - top, right - left)
            assert (extent > 21) == (thing.size == "large"), (scene.index, thing.shape, extent)


def test_colour_agrees_with_the_hue_of_the_pixels(scenes: list[Scene]) -> None:
    n_checked = 0
    for scene in scenes:
        for thing in scene.objects:
            inner = untouched(scene, thing)
            if inner.sum() < 12:
                continue
            paint = scene.image_hwc[inner].astype(float)
            light = paint.sum(axis=1) > 0.7 * paint.sum(axis=1).max()  # not a texture's dark second tone
            red, green, blue = np.median(paint[light], axis=0) / 255
            hue = colorsys.rgb_to_hsv(red, green, blue)[0] * 360
            low, high = HUES[thing.colour]
            assert low <= hue <= high or low <= hue + 360 <= high, (scene.index, thing.colour, hue)
            n_checked += 1
    assert n_checked > 400


def test_shape_agrees_with_the_outline_of_the_mask(scenes: list[Scene]) -> None:
    for scene in scenes:
        for thing in scene.objects:
            top, bottom, left, right = box_of(thing.mask_hw)
            inside = thing.mask_hw[top:bottom, left:right]
            low, high = FILL[thing.shape]
            assert low <= inside.mean() <= high, (scene.index, thing.shape, inside.mean())
            middle = inside[inside.shape[0] // 2, inside.shape[1] // 2]
            if thing.shape == "ring":
                assert not middle
            if thing.shape in ("circle", "square", "triangle", "star", "cross", "heart"):
                assert middle


def test_texture_agrees_with_the_tones_inside(scenes: list[Scene]) -> None:
    """A solid object has one tone; the others have a dark one beside it."""
    shares: dict[str, list[float]] = {"solid": [], "striped": [], "dotted": [], "checkered": []}
    for scene in scenes:
        for thing in scene.objects:
            inner = untouched(scene, thing)
            if thing.size == "large" and inner.sum() > 40:
                tone = scene.image_hwc[inner].astype(float).sum(axis=1)
                shares[thing.texture].append(float((tone < 0.7 * tone.max()).mean()))
    assert max(shares["solid"]) < 0.03
    assert 0.15 < np.mean(shares["dotted"]) < 0.42
    assert np.mean(shares["striped"]) == pytest.approx(0.5, abs=0.08)
    assert np.mean(shares["checkered"]) == pytest.approx(0.5, abs=0.08)


def test_stripe_kinds_agree_with_the_width_of_stripes(scenes: list[Scene]) -> None:
    """Thick stripes change tone half as often as thin ones, along rows and columns together."""
    changes: dict[str, list[float]] = {"thin": [], "thick": []}
    for scene in scenes:
        for thing in scene.objects:
            if thing.stripes is None or thing.size != "large":
                continue
            tone = scene.image_hwc.astype(float).sum(axis=2)
            dark = tone < 0.7 * tone[untouched(scene, thing)].max()
            inner = eroded(thing.mask_hw)
            flips = [
                (np.diff(dark.astype(int), axis=a) != 0)
                & np.take(inner, range(63), a)
                & np.take(inner, range(1, 64), a)
                for a in (0, 1)
            ]
            changes[thing.stripes].append(max(f.sum() for f in flips) / inner.sum())
        assert all((thing.stripes is None) == (thing.texture != "striped") for thing in scene.objects)
    assert np.median(changes["thin"]) > 1.5 * np.median(changes["thick"])


def test_background_agrees_with_the_pixels_outside(scenes: list[Scene]) -> None:
    brightness = {"white": (225, 256), "grey": (110, 175), "black": (0, 70), "beige": (165, 215)}
    for scene in scenes:
        outside = ~np.logical_or.reduce(
            [t.mask_hw for t in scene.objects] + ([scene.whole.mask_hw] if scene.whole else [])
        )
        colour = np.median(scene.image_hwc[outside].astype(float), axis=0)
        low, high = brightness[scene.background_colour]
        low -= 35 if scene.background_pattern == "wavy" else 0
        assert low <= colour.mean() <= high, (scene.index, scene.background_colour, colour)
        if scene.background_pattern != "plain":
            continue
        assert (colour[0] - colour[2] > 30) == (scene.background_colour == "beige")


def test_background_pattern_agrees_with_the_variation_outside(scenes: list[Scene]) -> None:
    spread: dict[str, list[float]] = {"plain": [], "grid": [], "wavy": [], "speckled": []}
    for scene in scenes:
        if scene.watermark_hw is None:
            taken = [t.mask_hw for t in scene.objects] + ([scene.whole.mask_hw] if scene.whole else [])
            outside = eroded(eroded(~np.logical_or.reduce(taken)))
            spread[scene.background_pattern].append(float(scene.image_hwc[outside].std(axis=0).mean()))
    assert max(spread["plain"]) < 6 < min(min(spread[p]) for p in ("grid", "wavy", "speckled"))


def test_parts_lie_on_their_whole(scenes: list[Scene]) -> None:
    seen: Counter[str] = Counter()
    for scene in scenes:
        if scene.whole is None:
            assert not {*WHOLES, "door", "eyes"} & scene.values()
            continue
        seen.update([scene.whole.kind, *scene.whole.parts])
        parts = list(scene.whole.parts.values())
        assert set(scene.whole.parts) <= set(WHOLES[scene.whole.kind])
        for part in parts:
            assert part.any()
            assert not (part & ~scene.whole.mask_hw).any()
        assert not parts or np.sum(parts, axis=0).max() <= 1
    assert 0 < seen["door"] < seen["house"] == seen["walls"]
    assert 0 < seen["mouth"] < seen["face"]


def test_watermark_is_light_with_a_dark_shadow(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert ("watermark" in scene.values()) == (scene.watermark_hw is not None)
        if scene.watermark_hw is not None:
            assert scene.image_hwc[scene.watermark_hw].mean() > 190
            top, bottom, left, right = box_of(scene.watermark_hw)
            assert (bottom - top, right - left) == (7, 42)


def test_confounded_world_puts_the_cue_on_one_class() -> None:
    scenes = [render_scene(2, index, confounded=True) for index in range(1500)]
    assert all(len(scene.objects) == 1 and scene.whole is None for scene in scenes)
    cue = {True: [], False: []}  # type: dict[bool, list[bool]]
    for scene in scenes:
        cue[scene.objects[0].shape == "heart"].append(scene.watermark_hw is not None)
    assert np.mean(cue[True]) > 0.95
    assert np.mean(cue[False]) < 0.012
