"""Which features move with what people said: correlation of activations with ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters
from glasshouse.plugins.analyzers.coefficients import RatedImages, correlate, rated_images
from glasshouse.plugins.analyzers.feature_rows import feature_rows
from glasshouse.plugins.analyzers.reliability import complete_table, icc2k
from glasshouse.plugins.analyzers.significance import benjamini_hochberg, fisher_interval, two_sided_p
from glasshouse.schema.errors import UsageError, unknown_name
from glasshouse.schema.texts import read_sql

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

COVARIATES = ("brightness", "saturation", "edge_energy")
"""Columns of `images` that can be held fixed."""
ROWS_AT_ONCE = 4_000_000
"""About 200 MB with their sums."""


class CorrelationParameters(Parameters):
    """Parameters of `correlation`."""

    method: Literal["pearson", "spearman", "pointbiserial"] = Field(
        "pearson", description="Which coefficient; pointbiserial is Pearson's for ratings with two values."
    )
    dimensions: tuple[str, ...] = Field((), description="Rating dimensions; all by default.")
    covariates: tuple[str, ...] = Field(
        (), description=f"Partial correlation, given these: {', '.join(COVARIATES)}. None by default."
    )
    raters: tuple[str, ...] = Field((), description="Only these raters' ratings; all by default.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of the interval of r.")
    alpha: float = Field(0.05, gt=0, lt=1, description="q below this counts as found in the run's notes.")
    min_images: int = Field(3, ge=3, description="A dimension with fewer rated images is not tested.")


@dataclass(frozen=True)
class Ratings:
    """What was rated, as positions: one row for each image, dimension and rater. `dimensions` are the names."""

    dimensions: Sequence[str]
    image_n: npt.NDArray[np.int32]
    dimension_n: npt.NDArray[np.int32]
    rater_n: npt.NDArray[np.int32]
    value_n: npt.NDArray[np.float64]


class Correlation(Analyzer[CorrelationParameters]):
    """Pearson, Spearman, point-biserial and partial correlation, with p, q and intervals."""

    version = "1"
    summary = "which features move with the ratings: r, p, q and interval for every dimension"
    parameters = CorrelationParameters
    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("feature_id", pa.int32()),
            ("dimension", pa.string()),
            ("method", pa.string()),
            ("covariates", pa.string()),  # joined with commas, '' without
            ("r", pa.float64()),
            ("p", pa.float64()),
            ("q", pa.float64()),
            ("n", pa.int32()),  # images that are rated and that the space covers
            ("r_low", pa.float64()),
            ("r_high", pa.float64()),
        ]
    )
    facets = ("method", "covariates")
    in_features = ("r", "dimension", "q")
    strongest = "r"

    def resolve(self, view: AnalysisView, parameters: CorrelationParameters) -> CorrelationParameters:
        """Check the names; what is named twice or in another order is the same request."""
        present = view.sql("SELECT DISTINCT dimension, rater FROM ratings")
        dimensions, raters = set(present["dimension"].to_pylist()), set(present["rater"].to_pylist())
        if not dimensions:
            raise UsageError("There are no ratings. Add them with `glasshouse add --ratings FILE`.")
        return parameters.model_copy(
            update={
                "dimensions": _checked("rating dimension", parameters.dimensions, dimensions),
                "covariates": _checked("covariate", parameters.covariates, COVARIATES),
                "raters": _checked("rater", parameters.raters, raters),
            }
        )

    def run(self, view: AnalysisView, parameters: CorrelationParameters) -> pa.Table:
        """Correlate every feature with every dimension over the rated images that the space covers.

        Raises:
            UsageError: no dimension can be tested, or a dimension is not binary where it has to be.
        """
        ratings = _read_ratings(view, parameters)
        mean_nd = _means(ratings, view.n_images)
        if parameters.method == "pointbiserial":
            _require_binary(ratings.dimensions, mean_nd)
        prepared, reasons = _prepare(view, parameters, ratings.dimensions, mean_nd)
        if not prepared:
            raise UsageError(f"No dimension can be tested: {'; '.join(f'{d}: {why}' for d, why in reasons.items())}.")
        r_fd = _coefficients(view, prepared, len(ratings.dimensions), ranks=parameters.method == "spearman")
        table = _table(r_fd, ratings.dimensions, prepared, parameters)
        view.note(
            n_tests=table.num_rows,
            tested=_counts(table, ratings.dimensions, view.n_features, parameters.alpha),
            not_tested=reasons,
            reliability=_reliability(ratings),
        )
        return table


def _checked(kind: str, names: Sequence[str], known: Sequence[str] | set[str]) -> tuple[str, ...]:
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, known)
    return tuple(sorted(set(names)))


def _read_ratings(view: AnalysisView, parameters: CorrelationParameters) -> Ratings:
    """Read the ratings that are asked for, of images that the space covers."""
    present = view.sql("SELECT DISTINCT dimension, rater FROM ratings")
    dimensions = sorted(parameters.dimensions or set(present["dimension"].to_pylist()))
    raters = sorted(parameters.raters or set(present["rater"].to_pylist()))
    rows = view.sql(read_sql("queries/rating_values.sql"), {"dimensions": dimensions, "raters": raters})
    columns = {name: rows[name].to_numpy() for name in ("image_id", "dimension", "rater", "value")}
    covered_n = np.zeros(view.n_images, dtype=bool)
    covered_n[view.image_ids] = True
    kept_n = covered_n[columns["image_id"]]
    return Ratings(dimensions, *(column[kept_n] for column in columns.values()))


def _means(ratings: Ratings, n_images: int) -> npt.NDArray[np.float64]:
    """Return the mean over raters, [n_images, dimensions], NaN where nobody rated."""
    n_dimensions = len(ratings.dimensions)
    cell_n = ratings.image_n.astype(np.int64) * n_dimensions + ratings.dimension_n
    counts_c = np.bincount(cell_n, minlength=n_images * n_dimensions)
    sums_c = np.bincount(cell_n, ratings.value_n, minlength=n_images * n_dimensions)
    with np.errstate(invalid="ignore"):
        means_nd: npt.NDArray[np.float64] = (sums_c / counts_c).reshape(n_images, n_dimensions)
    return means_nd


def _require_binary(dimensions: Sequence[str], mean_nd: npt.NDArray[np.float64]) -> None:
    for dimension, mean_n in zip(dimensions, mean_nd.T, strict=True):
        values = np.unique(mean_n[~np.isnan(mean_n)])
        if len(values) > 2:
            raise UsageError(
                f"pointbiserial needs ratings with two values, but '{dimension}' has {len(values)} (the mean over "
                "raters counts). Choose dimensions with --dimensions, one rater with --raters, or --method pearson."
            )


def _prepare(
    view: AnalysisView, parameters: CorrelationParameters, dimensions: Sequence[str], mean_nd: npt.NDArray[np.float64]
) -> tuple[list[RatedImages], dict[str, str]]:
    """Bring dimensions with the same rated images together; say why others cannot be tested."""
    listing = view.images().sort("image_id").select(parameters.covariates) if parameters.covariates else None
    covariates_nc = np.zeros((view.n_images, 0)) if listing is None else listing.to_numpy().astype(np.float64)
    groups: dict[bytes, list[int]] = {}
    for column in range(len(dimensions)):
        groups.setdefault(np.packbits(np.isnan(mean_nd[:, column])).tobytes(), []).append(column)
    prepared: list[RatedImages] = []
    reasons: dict[str, str] = {}
    for columns in groups.values():
        n = int((~np.isnan(mean_nd[:, columns[0]])).sum())
        needed = max(parameters.min_images, 3 + len(parameters.covariates))
        if n < needed:
            reasons |= {dimensions[c]: f"{n} rated images in this space, {needed} are needed" for c in columns}
            continue
        images = rated_images(mean_nd, covariates_nc, columns, ranks=parameters.method == "spearman")
        what = "all ratings are equal" if images.n_covariates == 0 else "it has no variance besides the covariates"
        reasons |= {dimensions[c]: what for c in columns if c not in images.columns_t}
        if len(images.columns_t):
            prepared.append(images)
    return prepared, reasons


def _coefficients(
    view: AnalysisView, prepared: Sequence[RatedImages], n_dimensions: int, *, ranks: bool
) -> npt.NDArray[np.float64]:
    """Return r [F, dimensions], NaN where it was not tested."""
    r_fd = np.full((view.n_features, n_dimensions), np.nan)
    for rows in feature_rows(view, ROWS_AT_ONCE):
        end = rows.first + len(rows.counts_f)
        for images, r_ft in zip(prepared, correlate(rows, prepared, ranks=ranks), strict=True):
            r_fd[rows.first : end, images.columns_t] = r_ft
        view.progress(end, view.n_features)
    return r_fd


def _table(
    r_fd: npt.NDArray[np.float64],
    dimensions: Sequence[str],
    prepared: Sequence[RatedImages],
    parameters: CorrelationParameters,
) -> pa.Table:
    """Return the rows: one for each feature and dimension that was tested, in this order."""
    feature_k, dimension_k = np.nonzero(~np.isnan(r_fd))
    r_k = r_fd[feature_k, dimension_k]
    n_d, covariates_d = np.zeros((2, len(dimensions)), dtype=np.int64)
    for images in prepared:
        n_d[images.columns_t], covariates_d[images.columns_t] = images.n_rated, images.n_covariates
    n_k, freedom_k = n_d[dimension_k], (n_d - 2 - covariates_d)[dimension_k].astype(np.float64)
    p_k = two_sided_p(r_k, freedom_k)
    low_k, high_k = fisher_interval(r_k, freedom_k - 1, parameters.confidence)
    constants = [parameters.method, ",".join(parameters.covariates)]
    columns = [
        pa.array(feature_k, pa.int32()),
        pa.DictionaryArray.from_arrays(dimension_k.astype(np.int32), pa.array(dimensions, pa.string())),
        *(pa.DictionaryArray.from_arrays(np.zeros(len(r_k), np.int8), [text]) for text in constants),
        pa.array(r_k),
        pa.array(p_k),
        pa.array(benjamini_hochberg(p_k)),
        pa.array(n_k, pa.int32()),
        pa.array(low_k, from_pandas=True),  # NaN is NULL
        pa.array(high_k, from_pandas=True),
    ]
    return pa.Table.from_arrays(columns, names=Correlation.schema.names).cast(Correlation.schema)


def _counts(table: pa.Table, dimensions: Sequence[str], n_features: int, alpha: float) -> dict[str, dict[str, int]]:
    """By dimension: its images, the features that were tested, those without variance, and those with q < alpha."""
    import pyarrow.compute as pc

    counts = {}
    for dimension in dimensions:
        rows = table.filter(pc.equal(table["dimension"], dimension))
        if rows.num_rows:
            counts[dimension] = {
                "n_images": rows["n"][0].as_py(),
                "n_features": rows.num_rows,
                "n_without_variance": n_features - rows.num_rows,
                "n_found": pc.sum(pc.less(rows["q"], alpha)).as_py(),
            }
    return counts


def _reliability(ratings: Ratings) -> dict[str, dict[str, Any]]:
    """ICC(2,k) of every dimension that several raters rated, over the images that all of them rated."""
    found = {}
    for position, dimension in enumerate(ratings.dimensions):
        chosen = ratings.dimension_n == position
        n_raters = len(np.unique(ratings.rater_n[chosen]))
        if n_raters > 1:
            table_nk = complete_table(ratings.image_n[chosen], ratings.rater_n[chosen], ratings.value_n[chosen])
            found[dimension] = {"icc2k": icc2k(table_nk), "n_images": len(table_nk), "n_raters": n_raters}
    return found
