"""Which features are taken out of which images, and the sums of what that changed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from glasshouse.plugins.analyzers.ablation import Ablator, Jobs
from glasshouse.plugins.analyzers.ablation_edits import Floats, Ints
from glasshouse.plugins.analyzers.ablation_targets import Scored, unit
from glasshouse.schema.errors import ModelError
from glasshouse.warehouse.extraction.loading import BatchLoader, stored_images

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

N_ALIKE = 10
"""The control feature is drawn from so many whose frequency is closest."""


def control_features(n_active_f: Ints, features: list[int], seed: int) -> dict[int, int]:
    """Return for each feature another one, drawn from the N_ALIKE whose frequency is closest; none without others."""
    rng = np.random.default_rng(seed)
    others = np.flatnonzero(n_active_f > 0)
    found = {}
    for feature in features:
        distance = np.abs(np.log(n_active_f[others]) - np.log(n_active_f[feature]))
        alike = others[np.lexsort((others, distance))]
        alike = alike[alike != feature][:N_ALIKE]
        if len(alike):
            found[feature] = int(rng.choice(alike))
    return found


def jobs_of(view: AnalysisView, features: list[int], control: dict[int, int], k: int) -> Jobs:
    """Return what is done on which image, by image: features and controls are taken out, features also at random."""
    top = view.top_images(k).select("feature_id", "image_id")
    own = top.filter(pl.col("feature_id").is_in(features))
    everyone = top.filter(pl.col("feature_id").is_in([*features, *control.values()]))
    frame = pl.concat([everyone.with_columns(is_random=pl.lit(False)), own.with_columns(is_random=pl.lit(True))]).sort(
        "image_id", "feature_id", "is_random"
    )
    return Jobs(*(frame[name].to_numpy() for name in ("image_id", "feature_id", "is_random")))


@dataclass
class Sums:
    """Sums over the images of one feature, or of the random direction beside it."""

    effect_t: Floats
    embedding: float = 0.0
    removed: float = 0.0
    n: int = 0

    def mean(self) -> Floats:
        """Return the mean change of each target; NaN where there is no image."""
        return self.effect_t / self.n if self.n else np.full(len(self.effect_t), np.nan)

    def embedding_mean(self) -> float | None:
        """Return the mean cosine distance of the embeddings."""
        return self.embedding / self.n if self.n else None


@dataclass
class Totals:
    """Sums by (feature, whether a random direction)."""

    n_targets: int
    by_job: dict[tuple[int, bool], Sums] = field(default_factory=dict)

    def of(self, feature: int, *, is_random: bool) -> Sums:
        """Return the sums of one, empty ones where nothing was run."""
        return self.by_job.setdefault((feature, is_random), Sums(np.zeros(self.n_targets)))


def run_jobs(view: AnalysisView, ablator: Ablator, jobs: Jobs, scored: Scored, batch_size: int) -> Totals:
    """Run the jobs, batch by batch of images, and sum what they change.

    Raises:
        ModelError: more than half of the pictures cannot be read; fewer are noted.
    """
    totals = Totals(len(scored.names))
    n_done, n_unreadable = 0, 0
    loader, n_pictures = _loader(view, ablator, np.unique(jobs.image_j), batch_size)
    for batch in loader:
        n_unreadable += len(batch.failures)
        n_done += len(batch.image_ids) + len(batch.failures)
        if batch.batch_bchw is not None:
            ids = np.array(batch.image_ids)
            here = np.flatnonzero(np.isin(jobs.image_j, ids))
            own = Jobs(jobs.image_j[here], jobs.feature_j[here], jobs.is_random_j[here])
            _, edited = ablator.edited(batch.batch_bchw, np.searchsorted(ids, own.image_j), own)
            effect_nt = scored.score(edited.after_ne) - scored.score(edited.before_ne)
            distance_n = 1 - np.einsum("ne,ne->n", unit(edited.after_ne), unit(edited.before_ne))
            for row, job in enumerate(edited.job):
                sums = totals.of(int(own.feature_j[job]), is_random=bool(own.is_random_j[job]))
                sums.effect_t += effect_nt[row]
                sums.embedding += float(distance_n[row])
                sums.removed += float(edited.removed_n[row])
                sums.n += 1
        view.progress(n_done, n_pictures)
    if n_unreadable:
        found = f"{n_unreadable:,} of {n_pictures:,} pictures could not be read"
        if 2 * n_unreadable > n_pictures:
            raise ModelError(
                f"{found}: too many, so nothing was stored. Put the pictures back where they were added from."
            )
        view.note(incomplete=found)
    return totals


def _loader(view: AnalysisView, ablator: Ablator, images: Ints, batch_size: int) -> tuple[BatchLoader, int]:
    with view.warehouse.catalogue.reading() as connection:
        stored = stored_images(connection, [int(image) for image in images])
    blocks = [stored[start : start + batch_size] for start in range(0, len(stored), batch_size)]
    preprocess = ablator.model.encoder.preprocess
    workers = min(8, os.cpu_count() or 1)
    return BatchLoader(blocks, preprocess, view.warehouse.root, workers=workers, ahead=1), len(stored)
