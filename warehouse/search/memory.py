"""What searching keeps in memory for as long as a `Warehouse` lives: encoders, text vectors, matrices of vectors."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
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
    """

    encoders: dict[tuple[str, str], Encoder] = field(default_factory=dict)
    texts: dict[str, TextCache] = field(default_factory=dict)
    matrices: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
