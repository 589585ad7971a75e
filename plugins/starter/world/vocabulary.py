"""The words of the starter world and the bit that each of them has in a set of facts.

Owns every value that can be true of a scene. A set of facts is an integer: bit `BIT[value]` is set when the
value holds. All names are distinct across attributes, so that a value needs no prefix.
"""

from __future__ import annotations

from typing import Final

IMAGE_SIZE: Final = 64
"""Side of a rendered image, in pixels."""

OBJECT_ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "shape": ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent"),
    "colour": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"),
    "texture": ("solid", "striped", "dotted", "checkered"),
    "size": ("small", "large"),
    "position": ("top left", "top right", "bottom left", "bottom right", "centre"),
}
SCENE_ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "background_colour": ("white", "grey", "black", "beige"),
    "background_pattern": ("plain", "grid", "wavy", "speckled"),
    "watermark": ("watermark",),
}
CORE_ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {**OBJECT_ATTRIBUTES, **SCENE_ATTRIBUTES}
"""The eight attributes and 36 values by which models of this world are judged."""

CORE_VALUES: Final[tuple[str, ...]] = tuple(v for values in CORE_ATTRIBUTES.values() for v in values)

GENERAL_WORDS: Final[dict[str, frozenset[str]]] = {
    "polygon": frozenset({"square", "triangle", "star", "cross"}),
    "round": frozenset({"circle", "ring", "crescent", "heart"}),
    "warm": frozenset({"red", "orange", "yellow"}),
    "cool": frozenset({"blue", "green", "purple"}),
}
"""Words that stand for several values. Cyan and pink are named neither warm nor cool in this world."""

STRIPE_KINDS: Final[tuple[str, ...]] = ("thin", "thick")
"""Kinds within the kind `striped`."""

WHOLES: Final[dict[str, tuple[str, ...]]] = {
    "house": ("walls", "roof", "door", "window"),
    "face": ("eyes", "mouth"),
}
"""Objects that have parts, in neutral colours of their own; they have none of the core object attributes."""

PARTS: Final[tuple[str, ...]] = tuple(p for parts in WHOLES.values() for p in parts)

ALL_VALUES: Final[tuple[str, ...]] = (
    *CORE_VALUES, *GENERAL_WORDS, *STRIPE_KINDS, *WHOLES, *PARTS,
)  # fmt: skip
BIT: Final[dict[str, int]] = {value: position for position, value in enumerate(ALL_VALUES)}

COLOUR_RGB: Final[dict[str, tuple[int, int, int]]] = {
    "red": (218, 38, 38), "orange": (245, 138, 28), "yellow": (245, 222, 50), "green": (46, 158, 60),
    "cyan": (60, 210, 220), "blue": (45, 75, 208), "purple": (128, 56, 170), "pink": (246, 140, 192),
}  # fmt: skip
BACKGROUND_RGB: Final[dict[str, tuple[int, int, int]]] = {
    "white": (243, 243, 243), "grey": (128, 128, 128), "black": (22, 22, 22), "beige": (214, 198, 164),
}  # fmt: skip


def bits(*values: str) -> int:
    """The set of facts that holds exactly `values`."""
    facts = 0
    for value in values:
        facts |= 1 << BIT[value]
    return facts


def general_words_of(values: set[str]) -> tuple[str, ...]:
    """The general words that hold when the given shapes and colours do."""
    return tuple(word for word, members in GENERAL_WORDS.items() if members & values)


POSSIBLE_IN_CROPS: Final[int] = bits(*OBJECT_ATTRIBUTES["size"], *OBJECT_ATTRIBUTES["position"])
"""What a crop can no longer tell: size and position are those of the whole scene."""
ANY_OBJECT_FACT: Final[int] = bits(
    *(v for values in OBJECT_ATTRIBUTES.values() for v in values), *GENERAL_WORDS, *STRIPE_KINDS
)
