"""Text that others wrote, made safe to show: labels, captions, paths, what plugins put into their columns.

Rule: whatever comes out of a warehouse goes through `plain` before a terminal or a picture shows it, and through
`escape` before it becomes HTML. Nothing is read as markup anywhere.
"""

from __future__ import annotations

import html
import json
import math
from typing import Any

from glasshouse.schema.plain import plain


def escape(value: Any) -> str:
    """Return a value as text inside HTML, in attributes too."""
    return html.escape(plain(value), quote=True)


def figure(value: Any, digits: int = 3) -> str:
    """Return a value as people read it: numbers with so many digits, lists and structures as JSON, NULL as –."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return plain(", ".join(value))
    if isinstance(value, list | tuple | dict):
        return plain(json.dumps(value, default=str, ensure_ascii=False))
    return plain(value)


def activation(value: float) -> str:
    """Return an activation with three digits, zeros at the end included, so that a row of them is easy to compare."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def shortened(text: str, n_characters: int) -> str:
    """Return a text of at most so many characters, its middle left out where it is longer."""
    if len(text) <= n_characters:
        return text
    tail = max(0, (n_characters - 1) * 2 // 3)
    return f"{text[: n_characters - 1 - tail]}…{text[len(text) - tail :]}"
