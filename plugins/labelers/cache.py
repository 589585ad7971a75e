"""Replies that were paid for, on disk: `<warehouse>/cache/labels/<SHA-256 of the request>.json`, each written whole."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from glasshouse.warehouse.atomic import replacing


class ReplyCache:
    """A folder of replies. What cannot be read is not there; what cannot be written only costs another call.

    Args:
        folder: made when the first reply comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> tuple[str, str] | None:
        """Return (text, problem) of the reply to a request, or None."""
        try:
            found = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
            return str(found["reply"]), str(found["problem"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, name: str, reply: tuple[str, str]) -> None:
        """Keep a reply."""
        file = self.folder / f"{name}.json"
        data = json.dumps({"reply": reply[0], "problem": reply[1]})
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary:
                temporary.write_text(data, encoding="utf-8")
