"""What searching keeps in memory for as long as a `Warehouse` lives: encoders, text vectors, matrices of vectors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glasshouse.warehouse.contracts import Encoder
    from glasshouse.warehouse.search.text_cache import TextCache


@dataclass
class SearchMemory:
    """Filled on first use; nothing in it outlives what it was made from.

    Attributes:
        encoders: loaded ones by spec and device.
        texts: caches of text vectors by the encoder's fingerprint.
        matrices: by what they are of: the state that they were read in, and the vectors.
        catalogue: what was read from the catalogue, with the state of its files then.
    """

    encoders: dict[tuple[str, str], Encoder] = field(default_factory=dict)
    texts: dict[str, TextCache] = field(default_factory=dict)
    matrices: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    catalogue: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def of_catalogue(self, file: Path, what: str, read: Callable[[], Any]) -> Any:
        """Return something read from the catalogue, read anew when its file or its log has changed."""
        state = _state(file), _state(file.with_name(f"{file.name}.wal"))
        with self.lock:
            found = self.catalogue.get(what)
            if found is None or found[0] != state:
                found = self.catalogue[what] = (state, read())
        return found[1]


def _state(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
