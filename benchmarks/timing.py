"""Measuring on a machine that others use too: the ways are run in turn, and medians are compared."""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def processor_seconds(action: Callable[[], object]) -> float:
    """Processor time that one call takes in this process, all threads together."""
    start = time.process_time()
    action()
    return time.process_time() - start


def interleaved(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Wall times of several ways of doing a thing, run in turn, so that a busy minute hits all of them.

    The processor times are there too, as `NAME, processor`: other processes hardly touch those.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        for name, action in ways.items():
            start = time.perf_counter()
            times[f"{name}, processor"].append(processor_seconds(action))
            times[name].append(time.perf_counter() - start)
            say(f"  {name}: {times[name][-1]:.2f} s, processor {times[f'{name}, processor'][-1]:.2f} s")
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
