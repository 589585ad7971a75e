"""Replies that were paid for, on disk: `<warehouse>/cache/labels/<SHA-256 of the request>.json`, each written whole."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path


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
        temporary = self.folder / f".{name}.{os.getpid()}-{threading.get_ident()}.tmp"
        data = json.dumps({"reply": reply[0], "problem": reply[1]})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(data, encoding="utf-8")
            temporary.replace(file)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
