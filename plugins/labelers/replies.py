"""Replies of models, which are untrusted text: read leniently, checked strictly, cleaned before they are kept."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from glasshouse.plugins.labeling import BadReply, FeatureLabel

LABEL_LENGTH = 80
"""Characters of a label, and of one visual element."""
TEXT_LENGTH = 600
"""Characters of a description."""
REPLY_LENGTH = 4000
"""Characters that are kept of a reply that is no label."""
MOST_WORDS = 10
"""A label of more words is a sentence. The prompt asks for 2 to 5; a few more are no reason to throw it away."""
MOST_ELEMENTS = 12
_PLACES = 20
"""Opening braces of a reply at which an object is looked for."""


def cleaned(text: str, length: int) -> str:
    """Return a text as one line without control, format and unassigned characters, cut to `length` characters.

    Format characters are among them because they can turn the direction of what follows on a screen.
    """
    kept = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    line = " ".join(kept.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def kept_reply(text: str) -> str:
    """Return what is kept of a reply that is no label; line breaks stay."""
    return "\n".join(cleaned(line, REPLY_LENGTH) for line in text[: 2 * REPLY_LENGTH].splitlines())[:REPLY_LENGTH]


def read_label(reply: str) -> FeatureLabel:
    """Return the label in a reply.

    Raises:
        BadReply: no JSON object, no label, or values of other types than were asked for.
    """
    found = _json_object(reply)
    label = cleaned(_text(found, "label", reply), LABEL_LENGTH)
    if not label:
        raise BadReply("the reply has no label", reply)
    if len(label.split()) > MOST_WORDS or label.endswith("…"):
        raise BadReply("the label is longer than a label", reply)
    elements = found.get("visual_elements", [])
    if not isinstance(elements, list) or not all(isinstance(element, str) for element in elements):
        raise BadReply("'visual_elements' is no list of texts", reply)
    short = (cleaned(element, LABEL_LENGTH) for element in elements[:MOST_ELEMENTS])
    return FeatureLabel(
        label,
        cleaned(_text(found, "description", reply), TEXT_LENGTH),
        tuple(element for element in short if element),
        cleaned(_text(found, "rating_effect", reply), TEXT_LENGTH),
        _confidence(found, reply),
    )


def read_answers(reply: str, n: int) -> list[bool]:
    """Return the n answers of yes or no in a reply.

    Raises:
        BadReply: there are not n, or not all are yes or no.
    """
    answers = _json_object(reply).get("answers")
    if not isinstance(answers, list) or len(answers) != n or not all(isinstance(answer, bool) for answer in answers):
        raise BadReply(f"'answers' is no list of {n} booleans", reply)
    return answers


def _json_object(reply: str) -> dict[str, Any]:
    """Return the first JSON object in a reply; words or a code fence around it do not matter."""
    decoder, start = json.JSONDecoder(), -1
    for _ in range(_PLACES):
        start = reply.find("{", start + 1)
        if start < 0:
            break
        try:
            found: dict[str, Any] = decoder.raw_decode(reply, start)[0]
        except (ValueError, RecursionError):
            continue
        return found
    raise BadReply("the reply is no JSON object" if reply.strip() else "the reply is empty", reply)


def _text(found: dict[str, Any], name: str, reply: str) -> str:
    value = found.get(name, "")
    if not isinstance(value, str):
        raise BadReply(f"'{name}' is no text", reply)
    return value


def _confidence(found: dict[str, Any], reply: str) -> float | None:
    value = found.get("confidence")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise BadReply("'confidence' is no number from 0 to 1", reply)
    return float(value)
