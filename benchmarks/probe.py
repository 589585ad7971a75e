"""A probe of ten classes on a whole space, sparse activations straight into the solver: time, and peak of memory.

The peer makes the training rows dense first, as a script with a dense matrix does; its time is of one class and one C
on as many rows as fit into a gigabyte, and extrapolated. The probe runs in a process of its own, for its own peak.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.memory import peak
from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import say, seconds
from glasshouse.plugins.manager import Plugins
from glasshouse.warehouse.warehouse import Warehouse

N_CLASSES = 10
N_DECIDING = 30
"""Features that decide a class, among the thousand most frequent."""
DENSE_BYTES = 1 << 30


def run(setting: Setting) -> Iterator[Row]:
    """Yield the time and the peak."""
    shape, warehouse = setting.shapes[0], setting.ready
    say(f"  labelling {shape.n_images:,} images")
    label(warehouse, shape.name)
    words = [sys.executable, "-m", "benchmarks.probe", str(warehouse.root), shape.name]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    found = json.loads(done.stdout)
    dense = dense_seconds(warehouse, shape.name) * N_CLASSES * found["n_fits"]
    what = f"{shape.name}: {N_CLASSES} classes, {shape.n_images:,} images x {shape.n_features:,} features"
    against = f"{dense:,.0f} s dense (extrapolated)"
    yield Row("probe", f"{what}: C chosen of {found['n_fits'] - 1}", f"{found['seconds']:.0f} s", against,
              dense / found["seconds"])  # fmt: skip
    size = shape.n_images * shape.n_features * 4 / 2**20
    yield Row("probe", f"{what}: peak of memory", f"{found['peak']:,.0f} MiB", f"{size:,.0f} MiB dense")


def label(warehouse: Warehouse, space: str) -> None:
    """Give every image the class whose features are strongest on it, with some noise."""
    acts_nf = warehouse.sparse_matrix(space)
    rng = np.random.default_rng(3)
    frequent = np.argsort(-np.bincount(acts_nf.indices, minlength=acts_nf.shape[1]))[:1000]
    weights_fc = np.zeros((acts_nf.shape[1], N_CLASSES))
    for number in range(N_CLASSES):
        weights_fc[rng.choice(frequent, N_DECIDING, replace=False), number] = 1
    class_n = (acts_nf @ weights_fc + rng.gumbel(size=(acts_nf.shape[0], N_CLASSES)) * 0.3).argmax(axis=1)
    rows = pa.table({"image_id": np.arange(len(class_n), dtype=np.int32), "value": [f"class {c}" for c in class_n]})
    with warehouse.catalogue.writing() as connection:
        connection.register("rows", rows)
        connection.execute("DELETE FROM image_labels")
        connection.execute(
            "INSERT INTO image_labels BY NAME "
            "SELECT image_id, 'class' AS attribute, value, 'synthetic' AS source FROM rows"
        )
        connection.execute("INSERT OR REPLACE INTO revisions VALUES ('image_labels', 1)")


def dense_seconds(warehouse: Warehouse, space: str) -> float:
    """Seconds of one class and one C on dense rows, for all rows."""
    from sklearn.linear_model import LogisticRegression

    acts_nf = warehouse.sparse_matrix(space)
    n = min(acts_nf.shape[0], DENSE_BYTES // (8 * acts_nf.shape[1]))
    dense_nf = acts_nf[:n].toarray().astype(np.float64)
    is_class_n = np.random.default_rng(0).random(n) < 1 / N_CLASSES
    model = LogisticRegression(solver="liblinear", l1_ratio=1.0, C=0.1, fit_intercept=False)
    return seconds(lambda: model.fit(dense_nf, is_class_n)) * acts_nf.shape[0] / n


if __name__ == "__main__":
    opened = Warehouse.open(sys.argv[1], Plugins(external=False))
    (report,) = opened.analyze("probe", sys.argv[2], attribute="class", raw=False)
    figures = {"seconds": report.run.duration_s, "peak": peak(), "n_fits": len(report.run.notes["tried"]) + 1}
    print(json.dumps(figures))
