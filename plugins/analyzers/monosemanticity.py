"""Analyzer `monosemanticity`: how alike the images are on which a feature is active, with thresholds from the data.

Definition and source are in `monosemantic_scores`; docs/analyses.md says where other code differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers import embedding_choice, monosemantic_bootstrap, monosemantic_scores
from glasshouse.plugins.analyzers.directions import Directions, directions_of, random_pair_cosines
from glasshouse.plugins.analyzers.feature_rows import FeatureRows, feature_rows
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.analyzers.monosemantic_scores import Floats
    from glasshouse.plugins.view import AnalysisView

SCHEMA = pa.schema(
    [
        ("feature_id", pa.int32()),
        ("variant", pa.string()),
        ("embedding", pa.string()),
        ("ms", pa.float64()),
        ("ms_class", pa.string()),
        ("n_images", pa.int32()),
        ("ms_low", pa.float64()),
        ("ms_high", pa.float64()),
        ("concentration", pa.float64()),
    ]
)


ROUNDING = 1e-6
"""Cosines of stored float32 vectors that differ by less than this differ by rounding."""

FEWEST_IMAGES = 10
"""Thresholds of fewer images would be those of a handful of pairs."""


class MonosemanticityParameters(Parameters):
    """Parameters of `monosemanticity`."""

    variant: Literal["top", "all"] = Field("top", description="Score the top images, or all images of the space.")
    embedding: str | None = Field(
        None, description="Image embedding that says how alike images are; by default one of an independent encoder."
    )
    k: int = Field(20, ge=2, description="How many top images count (variant top).")
    min_images: int = Field(
        10, ge=2, description="Features active on fewer images with an embedding get no score (variant top)."
    )
    centre: bool = Field(False, description="Subtract the mean of the image embeddings before comparing them.")
    bootstrap: int = Field(
        0, ge=0, le=100_000, description="Resamples of the top images for a 95 % interval; 0 for none (variant top)."
    )
    n_pairs: int = Field(50_000, ge=100, description="Random pairs of images from which the thresholds come.")
    seed: int = Field(0, ge=0, description="Seed of random pairs and resamples.")
    circular: bool = Field(False, description="Allow an embedding that the space's own encoder made.")


class Monosemanticity(Analyzer[MonosemanticityParameters]):
    """Weighted mean cosine of the images on which a feature is active, and its class."""

    summary: ClassVar[str] = "How alike the images of each feature are: MS, its class and interval."
    parameters: ClassVar[type[Parameters]] = MonosemanticityParameters
    schema: ClassVar[pa.Schema] = SCHEMA
    facets: ClassVar[tuple[str, ...]] = ("variant", "embedding")
    in_features: ClassVar[tuple[str, ...]] = ("ms", "ms_class")

    def resolve(self, view: AnalysisView, parameters: MonosemanticityParameters) -> MonosemanticityParameters:
        """Choose the embedding; `circular` stays on only where it is needed."""
        if parameters.bootstrap and parameters.variant == "all":
            raise UsageError("--bootstrap resamples the top images: leave it out, or use --variant top.")
        if parameters.embedding is None:
            name = embedding_choice.chosen(view, circular=parameters.circular)
            view.note(chosen_from=embedding_choice.candidates(view, circular=parameters.circular))
        else:
            name = embedding_choice.checked(view, parameters.embedding, circular=parameters.circular)
        record = next(record for record in view.embedding_records() if record["name"] == name)
        circular = embedding_choice.is_own(view.record, record)
        return parameters.model_copy(update={"embedding": name, "circular": circular})

    def run(self, view: AnalysisView, parameters: MonosemanticityParameters) -> Rows:
        """Score every feature, the silent ones with NULL."""
        name = str(parameters.embedding)
        directions = directions_of(view.embedding(name), view.image_ids, centre=parameters.centre)
        n_images = len(directions.image_ids)
        if n_images < 2:
            raise UsageError(
                f"The embedding '{name}' has a usable vector for {n_images} of the {len(view.image_ids)} images of "
                f"'{view.space}'; scores need two. Complete it with `glasshouse embed`."
            )
        mean, deviation = _calibrate(directions, parameters)
        view.note(
            mu=mean, sigma=deviation, n_pairs=parameters.n_pairs, seed=parameters.seed, n_images=n_images,
            n_left_out=len(view.image_ids) - n_images,
        )  # fmt: skip
        thresholds = None
        if why := _no_classes_because(directions, deviation):
            view.note(no_classes_because=why)
        else:
            thresholds = (mean + deviation, mean + 2 * deviation)
            view.note(moderate_from=thresholds[0], monosemantic_from=thresholds[1])
        return pa.concat_tables(list(self._tables(view, parameters, directions, thresholds)))

    def _tables(
        self,
        view: AnalysisView,
        parameters: MonosemanticityParameters,
        directions: Directions,
        thresholds: tuple[float, float] | None,
    ) -> Iterator[pa.Table]:
        statistics = view.statistics().sort("feature_id")
        concentration_f = monosemantic_scores.concentration(
            statistics["sum_value"].to_numpy(), statistics["sum_squares"].to_numpy()
        )
        row_of_image = directions.row_of_image(view.n_images)
        strongest = max(parameters.k, parameters.min_images) if parameters.variant == "top" else None
        for block in feature_rows(view, strongest=strongest):
            rows = block.of_images(row_of_image)
            end = rows.first + len(rows.counts_f)
            score_f, low_f, high_f = _scored(view, parameters, rows, directions)
            used_f = rows.counts_f if parameters.variant == "all" else np.minimum(rows.counts_f, parameters.k)
            columns = {
                "feature_id": np.arange(rows.first, end),
                "variant": [parameters.variant] * len(score_f),
                "embedding": [parameters.embedding] * len(score_f),
                "ms": score_f,
                "ms_class": monosemantic_scores.classes(score_f, thresholds),
                "n_images": used_f,
                "ms_low": low_f,
                "ms_high": high_f,
                "concentration": concentration_f[rows.first : end],
            }
            yield _table(columns)
            view.progress(end, view.n_features)


def _calibrate(directions: Directions, parameters: MonosemanticityParameters) -> tuple[float, float]:
    """Mean and standard deviation (of a sample) of the cosine of random image pairs."""
    cosine_p = random_pair_cosines(directions, parameters.n_pairs, parameters.seed)
    return float(cosine_p.mean()), float(cosine_p.std(ddof=1)) if len(cosine_p) > 1 else 0.0


def _no_classes_because(directions: Directions, deviation: float) -> str:
    """Say why no thresholds can be taken from the cosines of random pairs; '' where they can."""
    n_images = len(directions.image_ids)
    if n_images < FEWEST_IMAGES:
        return f"{n_images} images have a usable vector, thresholds need {FEWEST_IMAGES}"
    longest = 1 / float(directions.scale_n.min())
    # Once centred, what is left of equal vectors is rounding too, and points anywhere.
    if deviation <= ROUNDING or longest <= ROUNDING * float(np.linalg.norm(directions.centre_e)):
        return "the embeddings are all nearly equal, so that their differences are rounding"
    return ""


def _scored(
    view: AnalysisView, parameters: MonosemanticityParameters, rows: FeatureRows, directions: Directions
) -> tuple[Floats, Floats, Floats]:
    """MS [features] of a block, and the ends of its interval; NaN where there is none."""
    nowhere_f = np.full(len(rows.counts_f), np.nan)
    if parameters.variant == "all":
        weight_r = monosemantic_scores.weights_among_all(rows, len(directions.image_ids))
        return monosemantic_scores.scores(rows, weight_r, directions), nowhere_f, nowhere_f
    too_few_f = rows.counts_f < parameters.min_images
    top = rows.strongest(parameters.k)
    weight_r = monosemantic_scores.min_max_weights(top)
    found = [monosemantic_scores.scores(top, weight_r, directions), nowhere_f, nowhere_f]
    if parameters.bootstrap:
        found[1:] = monosemantic_bootstrap.intervals(
            top, weight_r, directions, parameters.bootstrap, parameters.seed,
            progress=lambda done: view.progress(rows.first + done, view.n_features),
        )  # fmt: skip
    score_f, low_f, high_f = (np.where(too_few_f, np.nan, part_f) for part_f in found)
    return score_f, low_f, high_f


def _table(columns: dict[str, object]) -> pa.Table:
    """Return the rows of a block; NaN becomes NULL."""
    arrays = [pa.array(columns[field.name], field.type, from_pandas=True) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
