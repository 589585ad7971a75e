"""Rows that several measurements make in the same way: the time of a query, the peak of a process."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.table import Row
from benchmarks.timing import percentile, seconds

N_CALLS = 30
"""Calls of which the median is told, unless a measurement asks for others."""


def latency_row(
    group: str, what: str, ask: Callable[[], object], target_ms: float | None = None, n_calls: int = N_CALLS
) -> Row:
    """Median and 95th percentile of warm calls; the first two open and cache, and are not counted."""
    ask()
    ask()
    times_ms = [1000 * seconds(ask) for _ in range(n_calls)]
    median = statistics.median(times_ms)
    return Row(
        group,
        what,
        f"{median:.1f} ms (95 %: {percentile(times_ms, 0.95):.1f})",
        target="" if target_ms is None else f"<= {target_ms:g} ms",
        met=None if target_ms is None else median <= target_ms,
    )


def peak_row(group: str, what: str, root: Path, space: str, target_gib: float = 4) -> Row:
    """Peak of a new process: `python -m benchmarks.GROUP ROOT SPACE`, which prints it in MiB as JSON."""
    words = [sys.executable, "-m", f"benchmarks.{group}", str(root), space]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    gib = float(json.loads(done.stdout)) / 1024
    return Row(group, what, f"{gib:.1f} GiB", target=f"<= {target_gib:g} GiB", met=gib <= target_gib)
