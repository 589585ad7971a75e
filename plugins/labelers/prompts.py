"""What labelers that see pictures are asked, and the form of their answers.

The texts are part of every request: after a change of one, earlier replies in the cache answer nothing any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glasshouse.plugins.labelers.replies import cleaned

_TASK = """\
You are shown {pictures} on which one feature of a vision model is strongest, the strongest first{overlays}.
Name what these pictures have in common, as specifically as the pictures allow. Look at objects, parts, materials,
colours, textures, composition, style and text alike. Do not name what only one or two of them show.
{rating}
Reply with one JSON object and nothing else:
- "label": 2 to 5 words, lower case.
- "description": one or two sentences.
- "visual_elements": a list of up to six short phrases for what is seen in most of the pictures.
- "rating_effect": {effect}
- "confidence": a number from 0 to 1: how sure you are that the label is right."""

_OVERLAYS = """; after each picture the same picture follows
once more with a heat map over it: bright where the feature is active"""

_RATING = """
People have rated such pictures. The stronger this feature is on a picture, the {direction} its rating of
"{dimension}" tends to be (correlation {r:+.2f}).
"""

_YES_NO = """\
You are shown {n} numbered pictures. Say of each whether this description is true of it: "{text}"
Judge each picture by itself. Reply with one JSON object and nothing else:
- "answers": a list of {n} booleans, true or false, in the order of the pictures."""

_TEXT = {"type": "string"}

LABEL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "label": _TEXT,
        "description": _TEXT,
        "visual_elements": {"type": "array", "items": _TEXT},
        "rating_effect": _TEXT,
        "confidence": {"type": "number"},
    },
    "required": ["label", "description", "visual_elements", "rating_effect", "confidence"],
    "additionalProperties": False,
}
"""JSON Schema of a label; within what the strict modes of the services take."""

YES_NO_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"answers": {"type": "array", "items": {"type": "boolean"}}},
    "required": ["answers"],
    "additionalProperties": False,
}


def label_prompt(n_pictures: int, *, has_overlays: bool, dimension: str | None = None, r: float | None = None) -> str:
    """Return the instruction for naming a feature.

    Args:
        n_pictures: how many pictures follow, overlays not counted.
        has_overlays: whether each is followed by its heat map.
        dimension: the rating that the feature goes with, or None when there is none to explain.
        r: that correlation.
    """
    rating, effect = "", 'an empty string "".'
    if dimension is not None and r is not None:
        dimension = cleaned(dimension, 80).replace('"', "'")
        rating = _RATING.format(direction="higher" if r > 0 else "lower", dimension=dimension, r=r)
        effect = f'one sentence: why the feature might move the rating of "{dimension}".'
    return _TASK.format(
        pictures="one picture" if n_pictures == 1 else f"{n_pictures} pictures",
        overlays=_OVERLAYS if has_overlays else "",
        rating=rating,
        effect=effect,
    )


def yes_no_prompt(text: str, pictures: Sequence[object]) -> str:
    """Return the question whether a text is true of each picture."""
    return _YES_NO.format(n=len(pictures), text=cleaned(text, 200).replace('"', "'"))
