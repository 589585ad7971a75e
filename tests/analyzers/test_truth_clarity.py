"""SemanticLens' scores on the starter world: trained features against the same features on shuffled images.

Populations are compared, of features with ten examples or more. The embedding is CLIP's, which is the space's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.cluster import KMeans

from benchmarks.truth.monosemanticity import auc

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("truth"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]

ENOUGH = 10


def scores(world: Any, analyzer: str, space: str) -> np.ndarray[Any, Any]:
    rows = world.rows(analyzer, space, embedding="clip")
    return np.asarray(rows.filter(rows["n_images"] >= ENOUGH)[analyzer].drop_nulls().to_numpy())


@pytest.mark.parametrize("space", ["cls", "patches"])
@pytest.mark.parametrize("analyzer", ["clarity", "polysemanticity"])
def test_features_are_clearer_than_on_shuffled_images(world: Any, space: str, analyzer: str) -> None:
    found, control = scores(world, analyzer, space), scores(world, analyzer, f"shuffled_{space}")
    right = auc(found, control) if analyzer == "clarity" else auc(control, found)
    assert right > 0.85, (found.mean(), control.mean())
    assert len(found) == len(control) > 50


def test_real_examples_score_as_one_fit_of_scikit_learn_each(world: Any) -> None:
    vectors_ne = world.warehouse.embeddings("clip").vectors_ne.astype(np.float64)
    rows = world.rows("polysemanticity", "patches", embedding="clip").filter(pl.col("n_images") > 3)
    for feature, found in rows.select("feature_id", "polysemanticity").sample(40, seed=0).iter_rows():
        examples_ne = vectors_ne[world.warehouse.top_images("patches", feature, 30)["image_id"].to_numpy()]
        fitted = KMeans(n_clusters=2, n_init=10, random_state=0).fit(examples_ne)
        if np.bincount(fitted.labels_).min() >= 2:
            one, other = fitted.cluster_centers_
            expected = 1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        else:
            mean_e, first_ne = examples_ne.mean(axis=0), examples_ne[:10]
            cosines = first_ne @ mean_e / np.linalg.norm(first_ne, axis=1) / np.linalg.norm(mean_e)
            expected = 1 - cosines.mean()
        assert found == pytest.approx(expected, abs=1e-6)


def test_examples_without_meaning_are_as_clear_as_random_pairs(world: Any) -> None:
    vectors_ne = world.warehouse.embeddings("clip").vectors_ne.astype(float)
    mean_e = (vectors_ne / np.linalg.norm(vectors_ne, axis=1, keepdims=True)).mean(axis=0)
    n = len(vectors_ne)
    usual = n / (n - 1) * (mean_e @ mean_e - 1 / n)
    for control in ("random", "shuffled_cls"):
        found = scores(world, "clarity", control)
        assert abs(found.mean() - usual) < 5 * found.std() / np.sqrt(len(found)), control


@pytest.mark.parametrize(("space", "other"), [("cls", "patches"), ("patches", "cls")])
def test_two_spaces_of_one_world_know_each_others_features_and_no_shuffled_ones(
    world: Any, space: str, other: str
) -> None:
    """Both dictionaries were trained on one encoder; docs/analyses.md has the figures."""
    for name in (space, other, f"shuffled_{space}"):
        world.warehouse.analyze("concepts", name, embedding="clip")

    def share(of: str, **parameters: Any) -> float:
        (report,) = world.warehouse.analyze("comparison", of, other=other, embedding="clip", **parameters)
        return float(report.run.notes["share_known"])

    for centred, least in {False: 0.1, True: 0.3}.items():
        known, control = share(space, centre=centred), share(f"shuffled_{space}", centre=centred)
        assert control < 0.12 and known > max(least, 2.5 * control), (known, control)


def test_the_best_match_of_a_pure_feature_shows_the_same_more_often_than_chance(world: Any) -> None:
    pure, others = world.pure("patches"), world.pure("cls")
    for name in ("cls", "patches"):
        world.warehouse.analyze("concepts", name, embedding="clip")
    rows = world.rows("comparison", "patches", other="cls", embedding="clip").filter(rank=0)
    match = {f: m for f, m in rows.select("feature_id", "other_feature_id").iter_rows() if f in pure}
    right = float(np.mean([bool(pure[f] & others.get(m, set())) for f, m in match.items()]))
    mixed = np.random.default_rng(0).permutation(list(match.values()))
    chance = np.mean([bool(pure[f] & others.get(m, set())) for f, m in zip(match, mixed, strict=True)])
    assert right > 0.5 and right > 5 * chance, (right, chance)
