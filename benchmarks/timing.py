"""Measuring on a machine that others use too: the ways are run in turn, and medians are compared."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleaved(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Wall times of several ways of doing a thing, run in turn, so that a busy minute hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, action in ways.items():
            times[name].append(seconds(action))
            say(f"  {name}: {times[name][-1]:.2f} s")
    return times


def ratio(times: Mapping[str, Sequence[float]], one: str, other: str) -> float:
    """Median over the rounds of `one` / `other`: both of a round met the same load."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of the values lie, the nearest of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def say(words: str) -> None:
    """Tell on stderr what is going on; the table alone goes to stdout."""
    print(words, file=sys.stderr, flush=True)
