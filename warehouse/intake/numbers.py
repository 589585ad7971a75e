"""What counts as a number, and what as a missing one, in a table of text."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "-"})


class BadValueError(ValueError):
    """A value that is no number; the message is one clause that says why."""


def parse_number(text: str) -> float | None:
    """Return the number that `text` is, or None when the value is missing ('', NA, nan, null, None, -).

    Raises:
        BadValueError: anything else that is no finite decimal number.
    """
    trimmed = text.strip()
    if _NUMBER.fullmatch(trimmed):
        number = float(trimmed)
        if math.isfinite(number):
            return number
        raise BadValueError(f"'{trimmed}' is too large")
    if trimmed.casefold() in _MISSING:
        return None
    raise BadValueError(f"'{trimmed[:60]}' is not a number")
