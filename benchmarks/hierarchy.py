"""Hierarchy of 8,192 features over about 31 million patch activations: time, memory; and its truth on rendered scenes.

The synthetic features come in families, a whole, four kinds of it and three parts, so that there is something to test.
The time is that of the analysis with its controls; `cooccurrence`, which it reads, is timed for itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.memory import peak
from benchmarks.synthetic import Setting, SpaceShape, register, write_images
from benchmarks.table import Row
from benchmarks.timing import say, seconds
from benchmarks.truth.hierarchy import REPORTED_ON, TOLD, HierarchyTruth, Judged, edges_of, masked_world
from glasshouse.plugins.manager import Plugins
from glasshouse.warehouse.extraction.finalise import finalise_space
from glasshouse.warehouse.extraction.rows import shard_rows
from glasshouse.warehouse.extraction.run import DEFAULT_BATCH_SIZE
from glasshouse.warehouse.extraction.shards import ShardFolder, ShardRecord
from glasshouse.warehouse.warehouse import Warehouse

FAMILY, N_KINDS, N_PARTS = 8, 4, 3
ON_IMAGE = 44
"""Families on an image; each covers a rectangle of 3 to 5 patches a side."""
N_SCENES = 2_000


def run(setting: Setting) -> Iterator[Row]:
    """Yield time and peak; and how many edges are right on rendered scenes, unless small sizes are asked for."""
    n_images, n_features = (300, 512) if setting.quick else (20_000, 8_192)
    shape = SpaceShape("families", n_images, 32, n_features, (7, 7))
    warehouse = _synthetic(setting.scratch / "families.glasshouse", shape)
    n_rows = int(warehouse.feature_statistics(shape.name)["n_tokens"].sum())
    before = seconds(lambda: warehouse.analyze("cooccurrence", shape.name))
    words = [sys.executable, "-m", "benchmarks.hierarchy", str(warehouse.root), shape.name]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    duration, mebibytes = json.loads(done.stdout)
    n_edges = warehouse.sql("SELECT count(*) FROM hierarchy WHERE rule = 'tested'").item()
    what = f"{n_features:,} features over {n_rows / 1e6:.1f} M patch activations, written ({n_edges:,} tested edges)"
    against = f"{before:.1f} s for cooccurrence before it"
    yield Row("hierarchy", what, f"{duration:.1f} s", against, duration / before)
    yield Row("hierarchy", "peak of that process", f"{mebibytes / 1024:.1f} GiB")
    warehouse.close()
    if not setting.quick:
        yield from truth_rows(setting.scratch / "scenes")


def truth_rows(folder: Path) -> Iterator[Row]:
    """Yield precision and recall of both rules on scenes on which no limit was chosen; controls beside them."""
    say(f"  rendering {N_SCENES:,} scenes, extracting them and the controls")
    folder.mkdir()
    warehouse = masked_world(folder, N_SCENES, REPORTED_ON)
    names: dict[str, tuple[str, Sequence[str]]] = {
        "published": ("published", ()), "tested, kinds and parts": ("tested", TOLD), "tested, all": ("tested", ()),
    }  # fmt: skip
    truth, untrained = HierarchyTruth(warehouse, "patches"), HierarchyTruth(warehouse, "untrained")
    for name, (rule, kinds) in names.items():
        found = truth.judged(edges_of(warehouse, "patches", rule, kinds))
        control = untrained.judged(edges_of(warehouse, "untrained", rule, kinds))
        n_shuffled = len(edges_of(warehouse, "shuffled", rule, kinds))
        against = (
            f"untrained encoder {control.precision:.2f} of {_n_judged(control)}; maps shuffled: {n_shuffled} edges"
        )
        told = name.endswith("parts")
        what = f"{name}: precision of {_n_judged(found)} edges ({found.counts['same']} of them to the same value)"
        met = {"target": ">= 0.8", "met": found.precision >= 0.8} if told else {}
        yield Row("hierarchy", what, f"{found.precision:.3f}", against, **met)
        met = {"target": ">= 0.5", "met": found.recall >= 0.5} if told else {}
        what = f"{name}: recall of {found.n_true} true pairs of detectors"
        yield Row(
            "hierarchy", what, f"{found.recall:.3f}", f"of all {found.n_true_shown}: {found.recall_shown:.2f}", **met
        )
    warehouse.close()


def _n_judged(judged: Judged) -> int:
    return sum(judged.counts.values()) - judged.counts["unknown"]


def _synthetic(root: Path, shape: SpaceShape) -> Warehouse:
    warehouse = Warehouse.create(root, Plugins(external=False))
    write_images(warehouse, shape.n_images)
    register(warehouse, shape)
    folder = warehouse.layout.shard_folder("space", shape.name)
    folder.mkdir(parents=True)
    shards = ShardFolder(folder, shape.name)
    for table, record in batches(shape):
        shards.write(table, record)
    finalise_space(warehouse.layout, shape.name, shape.name, shape.n_features, shards, has_tokens=True)
    return warehouse


def batches(shape: SpaceShape) -> Iterator[tuple[pa.Table, ShardRecord]]:
    """Yield the shards: of each image's families the whole and one kind on a rectangle, and parts on patches of it."""
    rng = np.random.default_rng(0)
    rows, columns = shape.grid or (1, 1)
    row_t, column_t = np.divmod(np.arange(rows * columns), columns)
    for start in range(0, shape.n_images, DEFAULT_BATCH_SIZE):
        ids_b = np.arange(start, min(start + DEFAULT_BATCH_SIZE, shape.n_images))
        n_families = shape.n_features // FAMILY
        family_bo = rng.random((len(ids_b), n_families)).argpartition(ON_IMAGE, axis=1)[:, :ON_IMAGE]
        top_bo, left_bo = (rng.integers(0, 3, family_bo.shape) for _ in range(2))
        height_bo, width_bo = (rng.integers(3, 6, family_bo.shape) for _ in range(2))
        down_bot, across_bot = row_t - top_bo[..., None], column_t - left_bo[..., None]
        inside_bot = (down_bot >= 0) & (down_bot < height_bo[..., None])
        inside_bot &= (across_bot >= 0) & (across_bot < width_bo[..., None])
        layers = [(inside_bot, 0 * family_bo), (inside_bot, rng.integers(1, 1 + N_KINDS, family_bo.shape))]
        for part in range(N_PARTS):
            here_bot = (down_bot == part) & (across_bot == part) & (rng.random(family_bo.shape) < 0.7)[..., None]
            layers.append((here_bot, np.full(family_bo.shape, 1 + N_KINDS + part)))
        found = []
        for mask_bot, member_bo in layers:
            image_n, order_n, token_n = np.nonzero(mask_bot)
            feature_n = family_bo[image_n, order_n] * FAMILY + member_bo[image_n, order_n]
            found.append((image_n * rows * columns + token_n, feature_n))
        row_n, feature_n = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((feature_n, row_n))
        value_n = (rng.standard_exponential(len(row_n), dtype=np.float32) + np.float32(1))[order]
        table = shard_rows(row_n[order], feature_n[order], value_n, ids_b, rows * columns, shape.n_features)
        yield table, ShardRecord(shape.name, ids_b.tolist())


def _compute(root: Path, space: str) -> tuple[float, float]:
    """What the new process does; its time in seconds and its peak in MiB."""
    warehouse = Warehouse.open(root, Plugins(external=False))
    duration = seconds(lambda: warehouse.analyze("hierarchy", space, force=True))
    return duration, peak()


if __name__ == "__main__":
    print(json.dumps(_compute(Path(sys.argv[1]), sys.argv[2])))
