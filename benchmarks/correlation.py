"""Correlation of a whole space with eight ratings, against a loop of `scipy.stats.pearsonr`.

The loop has dense columns of float64 in memory already and gives r and p only. It takes minutes to hours, so a sample
of features is timed and the rest extrapolated; the table says so.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.stats

from benchmarks.memory import peak
from benchmarks.rows import peak_row
from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import say, seconds
from glasshouse.plugins.manager import Plugins
from glasshouse.warehouse.warehouse import Warehouse

N_DIMENSIONS = 8
N_WITH_GAPS = 4
"""Dimensions on which one image in twenty is not rated, each on others."""
N_BY_SCIPY = 40

SUMS = "SELECT feature_id, sum(value::DOUBLE * value), {} FROM activations JOIN rated USING (image_id) GROUP BY 1"


def run(setting: Setting) -> Iterator[Row]:
    """Yield Pearson's r with all that belongs to it, the other methods, the sums in SQL, and the peak of memory."""
    shape, warehouse = setting.shapes[0], setting.ready
    say(f"  writing ratings: {N_DIMENSIONS} for each image")
    ratings_nd = rate(warehouse, shape.n_images)

    def analyze(**parameters: object) -> float:
        def once() -> None:
            warehouse.analyze("correlation", shape.name, force=True, **parameters)

        once()
        return statistics.median(seconds(once) for _ in range(setting.repeats))

    what = f"{shape.name}: {{}} of {shape.n_features:,} features × {N_DIMENSIONS} ratings, p, q, intervals, written"
    ours = analyze()
    loop = by_scipy(warehouse, shape.name, ratings_nd)
    against = f"{loop:.0f} s in a loop of pearsonr (extrapolated from {N_BY_SCIPY} features)"
    yield Row("correlation", what.format("Pearson"), f"{ours:.2f} s", against, loop / ours, "<= 4 s", ours <= 4)
    say("  other methods")
    covariates = ("brightness", "saturation", "edge_energy")
    yield Row("correlation", what.format("partial, three covariates,"), f"{analyze(covariates=covariates):.2f} s")
    yield Row("correlation", what.format("Spearman"), f"{analyze(method='spearman'):.2f} s")
    in_sql = in_one_aggregate(warehouse, shape.name, ratings_nd)
    yield Row(
        "correlation", f"{shape.name}: Σx² and Σxy alone in one SQL aggregate, no rating missing", f"{in_sql:.2f} s"
    )
    what = f"{shape.name}: peak of a process that computes all three"
    yield peak_row("correlation", what, warehouse.root, shape.name)


def rate(warehouse: Warehouse, n_images: int) -> npt.NDArray[np.float64]:
    """Write random ratings of all images; return them, [n_images, dimensions], NaN where there is none."""
    rng = np.random.default_rng(1)
    ratings_nd = rng.normal(size=(n_images, N_DIMENSIONS))
    ratings_nd[:, N_DIMENSIONS - N_WITH_GAPS :][rng.random((n_images, N_WITH_GAPS)) < 0.05] = np.nan
    image_k, dimension_k = np.nonzero(~np.isnan(ratings_nd))
    rows = {"image_id": image_k.astype(np.int32), "d": dimension_k, "value": ratings_nd[image_k, dimension_k]}
    with warehouse.catalogue.writing() as connection:
        connection.register("rows", pa.table(rows))
        connection.execute("DELETE FROM ratings")
        connection.execute("INSERT INTO ratings SELECT image_id, 'rating ' || d, '', value, 'synthetic' FROM rows")
        connection.execute("INSERT OR REPLACE INTO revisions VALUES ('ratings', 1)")
    return ratings_nd


def by_scipy(warehouse: Warehouse, space: str, ratings_nd: npt.NDArray[np.float64]) -> float:
    """Seconds that a loop over all features and dimensions would take."""
    matrix = warehouse.sparse_matrix(space).tocsc()
    features = np.random.default_rng(0).choice(matrix.shape[1], size=min(N_BY_SCIPY, matrix.shape[1]), replace=False)
    columns = matrix[:, features].toarray().astype(np.float64).T.copy()
    rated = [~np.isnan(rating_n) for rating_n in ratings_nd.T]

    def loop() -> None:
        for column_n in columns:
            for rating_n, rated_n in zip(ratings_nd.T, rated, strict=True):
                # Features of the sample that are silent have no variance; a loop would leave them out.
                if column_n.any():
                    scipy.stats.pearsonr(column_n[rated_n], rating_n[rated_n])

    return seconds(loop) * matrix.shape[1] / len(features)


def in_one_aggregate(warehouse: Warehouse, space: str, ratings_nd: npt.NDArray[np.float64]) -> float:
    """Seconds of the sums as DuckDB makes them."""
    columns = {f"y{d}": np.nan_to_num(rating_n) for d, rating_n in enumerate(ratings_nd.T)}
    table = pa.table({"image_id": np.arange(len(ratings_nd), dtype=np.int32), **columns})
    query = SUMS.format(", ".join(f"sum(value * {name})" for name in columns))
    with warehouse.space(space).connection() as connection:
        connection.register("rated", table)
        return statistics.median(seconds(lambda: connection.sql(query).fetchnumpy()) for _ in range(3))


def _compute(root: Path, space: str) -> float:
    """What the new process does; its peak in MiB."""
    warehouse = Warehouse.open(root, Plugins(external=False))
    warehouse.analyze("correlation", space, force=True)
    warehouse.analyze("correlation", space, force=True, covariates=("brightness", "saturation", "edge_energy"))
    warehouse.analyze("correlation", space, force=True, method="spearman")
    return peak()


if __name__ == "__main__":
    print(json.dumps(_compute(Path(sys.argv[1]), sys.argv[2])))
