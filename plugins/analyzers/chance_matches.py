"""The control of `comparison`: how near features come that mean nothing.

A feature that is active on random images has a concept vector too, and of thousands of other features one is near it.
So many random sets of images are drawn, as large as the features' own sets of examples, and the best matches of their
mean vectors are the cosines that chance reaches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.concept_vectors import VectorParameters, facets_of
from glasshouse.plugins.analyzers.nearest import directions, nearest
from glasshouse.warehouse.results.store import latest_run

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

N_SETS: Final = 2_000

Floats = npt.NDArray[np.float64]


def chance_cosines(
    view: AnalysisView,
    parameters: VectorParameters,
    n_images_k: npt.NDArray[np.int32],
    others_le: Floats,
    centre_e: Floats,
) -> Floats:
    """Return the best cosine of each random set's mean vector with the other space's features, float64 [c ≤ 2,000].

    Args:
        view: of the space.
        parameters: a seed, and which vectors: sets are drawn from the space's images, or from all of its cut-outs.
        n_images_k: examples behind each of the features' vectors; each set is as large as one of them.
        others_le: of `directions`, centred as the features' vectors are.
        centre_e: what is subtracted.
    """
    pool_ne = _pool(view, parameters)
    if not len(pool_ne) or not len(n_images_k):
        return np.zeros(0)
    rng = np.random.default_rng(int(getattr(parameters, "seed", 0)))
    sizes_c = np.minimum(rng.choice(n_images_k, N_SETS), len(pool_ne))
    means_ce = np.stack([_mean(pool_ne, rng, int(size)) for size in sizes_c])
    cosine_c = nearest(directions(means_ce, centre_e), others_le, 1).cosine_nk[:, 0]
    return cosine_c[np.isfinite(cosine_c)]


def _mean(pool_ne: npt.NDArray[np.float32], rng: np.random.Generator, size: int) -> Floats:
    mean_e: Floats = pool_ne[rng.choice(len(pool_ne), size, replace=False)].mean(axis=0, dtype=np.float64)
    return mean_e


def _pool(view: AnalysisView, parameters: VectorParameters) -> npt.NDArray[np.float32]:
    """Return the vectors that sets are drawn from: of the space's images, or of the cut-outs of all features."""
    if parameters.crop:
        run = latest_run(view.warehouse.catalogue, "examples", view.space, facets_of(parameters))
        if run is None or run.vectors is None:
            return np.zeros((0, 1), np.float32)
        return view.warehouse.result_vectors(run).vectors_ke
    ids, vectors_ne = view.embedding(str(parameters.embedding))
    return vectors_ne[np.isin(ids, view.image_ids) & np.isfinite(vectors_ne).all(axis=1)]
