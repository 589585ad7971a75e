"""Peak memory of an extraction, in a process of its own, with few images and with four times as many."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pictures import write_pictures
from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import say
from glasshouse.plugins.manager import Plugins
from glasshouse.warehouse.warehouse import SpaceSpec, Warehouse

FEW = 5_000
TIMES = 4
ENCODER = "starter:clip"
SPACES: list[SpaceSpec] = [
    ("patches", "blocks.2.resid_post", "patches", "starter:sae-patches"),
    ("cls", "blocks.3.resid_post", "cls", "starter:sae-cls"),
]


def run(setting: Setting) -> Iterator[Row]:
    """Yield the peaks of adding and of extracting: 64 × 64 PNGs, two spaces and an embedding of the starter's CLIP."""
    few = FEW // 50 if setting.quick else FEW
    peaks: dict[str, list[float]] = {"add": [], "extract": []}
    for n in (few, TIMES * few):
        say(f"  {n:,} images")
        pictures, root = setting.scratch / f"pictures-{n}", setting.scratch / f"memory-{n}.glasshouse"
        write_pictures(pictures, n, (64, 64), ".png")
        for step, mebibytes in peaks.items():
            mebibytes.append(_in_process(step, root, pictures))
            say(f"  {step}: {mebibytes[-1]:.0f} MiB")
    for step, (less, more) in peaks.items():
        yield Row(
            "memory",
            f"{step}: peak at {TIMES * few:,} images",
            f"{more:.0f} MiB",
            f"{less:.0f} MiB at {few:,} images",
            more / less,
            "<= 1.1" if step == "extract" else "",
            more / less <= 1.1 if step == "extract" else None,
        )


def _in_process(step: str, root: Path, pictures: Path) -> float:
    """Run one step in a new process; returns its peak in MiB."""
    words = [sys.executable, "-m", "benchmarks.memory", step, str(root), str(pictures)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    return float(done.stdout)


def _step(step: str, root: Path, pictures: Path) -> None:
    """What the new process does; it prints its peak."""
    plugins = Plugins(external=False)
    if step == "add":
        Warehouse.create(root, plugins).add([pictures])
    else:
        Warehouse.open(root, plugins).extract(ENCODER, SPACES, "clip")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    _step(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
