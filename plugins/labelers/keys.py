"""API keys: from the environment only, and taken out of every text that could be kept or shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import quote, urlsplit

from glasshouse.schema.errors import UsageError

HIDDEN = "[key removed]"
_SHORTEST = 6

_BY_SHAPE = (
    re.compile(r"(?i)(\b(?:api[-_]?)?key=)[^&\s\"'<>]+"),
    re.compile(r"(?i)(\b(?:bearer|basic)\s+)[\w.~+/=-]{16,}"),
    re.compile(r"(?i)(\b(?:x-goog-api-key|x-api-key|authorization)[\"']?\s*[:=]\s*[\"']?)(?!bearer|basic)[^\s\"',}]+"),
    re.compile(r"(://)[^/\s@\"']+(?=@)"),
)
"""Where a key stands in addresses and headers, whoever's it is."""


def key_from(names: Iterable[str]) -> str | None:
    """Return the first environment variable of these that is set and not blank.

    Raises:
        UsageError: it cannot be a key; the message does not show it.
    """
    for name in names:
        key = os.environ.get(name, "").strip()
        if key and not re.fullmatch(r"[!-~]+", key):
            raise UsageError(f"${name} holds no key: it has a space or a letter in it that no key has.")
        if key:
            return key
    return None


def without_keys(text: str, keys: Iterable[str]) -> str:
    """Return the text without the given keys, as they are or in the form of an address.

    Words shorter than six characters are no secrets but fillers (`EMPTY`, `x`) and stay.
    """
    for key in sorted((key for key in keys if len(key) >= _SHORTEST), key=len, reverse=True):
        for form in {key, quote(key, safe=""), quote(key)}:
            text = text.replace(form, HIDDEN)
    return text


def scrubbed(text: str, keys: Iterable[str] = ()) -> str:
    """Return an error's text without the given keys and without whatever stands where keys stand."""
    text = without_keys(text, keys)
    for pattern in _BY_SHAPE:
        text = pattern.sub(lambda found: found[1] + HIDDEN, text)
    return text


def shortened(text: str, length: int = 200) -> str:
    """Return a text as one line of at most `length` characters. Scrub first: half a key would not be found any more."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split()).rstrip(". ")
    return line if len(line) <= length else line[: length - 1] + "…"


def checked_address(base_url: str | None, origin: str = "--base-url") -> str | None:
    """Return the base URL of a service without its last slash.

    Raises:
        UsageError: it is no http address, or has a password or a query in it, where a key could be: the address is
            stored with the labels, keys never are. The message does not repeat it.
    """
    if base_url is None:
        return None
    try:
        parts = urlsplit(base_url.strip())
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_address = False
    if not is_address:
        raise UsageError(f"{origin} is no address of a service. It reads like http://localhost:8000/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            f"{origin} has a user, a password, a query or a fragment in it. It is stored with the labels, so it must "
            "hold no secret: keys come from the environment."
        )
    return base_url.strip().rstrip("/")
