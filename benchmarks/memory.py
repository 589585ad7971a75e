"""Peak memory of an extraction, in a process of its own, with few images and with four times as many."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pictures import write_pictures
from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import say
from glasshouse.plugins.manager import Plugins
from glasshouse.warehouse.contracts import TokenPolicy
from glasshouse.warehouse.extraction.extract import extract
from glasshouse.warehouse.extraction.targets import SpaceRequest
from glasshouse.warehouse.warehouse import Warehouse

FEW = 5_000
TIMES = 4
ENCODER = "starter:clip"
SPACES: list[tuple[str, str, TokenPolicy, str]] = [
    ("patches", "blocks.2.resid_post", "patches", "starter:sae-patches"),
    ("cls", "blocks.3.resid_post", "cls", "starter:sae-cls"),
]


def run(setting: Setting) -> Iterator[Row]:
    """Yield the peaks of adding and of extracting: 64 × 64 PNGs, two spaces and an embedding of the starter's CLIP."""
    few = FEW // 50 if setting.quick else FEW
    less, more = _peaks(setting.scratch, few), _peaks(setting.scratch, TIMES * few)
    for step, after in more.items():
        share = after / less[step]
        yield Row(
            "memory",
            f"{step}: peak at {TIMES * few:,} images",
            f"{after:.0f} MiB",
            f"{less[step]:.0f} MiB at {few:,} images",
            share,
            "" if step == "add" else "<= 1.1",
            None if step == "add" else share <= 1.1,
        )


def _peaks(scratch: Path, n_images: int) -> dict[str, float]:
    """Peaks in MiB while n images are added and extracted, each in a new process."""
    say(f"  {n_images:,} images")
    pictures, root = scratch / f"pictures-{n_images}", scratch / f"memory-{n_images}.glasshouse"
    write_pictures(pictures, n_images, (64, 64), ".png")
    peaks: dict[str, float] = {}
    for step in ("add", "extract"):
        words = [sys.executable, "-m", "benchmarks.memory", step, str(root), str(pictures)]
        done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
        peaks |= json.loads(done.stdout)
    return peaks


def _step(step: str, root: Path, pictures: Path) -> dict[str, float]:
    """What the new process does: its peaks in MiB, by what it had done."""
    plugins = Plugins(external=False)
    if step == "add":
        Warehouse.create(root, plugins).add([pictures])
        return {"add": peak()}
    requests = [SpaceRequest(name, hook, tokens, plugins.load_sae(sae)) for name, hook, tokens, sae in SPACES]
    peaks: list[float] = []
    extract(
        Warehouse.open(root, plugins).layout,
        plugins.load_encoder(ENCODER),
        requests,
        "clip",
        announce=lambda words: peaks.append(peak()),
    )
    return {"extract, until the last shard": peaks[0], "extract, finalising included": peak()}


def peak() -> float:
    """Peak in MiB of this program; `getrusage` would also count what the process was before it started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    print(json.dumps(_step(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
