"""Clarity, polysemanticity and redundancy of a whole space against scoring one feature after the other.

The peer is the published way: the examples' embeddings are in memory, scikit-learn's KMeans is fitted for each feature.
It takes minutes, so a sample is timed and the rest extrapolated; the table says so. The sample's scores are compared.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from benchmarks.memory import peak
from benchmarks.rows import peak_row
from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import interleaved, say, seconds
from glasshouse.plugins.manager import Plugins
from glasshouse.warehouse.warehouse import Warehouse

EMBEDDING, WIDTH, N_EXAMPLES = "examples", 512, 30
N_SAMPLE, N_SAMPLE_QUICK = 400, 20

Floats = npt.NDArray[np.float64]


def run(setting: Setting) -> Iterator[Row]:
    """Yield the time of both scores, how far they are from the peer's, the peak of memory, and redundancy."""
    shape, warehouse = setting.shapes[0], setting.ready
    embed(warehouse)

    def both() -> None:
        for analyzer in ("clarity", "polysemanticity"):
            warehouse.analyze(analyzer, shape.name, embedding=EMBEDDING, n=N_EXAMPLES, force=True)

    both()
    rounds = [interleaved({"ours": both}, 1) for _ in range(setting.repeats)]
    ours, processor = (statistics.median(found[way][0] for found in rounds) for way in ("ours", "ours, processor"))
    n_sample = N_SAMPLE_QUICK if setting.quick else N_SAMPLE
    sample = sample_of(warehouse, shape.name, n_sample)
    theirs: dict[int, float] = {}
    with threadpool_limits(limits=1):  # twice as fast as with two threads, for sets as small as these
        took = seconds(lambda: theirs.update({f: by_scikit_learn(v) for f, v in sample.items()}))
    peer = took * shape.n_features / len(sample)
    what = f"{shape.name}: clarity and polysemanticity of {shape.n_features:,} features x {N_EXAMPLES} x {WIDTH}"
    against = f"{peer:.0f} s one KMeans fit per feature (extrapolated from {len(sample)} features)"
    measured = f"{ours:.1f} s ({processor:.1f} s of processor)"
    yield Row("clarity", f"{what}, results written", measured, against, peer / ours, "<= 30 s", ours <= 30)
    stored = dict(warehouse.sql("SELECT feature_id, polysemanticity FROM polysemanticity").rows())
    furthest = max(abs(stored[feature] - score) for feature, score in theirs.items())
    what = f"{shape.name}: polysemanticity, largest difference from these {len(sample)} fits"
    yield Row("clarity", what, f"{furthest:.1g}", target="<= 1e-6", met=furthest <= 1e-6)
    yield peak_row("clarity", f"{shape.name}: peak of a process that computes both", warehouse.root, shape.name)
    say("  redundancy")
    warehouse.analyze("concepts", shape.name, embedding=EMBEDDING, n=N_EXAMPLES)
    took = seconds(lambda: warehouse.analyze("redundancy", shape.name, embedding=EMBEDDING, force=True))
    yield Row("clarity", f"{shape.name}: redundancy of {shape.n_features:,} features, all pairs", f"{took:.1f} s")


def embed(warehouse: Warehouse) -> None:
    """Write an embedding of the width of CLIP's: random, of all images."""
    n_images = warehouse.images().height
    say(f"  writing the embedding: {WIDTH} coordinates for each image")
    vectors_ne = np.random.default_rng(5).normal(0.3, 1, (n_images, WIDTH)).astype(np.float32)
    warehouse.import_embeddings(EMBEDDING, vectors_ne, list(range(n_images)))


def sample_of(warehouse: Warehouse, space: str, n: int) -> dict[int, npt.NDArray[np.float32]]:
    """Return the examples' embeddings of some features."""
    vectors_ne = warehouse.embeddings(EMBEDDING).vectors_ne
    active = warehouse.sql("SELECT feature_id FROM clarity WHERE n_images >= 4 ORDER BY feature_id").to_series()
    chosen = np.random.default_rng(0).choice(active.to_numpy(), min(n, len(active)), replace=False)
    return {
        int(feature): vectors_ne[warehouse.top_images(space, int(feature), N_EXAMPLES)["image_id"].to_numpy()]
        for feature in chosen
    }


def by_scikit_learn(vectors_ne: npt.NDArray[np.float32]) -> float:
    """Clarity, which costs next to nothing, and polysemanticity by one fit; returns the latter."""
    from sklearn.cluster import KMeans

    clarity(vectors_ne.astype(np.float64))
    wide_ne = vectors_ne.astype(np.float64)
    fitted = KMeans(n_clusters=2, n_init=10, random_state=0).fit(wide_ne)
    if np.bincount(fitted.labels_, minlength=2).min() >= 2:
        return 1 - clarity(fitted.cluster_centers_)
    mean_e, first_ne = wide_ne.mean(axis=0), wide_ne[:10]
    return 1 - float(np.mean(first_ne @ mean_e / np.linalg.norm(first_ne, axis=1) / np.linalg.norm(mean_e)))


def clarity(vectors_ne: Floats) -> float:
    """The formula."""
    n = len(vectors_ne)
    mean_e = (vectors_ne / np.linalg.norm(vectors_ne, axis=1, keepdims=True)).mean(axis=0)
    return float(n / (n - 1) * (mean_e @ mean_e - 1 / n))


if __name__ == "__main__":
    opened = Warehouse.open(sys.argv[1], Plugins(external=False))
    for name in ("clarity", "polysemanticity"):
        opened.analyze(name, sys.argv[2], embedding=EMBEDDING, n=N_EXAMPLES, force=True)
    print(json.dumps(peak()))
