"""Text that others wrote, as one line that a terminal can show."""

from __future__ import annotations

import unicodedata
from typing import Any

_HIDDEN_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}
"""Control characters (ANSI escapes start with one), halves of surrogate pairs, line and paragraph separators."""

_DIRECTIONS = frozenset(map(chr, (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""Characters that turn the direction of writing, with which a text can look like another one."""


def plain(value: Any) -> str:
    """Return a value as one line of visible text: white space becomes blanks, control characters go."""
    text = str(value)
    for separator in "\n\r\t\v\f\u2028\u2029\x85":
        text = text.replace(separator, " ")
    return "".join(c for c in text if unicodedata.category(c) not in _HIDDEN_CATEGORIES and c not in _DIRECTIONS)
