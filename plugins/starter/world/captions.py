"""Captions of a picture, each with the bits that it requires, and the prompts for single words.

A caption names a random part of what is there: so it may be true of other pictures too, which `truth` finds out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from glasshouse.plugins.starter.world.scene import Scene, Stream
from glasshouse.plugins.starter.world.truth import Caption, Facts, facts_of
from glasshouse.plugins.starter.world.vocabulary import (
    BIT,
    CORE_ATTRIBUTES,
    GENERAL_WORDS,
    OBJECT_ATTRIBUTES,
    PARTS,
    STRIPE_KINDS,
    WHOLES,
    bits,
)

_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    **CORE_ATTRIBUTES,
    "outline": ("polygon", "round"),
    "warmth": ("warm", "cool"),
    "stripes": STRIPE_KINDS,
    "whole": tuple(WHOLES),
}
_OPENINGS: Final = ("a picture of ", "a photo of ", "an image of ")
_MENTIONED: Final[dict[str, float]] = {
    "shape": 0.8, "colour": 0.6, "texture": 0.5, "size": 0.22, "position": 0.22,
}  # fmt: skip
GENERAL_SHARE: Final = 0.2
"""How often a general word stands in for a shape or a colour that is mentioned."""


def prompt(value: str) -> str:
    """The sentence that asks for one value of the vocabulary, such as "a striped shape"."""
    attribute = next((name for name, values in CORE_ATTRIBUTES.items() if value in values), "")
    if value == "round" or value in ("warm", "cool") or attribute in ("colour", "texture", "size"):
        return _with_article(f"{value} shape")
    if attribute == "position":
        return f"a shape in the {value}"
    if attribute.startswith("background"):
        return f"a {value} background"
    if value in STRIPE_KINDS:
        return f"a shape with {value} stripes"
    if value in ("walls", "eyes"):
        return value
    return f"a {value}"


def requirement(value: str, text: str | None = None) -> Caption:
    """The caption that requires exactly one value, by default in the words of `prompt`."""
    text = prompt(value) if text is None else text
    of_object = value in GENERAL_WORDS or value in STRIPE_KINDS
    if of_object or any(value in values for values in OBJECT_ATTRIBUTES.values()):
        return Caption(text, (bits(value),))
    return Caption(text, (), bits(value))


@lru_cache(maxsize=65536)
def _values(facts: int) -> dict[str, str]:
    found = {}
    for name, values in _GROUPS.items():
        for value in values:
            if facts >> BIT[value] & 1:
                found[name] = value
    return found


def _parts(facts: int) -> tuple[str, ...]:
    return tuple(part for part in PARTS if facts >> BIT[part] & 1)


def _with_article(noun_phrase: str) -> str:
    return ("an " if noun_phrase[0] in "aeiou" else "a ") + noun_phrase


def _object_phrase(facts: int, rng: np.random.Generator) -> tuple[str, int]:
    """A noun phrase for one object and the bits that it requires."""
    known = _values(facts)
    chance = dict(zip(_MENTIONED, rng.random(len(_MENTIONED)), strict=True))
    said = {name for name in _MENTIONED if name in known and chance[name] < _MENTIONED[name]}
    if not said:
        said = {"shape", "colour"}
    general = rng.random(3)
    named: list[str] = []

    def say(name: str) -> str:
        named.append(known[name])
        return known[name]

    noun = "shape"
    adjectives = [say("size")] if "size" in said else []
    if "colour" in said:
        adjectives.append(say("warmth" if general[0] < GENERAL_SHARE and "warmth" in known else "colour"))
    ending = ""
    if "texture" in said:
        if "stripes" in known and general[2] < 0.4:
            ending = f" with {say('stripes')} stripes"
        else:
            adjectives.append(say("texture"))
    if "shape" in said:
        word = say("outline" if general[1] < GENERAL_SHARE else "shape")
        noun = "round shape" if word == "round" else word
    if "position" in said:
        ending += f" in the {say('position')}"
    return _with_article(" ".join([*adjectives, noun])) + ending, bits(*named)


def _whole_phrase(facts: int, rng: np.random.Generator) -> tuple[str, int]:
    kind = _values(facts)["whole"]
    parts = [part for part in _parts(facts) if part in WHOLES[kind]]
    if not parts or rng.random() < 0.45:
        return f"a {kind}", bits(kind)
    part = parts[int(rng.integers(len(parts)))]
    if rng.random() < 0.4:
        return prompt(part), bits(part)
    return f"a {kind} with {prompt(part)}", bits(kind, part)


def _single_fact(facts: Facts, rng: np.random.Generator) -> Caption:
    """A caption of one value, one time in five as the bare word."""
    certain = facts.scene[0]
    for object_certain, _ in facts.objects:
        certain |= object_certain
    options = list(_values(certain).values())
    if _parts(certain):
        options.append(_parts(certain)[int(rng.integers(len(_parts(certain))))])
    value = options[int(rng.integers(len(options)))]
    bare = value if value not in STRIPE_KINDS else f"{value} stripes"
    return requirement(value, bare if rng.random() < 0.2 else None)


def make_caption(facts: Facts, rng: np.random.Generator) -> Caption:
    """One random caption that is certainly true of a picture with these facts."""
    opening = _OPENINGS[int(rng.integers(len(_OPENINGS)))] if rng.random() < 0.2 else ""
    if rng.random() < 0.25:
        caption = _single_fact(facts, rng)
        return Caption(opening + caption.text, caption.objects, caption.scene)
    whole_objects = [certain for certain, _ in facts.objects if certain]
    n_said = len(whole_objects) if rng.random() < 0.5 else min(1, len(whole_objects))
    order = rng.permutation(len(whole_objects))[:n_said]
    said = [_object_phrase(whole_objects[i], rng) for i in order]
    phrases, required = [text for text, _ in said], 0
    known = _values(facts.scene[0])
    if "whole" in known and rng.random() < 0.6:
        text, required = _whole_phrase(facts.scene[0], rng)
        phrases.append(text)
    ending = ""
    colour_said, pattern_said, watermark_said = rng.random(3) < (0.2, 0.2, 0.35)
    background = [known["background_colour"]] if colour_said else []
    background += [known["background_pattern"]] if pattern_said else []
    if background:
        ending += f" on a {' '.join(background)} background"
        required |= bits(*background)
    if watermark_said and "watermark" in known:
        ending += " with a watermark"
        required |= bits("watermark")
    text = opening + " and ".join(phrases) + ending
    return Caption(text, tuple(claim for _, claim in said), required)


def captions_of(scene: Scene, n_captions: int = 4) -> tuple[Caption, ...]:
    """Captions of a scene; they depend on (seed, stream, index) of the scene alone."""
    rng = np.random.default_rng((scene.seed, int(Stream.CAPTIONS), scene.stream, scene.index))
    facts = facts_of(scene)
    return tuple(make_caption(facts, rng) for _ in range(n_captions))
