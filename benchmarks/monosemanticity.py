"""Monosemanticity scores of a whole space against the loops that people write, and uniqueness.

Two peers, both from the definition and with everything in memory that they need: a loop over features in numpy, and the
published form, a loop over pairs of images. They take minutes to years, so a sample is timed and the rest extrapolated;
the table says so.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.memory import peak
from benchmarks.rows import peak_row
from benchmarks.synthetic import EMBEDDING, EMBEDDING_WIDTH, Setting
from benchmarks.table import Row
from benchmarks.timing import interleaved, say, seconds
from glasshouse.plugins.manager import Plugins
from glasshouse.warehouse.warehouse import Warehouse

K = 20
N_RESAMPLES = 200
N_BY_NUMPY = {"top": 2_000, "all": 500}
N_BY_PAIRS = {"top": 20, "all": 2_000}
"""Features, and pairs of images, that the published loop is timed on."""

Floats = npt.NDArray[np.float64]


class Took(NamedTuple):
    """Seconds on the clock, and of all threads together; where others keep the cores busy the latter say more."""

    clock: float
    processor: float

    @property
    def words(self) -> str:
        """Both, for the table."""
        return f"{self.clock:.1f} s ({self.processor:.1f} s of processor)"


class InMemory(NamedTuple):
    """What the peers begin with: activations by feature, strongest first, and unit vectors."""

    bounds_f: npt.NDArray[np.int64]
    image_r: npt.NDArray[np.int32]
    value_r: npt.NDArray[np.float32]
    unit_ne: Floats

    def feature(self, feature: int, k: int | None = None) -> tuple[npt.NDArray[np.int32], Floats]:
        """Images and activations of a feature, the k strongest of them."""
        own = slice(self.bounds_f[feature], self.bounds_f[feature + 1])
        return self.image_r[own][:k], self.value_r[own][:k].astype(np.float64)


def run(setting: Setting) -> Iterator[Row]:
    """Yield both variants, the bootstrap, the peak of memory, and uniqueness."""
    shape, warehouse = setting.shapes[0], setting.embedded
    name = f"{shape.name}: {{}} of {shape.n_features:,} features, d = {EMBEDDING_WIDTH}, results written"

    def analyze(analyzer: str, **parameters: object) -> Took:
        def once() -> None:
            warehouse.analyze(analyzer, shape.name, force=True, **parameters)

        once()
        rounds = [interleaved({"ours": once}, 1) for _ in range(setting.repeats)]
        clock, processor = (statistics.median(found[way][0] for found in rounds) for way in ("ours", "ours, processor"))
        return Took(clock, processor)

    data = in_memory(warehouse, shape.name)
    top = analyze("monosemanticity")
    yield from _against(name.format("top 20"), top, 4, top_peers(data))
    say("  with the bootstrap")
    both = analyze("monosemanticity", bootstrap=N_RESAMPLES)
    more = Took(both.clock - top.clock, both.processor - top.processor)
    yield _within(f"{shape.name}: {N_RESAMPLES} resamples of each besides", more, 12)
    say("  all images")
    yield from _against(
        name.format("all images"), analyze("monosemanticity", variant="all"), 12, all_peers(data, shape.n_features)
    )
    what = f"{shape.name}: peak of a process that computes both variants, the bootstrap and uniqueness"
    yield peak_row("monosemanticity", what, warehouse.root, shape.name)
    yield _within(f"{shape.name}: uniqueness of {shape.n_features:,} features", analyze("uniqueness"), None)


def _against(what: str, ours: Took, target: float, peers: Iterator[tuple[str, float]]) -> Iterator[Row]:
    """Yield a row for each peer; the target stands in the first."""
    for number, (peer, theirs) in enumerate(peers):
        say(f"  {peer}: {_time(theirs)}")
        yield Row(
            "monosemanticity",
            what,
            ours.words,
            f"{_time(theirs)} {peer}",
            theirs / ours.clock,
            "" if number else f"<= {target:g} s",
            None if number else ours.clock <= target,
        )


def _within(what: str, ours: Took, target: float | None) -> Row:
    limits = ("", None) if target is None else (f"<= {target:g} s", ours.clock <= target)
    return Row("monosemanticity", what, ours.words, target=limits[0], met=limits[1])


def _time(number: float) -> str:
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("hours", 3600)):
        if number >= 2 * size:
            return f"{number / size:.0f} {unit}"
    return f"{number:.0f} s"


def in_memory(warehouse: Warehouse, space: str) -> InMemory:
    """Read what the peers need; they are not timed for it."""
    matrix = warehouse.sparse_matrix(space).tocsc()
    strongest = np.lexsort((-matrix.data, np.repeat(np.arange(matrix.shape[1]), np.diff(matrix.indptr))))
    vectors_ne = warehouse.embeddings(EMBEDDING).vectors_ne.astype(np.float64)
    vectors_ne /= np.linalg.norm(vectors_ne, axis=1, keepdims=True)
    return InMemory(matrix.indptr, matrix.indices[strongest], matrix.data[strongest], vectors_ne)


def top_peers(data: InMemory) -> Iterator[tuple[str, float]]:
    """Yield name and time for all features of the loops over features and over pairs, over the top images."""
    n_features = len(data.bounds_f) - 1
    for what, n, score in (
        ("loop over features in numpy", N_BY_NUMPY["top"], score_by_numpy),
        ("published loop over pairs", N_BY_PAIRS["top"], score_by_pairs),
    ):
        sample = _sample(data, n)
        took = seconds(lambda chosen=sample, one=score: [one(data, int(feature)) for feature in chosen])
        yield f"{what} (extrapolated from {len(sample):,} features)", took * n_features / len(sample)


def all_peers(data: InMemory, n_features: int) -> Iterator[tuple[str, float]]:
    """Yield the same over all images; the loop over pairs of images takes all features at once."""
    sample = _sample(data, N_BY_NUMPY["all"])
    took = seconds(lambda: [linear_score_by_numpy(data, int(feature)) for feature in sample])
    yield (
        f"loop over features in numpy (linear form, extrapolated from {len(sample):,} features)",
        took * n_features / len(sample),
    )
    n_images = len(data.unit_ne)
    dense_nf = np.random.default_rng(0).random((64, n_features))
    pairs = list(itertools.islice(itertools.combinations(range(64), 2), N_BY_PAIRS["all"]))
    took = seconds(lambda: sums_by_pairs(dense_nf, data.unit_ne, pairs))
    yield (
        f"published loop over pairs of images (extrapolated from {len(pairs):,} pairs)",
        took * (n_images * (n_images - 1) / 2) / len(pairs),
    )


def _sample(data: InMemory, n: int) -> npt.NDArray[np.intp]:
    active = np.flatnonzero(np.diff(data.bounds_f) >= K)
    return np.random.default_rng(0).choice(active, size=min(n, len(active)), replace=False)


def score_by_numpy(data: InMemory, feature: int) -> float:
    """Mean cosine of the top images from their matrix, weighted, without the diagonal."""
    image_k, value_k = data.feature(feature, K)
    weight_k = (value_k - value_k.min()) / (value_k.max() - value_k.min())
    unit_ke = data.unit_ne[image_k]
    weight_kk = np.outer(weight_k, weight_k)
    np.fill_diagonal(weight_kk, 0)
    return float((weight_kk * (unit_ke @ unit_ke.T)).sum() / weight_kk.sum())


def score_by_pairs(data: InMemory, feature: int) -> float:
    """The definition, pair by pair."""
    image_k, value_k = data.feature(feature, K)
    weight_k = (value_k - value_k.min()) / (value_k.max() - value_k.min())
    above = below = 0.0
    for i, j in itertools.combinations(range(len(image_k)), 2):
        weight = weight_k[i] * weight_k[j]
        above += weight * float(data.unit_ne[image_k[i]] @ data.unit_ne[image_k[j]])
        below += weight
    return above / below


def linear_score_by_numpy(data: InMemory, feature: int) -> float:
    """The linear form over all active images of one feature."""
    image_n, value_n = data.feature(feature)
    sum_e = value_n @ data.unit_ne[image_n]
    squares = value_n @ value_n
    return float((sum_e @ sum_e - squares) / (value_n.sum() ** 2 - squares))


def sums_by_pairs(dense_nf: Floats, unit_ne: Floats, pairs: list[tuple[int, int]]) -> Floats:
    """Both sums of the definition for all features, pair of images by pair of images: MS [features]."""
    above_f, below_f = np.zeros(dense_nf.shape[1]), np.zeros(dense_nf.shape[1])
    for i, j in pairs:
        weight_f = dense_nf[i] * dense_nf[j]
        above_f += weight_f * float(unit_ne[i] @ unit_ne[j])
        below_f += weight_f
    score_f: Floats = above_f / below_f
    return score_f


def _compute(root: Path, space: str) -> float:
    """What the new process does; its peak in MiB."""
    warehouse = Warehouse.open(root, Plugins(external=False))
    requests: list[Callable[[], object]] = [
        lambda: warehouse.analyze("monosemanticity", space, force=True, bootstrap=N_RESAMPLES),
        lambda: warehouse.analyze("monosemanticity", space, force=True, variant="all", centre=True),
        lambda: warehouse.analyze("uniqueness", space, force=True),
    ]
    for request in requests:
        request()
    return peak()


if __name__ == "__main__":
    print(json.dumps(_compute(Path(sys.argv[1]), sys.argv[2])))
