"""The one error family. Every message says what happened, where, and what to type next.

The command line has one place that catches `GlasshouseError` and prints its message as one line.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from glasshouse.schema.plain import plain


class GlasshouseError(Exception):
    """Something went wrong that the user can act on. The command line exits with `exit_code`.

    The message is one line whatever it quotes: names in files and replies of servers are others' text.
    """

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(plain(message))


class UsageError(GlasshouseError):
    """The request itself is wrong: a name that does not exist, a parameter out of range."""

    exit_code = 2


class WarehouseError(GlasshouseError):
    """A warehouse cannot be opened, read, written or trusted."""


class LockedError(WarehouseError):
    """Another process holds the catalogue and did not let go in time."""


class ModelError(GlasshouseError):
    """An encoder or a sparse autoencoder cannot be loaded or does not fit."""


class SourceError(GlasshouseError):
    """A file of images, ratings, captions or annotations cannot be read."""


class PluginError(GlasshouseError):
    """A plugin is broken or misdeclared; the message names it."""


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """Build the error for a name that is not registered: says the close ones and all known ones."""
    names = sorted(known)
    close = [known for known in names if name and known.startswith(name)] or get_close_matches(name, names, n=1)
    guess = f" Did you mean '{close[0]}'?" if close else ""
    listing = f" Known: {', '.join(names)}." if names else " There are none yet."
    return UsageError(f"There is no {kind} '{name}'.{guess}{listing}{' ' + hint if hint else ''}")
