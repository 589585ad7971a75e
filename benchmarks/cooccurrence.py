"""Co-occurrence of the most frequent features of a patch space, against dense products and a loop over pairs.

Both peers compute the two tables that everything follows from: C, the patches that two features share, and D, the
activation of the one on patches of the other. Their data lie in memory already. The dense product is timed on some of
the patches, the loop on some of the pairs; the rest is extrapolated, and the table says so.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.memory import peak
from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import say, seconds
from glasshouse.plugins.analyzers.cooccurrence import most_frequent
from glasshouse.plugins.analyzers.patch_pairs import PatchActivations
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.view import AnalysisView
from glasshouse.warehouse.warehouse import Warehouse

N_FEATURES = 1_000
N_PATCHES_DENSE = 20_000
N_PAIRS_IN_LOOP = 200


def run(setting: Setting) -> Iterator[Row]:
    """Yield the time of the most frequent features, of all features, and the peak of memory of the latter."""
    shape, warehouse = setting.shapes[1], setting.ready
    n_rows = shape.n_images * (shape.n_tokens or 1) * shape.n_active

    def once() -> None:
        warehouse.analyze("cooccurrence", shape.name, force=True, features=N_FEATURES)

    once()
    ours = statistics.median(seconds(once) for _ in range(setting.repeats))
    say("  peers")
    values_pf = in_memory(warehouse, shape.name)
    total = shape.n_images * (shape.n_tokens or 1)
    dense, loop = by_dense_products(values_pf, total), by_pairs(values_pf, total)
    what = f"{shape.name}: {N_FEATURES:,} most frequent features over {n_rows / 1e6:.0f} M patch activations, written"
    against = f"{dense:.0f} s by dense products (extrapolated from {len(values_pf):,} patches)"
    yield Row("cooccurrence", what, f"{ours:.2f} s", against, dense / ours, "<= 20 s", ours <= 20)
    against = f"{loop:.0f} s in a loop over pairs (extrapolated from {N_PAIRS_IN_LOOP} pairs)"
    yield Row("cooccurrence", what, f"{ours:.2f} s", against, loop / ours)
    say("  all features")
    yield from _all_features(warehouse.root, shape.name, shape.n_features)


def in_memory(warehouse: Warehouse, space: str) -> npt.NDArray[np.float32]:
    """Return the activations of the most frequent features on some of the patches, dense [patches, features]."""
    view = AnalysisView(warehouse, space)
    blocks = PatchActivations(view, most_frequent(view, N_FEATURES), 0.001, 0, 1 << 20).blocks
    return np.asarray(blocks[0].value_pf[:N_PATCHES_DENSE].toarray(), dtype=np.float32)


def by_dense_products(values_pf: npt.NDArray[np.float32], total: int) -> float:
    """Seconds of C and D as two dense products over `total` patches."""

    def products() -> None:
        active_pf = (values_pf > 0.001).astype(np.float32)
        _ = active_pf.T @ active_pf, values_pf.T @ active_pf

    return seconds(products) * total / len(values_pf)


def by_pairs(values_pf: npt.NDArray[np.float32], total: int) -> float:
    """Seconds of a loop over all ordered pairs that looks at two columns of `total` patches at a time."""
    columns_fp = np.ascontiguousarray(values_pf.T)
    active_fp = columns_fp > 0.001
    pairs = np.random.default_rng(0).integers(0, len(columns_fp), (N_PAIRS_IN_LOOP, 2))

    def loop() -> None:
        for i, j in pairs:
            _ = np.count_nonzero(active_fp[i] & active_fp[j]), columns_fp[i][active_fp[j]].sum()

    return seconds(loop) * len(columns_fp) ** 2 / len(pairs) * total / len(values_pf)


def _all_features(root: Path, space: str, n_features: int) -> Iterator[Row]:
    """Time and peak of a new process that counts all pairs of all features."""
    words = [sys.executable, "-m", "benchmarks.cooccurrence", str(root), space]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    duration, mebibytes = json.loads(done.stdout)
    yield Row("cooccurrence", f"{space}: all {n_features:,} features, written", f"{duration:.0f} s")
    gib = mebibytes / 1024
    yield Row("cooccurrence", f"{space}: peak of that process", f"{gib:.1f} GiB", target="<= 4 GiB", met=gib <= 4)


def _compute(root: Path, space: str) -> tuple[float, float]:
    """What the new process does; its time in seconds and its peak in MiB."""
    warehouse = Warehouse.open(root, Plugins(external=False))
    duration = seconds(lambda: warehouse.analyze("cooccurrence", space, force=True))
    return duration, peak()


if __name__ == "__main__":
    print(json.dumps(_compute(Path(sys.argv[1]), sys.argv[2])))
