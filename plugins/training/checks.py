"""What is refused before a training reads anything: numbers out of range, folders, and more memory than there is."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.training.request import Request

MOST_HELD_OUT = 0.5
"""Share of the images: what is measured on is not learnt from."""
BYTES_PER_NUMBER = 4


def check_numbers(request: Request) -> None:
    """See that shares, passes and rate are numbers in their range.

    Raises:
        UsageError: one is not; NaN and infinity are none.
    """
    for name, value in (("--learning-rate", request.learning_rate), ("--epochs", request.epochs)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} must be a number above zero, not {value}.")
    if not 0 < request.held_out <= MOST_HELD_OUT:
        raise UsageError(
            f"--held-out is the share of the images to measure on, above 0 and at most {MOST_HELD_OUT}, "
            f"not {request.held_out}."
        )


def bytes_needed(n_features: int, width: int, batch: int) -> int:
    """Bytes of W_enc and W_dec, their gradients, Adam's two moments of each (8·F·D numbers), and a batch's codes."""
    return BYTES_PER_NUMBER * (8 * n_features * width + batch * n_features)


def check_memory(n_features: int, width: int, batch: int, available: int | None = None) -> None:
    """See that a dictionary of F features of D numbers can be trained in this memory.

    Args:
        n_features: F.
        width: D.
        batch: vectors a step.
        available: bytes; all that the machine has, when None.

    Raises:
        UsageError: it cannot; says how much it takes.
    """
    needed = bytes_needed(n_features, width, batch)
    there = _memory() if available is None else available
    if needed > there:
        raise UsageError(
            f"{n_features:,} features of {width:,} numbers need {_gib(needed)} GiB of memory (weights, gradients, "
            f"Adam, and the codes of {batch:,} vectors), and there are {_gib(there)} GiB. Give fewer --features or "
            "a smaller --batch."
        )


def _memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gib(n_bytes: int) -> str:
    # Whole numbers: what is asked for may be larger than any float.
    tenths = n_bytes * 10 >> 30
    return f"{tenths // 10:,}.{tenths % 10}"
