"""How long the command line takes to answer, process start included."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import interleaved

COMMAND = Path(sys.executable).parent / "glasshouse"


def run(setting: Setting) -> Iterator[Row]:
    """Yield `--help` and a query, beside a Python that does nothing."""
    root = setting.ready.root
    ways = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "glasshouse --help": [str(COMMAND), "--help"],
        "glasshouse sql": [str(COMMAND), "sql", "SELECT count(*) FROM images", "-w", str(root)],
    }
    for words in ways.values():
        _start(words)
    times = interleaved({name: partial(_start, words) for name, words in ways.items()}, 3 if setting.quick else 9)
    floor = statistics.median(times["python -c pass"])
    for name, limit in (("glasshouse --help", 0.4), ("glasshouse sql", 1.0)):
        median = statistics.median(times[name])
        yield Row(
            "startup",
            name,
            f"{median:.2f} s (best {min(times[name]):.2f})",
            f"{floor:.2f} s python -c pass",
            target=f"< {limit:g} s",
            met=median < limit,
        )


def _start(words: list[str]) -> None:
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "GLASSHOUSE_NO_PLUGINS": "1"})
