"""What `check` reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One disagreement between parts of a warehouse.

    Attributes:
        where: the part, e.g. `space 'l8-cls'`.
        what: what is wrong.
        remedy: what the repair does; where there is none, what the user can do.
        repair: mends it; None where only the user can.
    """

    where: str
    what: str
    remedy: str
    repair: Callable[[], object] | None = None
