"""Sentences into which words are put before they are compared with a feature: as a noun, an adjective or a verb.

The published method has ten of each (CFM, arXiv 2601.13798); the sentences are this project's own. What a word is, is
not looked up: every word goes into every set, and the set that fits best says how the word was taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

TEMPLATE_SETS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "noun": (
            "a photo of a {}.",
            "a picture that shows a {}.",
            "a close view of a {}.",
            "a photo of one {} among other things.",
            "a part of a {}.",
            "here is a {}.",
            "a {} in the foreground.",
            "a {} seen from the side.",
            "a small picture of the {}.",
            "a drawing of a {}.",
        ),
        "adjective": (
            "a photo of something {}.",
            "a {} thing.",
            "a picture of a {} object.",
            "a {} surface, seen closely.",
            "a {} place.",
            "everything here is {}.",
            "it looks {}.",
            "a photo with a {} part.",
            "a {} shape.",
            "something that is {}.",
        ),
        "verb": (
            "a photo of someone who is {}.",
            "a picture of people {}.",
            "an animal that is {}.",
            "a photo of {}.",
            "somebody is {} here.",
            "a scene of {} outdoors.",
            "a scene of {} indoors.",
            "two of them are {}.",
            "a picture taken while {}.",
            "the act of {}.",
        ),
    }
)
