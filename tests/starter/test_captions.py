"""Captions are true of their scenes, by a reading of the words that knows nothing of bit sets."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.plugins.starter.training.data import crop_box, crop_facts, cropped_picture
from glasshouse.plugins.starter.world import Caption, Scene, captions_of, prompt, render_scene, truth
from glasshouse.plugins.starter.world.captions import make_caption, requirement
from glasshouse.plugins.starter.world.truth import facts_of, pack_captions, pack_facts, truth_matrix
from glasshouse.plugins.starter.world.vocabulary import ALL_VALUES

KINDS = {
    "polygon": {"square", "triangle", "star", "cross"}, "round": {"circle", "ring", "crescent", "heart"},
    "warm": {"red", "orange", "yellow"}, "cool": {"blue", "green", "purple"},
}  # fmt: skip
BACKGROUND = {"white", "grey", "black", "beige", "plain", "grid", "wavy", "speckled"}
THINGS = {"house", "face", "walls", "roof", "door", "window", "eyes", "mouth"}
FILLERS = {"a", "an", "in", "the", "with", "on", "shape", "stripes", "background"}


def has(thing: object, word: str) -> bool:
    own = {getattr(thing, name) for name in ("shape", "colour", "texture", "size", "position", "stripes")}
    return word in own or bool(KINDS.get(word, set()) & own)


def words_of(phrase: str) -> set[str]:
    phrase = re.sub(r"\b(top|bottom) (left|right)\b", r"\1_\2", phrase)
    return {word.replace("_", " ") for word in phrase.split()} - FILLERS


def in_scene(scene: Scene, word: str) -> bool:
    if word == "watermark":
        return scene.watermark_hw is not None
    if word in BACKGROUND:
        return word in (scene.background_colour, scene.background_pattern)
    return scene.whole is not None and (word == scene.whole.kind or word in scene.whole.parts)


def reads_true(text: str, scene: Scene) -> bool:
    """Read a caption word by word: what is said of objects must hold of different objects."""
    text = re.sub(r"^(a picture of|a photo of|an image of) ", "", text)
    asked: list[set[str]] = []
    for phrase in text.split(" and "):
        words = words_of(phrase)
        of_scene = {word for word in words if word in BACKGROUND | THINGS | {"watermark"}}
        if not all(in_scene(scene, word) for word in of_scene):
            return False
        if words - of_scene:
            asked.append(words - of_scene)
    if len(asked) > len(scene.objects):
        return False
    orders = [scene.objects, scene.objects[::-1]]
    return any(
        all(all(has(thing, word) for word in words) for words, thing in zip(asked, order, strict=False))
        for order in orders
    )


def test_captions_read_true_of_their_own_scene(scenes: list[Scene]) -> None:
    for scene in scenes:
        for caption in captions_of(scene, 6):
            assert truth(caption, scene) is True
            assert reads_true(caption.text, scene), (caption.text, scene.values())


def test_truth_agrees_with_the_words_on_other_scenes(scenes: list[Scene]) -> None:
    captions = [caption for scene in scenes[:100] for caption in captions_of(scene, 3)]
    table = truth_matrix(pack_captions(captions), pack_facts([facts_of(scene) for scene in scenes]))
    read = np.array([[reads_true(caption.text, scene) for scene in scenes] for caption in captions])
    assert np.array_equal(table == 1, read)
    assert set(np.unique(table)) == {0, 1}
    assert 0.02 < read.mean() < 0.5


def test_captions_are_the_same_every_time(scenes: list[Scene]) -> None:
    again = render_scene(3, 17)
    assert captions_of(again) == captions_of(scenes[17])
    assert captions_of(again, 2) == captions_of(again, 6)[:2]


def test_general_words_are_in_about_a_quarter(scenes: list[Scene]) -> None:
    texts = [caption.text.split() for scene in scenes for caption in captions_of(scene)]
    share = np.mean([bool(set(KINDS) & set(words)) for words in texts])
    assert share == pytest.approx(0.26, abs=0.05)


def test_every_value_is_spoken_of(scenes: list[Scene]) -> None:
    text = " ".join(caption.text for scene in scenes for caption in captions_of(scene, 8))
    counts = Counter({value: text.count(value) for value in ALL_VALUES})
    assert min(counts.values()) > 5, counts.most_common()[-3:]


@pytest.mark.parametrize("value", ALL_VALUES)
def test_prompt_of_a_value_is_true_where_the_value_is(value: str, scenes: list[Scene]) -> None:
    for scene in scenes[:60]:
        assert truth(requirement(value), scene) is (value in scene.values())
        assert value in prompt(value)


def test_two_alike_need_two_objects() -> None:
    scene = next(s for s in (render_scene(0, i) for i in range(100)) if len(s.objects) == 1)
    shape = scene.objects[0].facts
    assert truth(Caption("", (shape,)), scene) is True
    assert truth(Caption("", (shape, shape)), scene) is False


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 10_000), seed=st.integers(0, 3))
def test_captions_of_a_crop_are_never_false_of_the_scene(index: int, seed: int) -> None:
    """What is certain of a crop is certain of the scene; size and position are unknown in it."""
    scene = render_scene(seed, index)
    rng = np.random.default_rng((seed, index))
    box = crop_box(scene.objects[0].mask_hw, rng)
    facts = crop_facts(scene, box)
    for _ in range(5):
        caption = make_caption(facts, rng)
        assert truth(caption, facts) is True
        assert reads_true(caption.text, scene), caption.text
        assert not re.search(r"\b(small|large|left|right|centre)\b", caption.text)
    assert truth(requirement("small"), facts) is None


def test_a_crop_shows_the_object_and_enlarges_it(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    for scene in scenes[:50]:
        picture = cropped_picture(scene, rng)
        assert picture.image_hwc.shape == (64, 64, 3)
        assert picture.object_mask_hw.sum() > max(thing.mask_hw.sum() for thing in scene.objects) * 0.3
        assert any(certain for certain, _ in picture.facts.objects)
