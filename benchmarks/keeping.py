"""A dense space with `keep` against the same whole: bytes, time and peak memory.

The encoder is one random layer on tiny pictures, so that storing is what is measured: 2,048 channels, about half of
them active on each image, as behind the last block of a ResNet-50.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory import peak
from benchmarks.pictures import write_pictures
from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import interleaved, ratio, say
from glasshouse.plugins.manager import Plugins
from glasshouse.warehouse.contracts import ForwardResult, HookPoint
from glasshouse.warehouse.extraction.shards import ShardFolder
from glasshouse.warehouse.warehouse import Warehouse

FEW = 2_000
TIMES = 4
WIDTH = 2_048
KEEP = 100
SIDE = 8


class Channels:
    """One random layer on a picture's pixels, as an encoder whose only token is CLS."""

    spec = "channels"
    device = "cpu"
    embedding_width = 1

    def __init__(self) -> None:
        import torch

        self.fingerprint = hashlib.sha256(b"channels").hexdigest()
        self._layer = torch.randn(3 * SIDE * SIDE, WIDTH, generator=torch.Generator().manual_seed(0)) / SIDE

    def hook_points(self) -> Sequence[HookPoint]:
        """The layer."""
        return [HookPoint("layer", WIDTH, 1, None)]

    def preprocess(self, image: Any) -> Any:
        """Shrink a picture; its mean lies at 0."""
        import numpy as np
        import torch

        pixels = np.asarray(image.resize((SIDE, SIDE)), dtype=np.float32) / 255
        return torch.from_numpy((pixels - pixels.mean()).transpose(2, 0, 1).copy())

    def forward(self, batch_bchw: Any, hooks: Sequence[str], *, embedding: bool = True) -> ForwardResult:
        """Run the layer."""
        return ForwardResult({"layer": (batch_bchw.flatten(1) @ self._layer)[:, None]}, None)

    def embed_text(self, texts: Sequence[str]) -> None:
        """Say that there is no text tower."""
        return


def run(setting: Setting) -> Iterator[Row]:
    """Yield size, time and peak of memory; the last with few images and with four times as many."""
    few = FEW // 10 if setting.quick else FEW
    more = TIMES * few
    say(f"  writing {more:,} pictures")
    write_pictures(setting.scratch / "channels", more, (16, 16), ".png")
    warehouse = Warehouse.create(setting.scratch / "channels.glasshouse", Plugins(external=False))
    warehouse.add([setting.scratch / "channels"])
    names: dict[str, list[str]] = {"whole": [], "kept": []}
    shards: dict[str, int] = {}

    def extract_as(way: str) -> None:
        names[way].append(f"{way}{len(names[way])}")
        shards[way] = extract(warehouse, names[way][-1], KEEP if way == "kept" else None)

    ways = {"whole": lambda: extract_as("whole"), "kept": lambda: extract_as("kept")}
    times = interleaved(ways, min(2, setting.repeats))
    what = f"{more:,} images × {WIDTH:,} channels"
    sizes = {way: warehouse.layout.space_file(names[way][0]).stat().st_size for way in names}
    yield _size_row(f"{what}: the space with --keep {KEEP}", sizes)
    yield _size_row(f"{what}: its shards at their largest", shards)
    yield Row(
        "keeping",
        f"{what}: extraction and finalising, processor time",
        f"{min(times['kept, processor']):.1f} s",
        f"{min(times['whole, processor']):.1f} s whole",
        ratio(times, "kept, processor", "whole, processor"),
    )
    less_mib, more_mib = _peak(_small(setting.scratch, few)), _peak(warehouse.root)
    yield Row(
        "keeping",
        f"peak memory of the extraction at {more:,} images",
        f"{more_mib:.0f} MiB",
        f"{less_mib:.0f} MiB at {few:,} images",
        more_mib / less_mib,
        "<= 1.1",
        more_mib <= 1.1 * less_mib,
    )


def extract(warehouse: Warehouse, name: str, keep: int | None) -> int:
    """Extract the channels as a space; return the largest size of its shards after a batch, in bytes."""
    sae = Plugins(external=False).load_sae("neurons")
    shards, sizes = ShardFolder(warehouse.layout.shard_folder("space", name), ""), [0]
    warehouse.extract(
        Channels(),
        [(name, "layer", "cls", sae)],
        keep=keep,
        progress=lambda done, total: sizes.append(shards.n_bytes()),
    )
    return max(sizes)


def _size_row(what: str, bytes_of: dict[str, int]) -> Row:
    kept, whole = bytes_of["kept"], bytes_of["whole"]
    return Row("keeping", what, f"{kept / 1e6:.1f} MB", f"{whole / 1e6:.1f} MB whole", kept / whole)


def _small(scratch: Path, n_images: int) -> Path:
    """Make a warehouse of the first n pictures; returns its folder."""
    pictures, root = scratch / "few-channels", scratch / "few-channels.glasshouse"
    pictures.mkdir()
    for file in sorted((scratch / "channels").iterdir())[:n_images]:
        (pictures / file.name).hardlink_to(file)
    Warehouse.create(root, Plugins(external=False)).add([pictures])
    return root


def _peak(root: Path) -> float:
    """Peak in MiB of a new process that extracts all images of a warehouse."""
    words = [sys.executable, "-m", "benchmarks.keeping", str(root)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    return float(json.loads(done.stdout))


if __name__ == "__main__":
    extract(Warehouse(sys.argv[1], Plugins(external=False)), "peak", KEEP)
    print(json.dumps(peak()))
