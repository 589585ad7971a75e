"""What predicts the planted ratings of the starter world, what its features are called, and controls beside both."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glasshouse.plugins.analyzers.coefficients import correlate, rated_images
from glasshouse.plugins.analyzers.feature_rows import feature_rows
from glasshouse.plugins.analyzers.significance import benjamini_hochberg, two_sided_p
from glasshouse.plugins.starter.measures import PURE, purity_table
from glasshouse.plugins.starter.world.captions import prompt
from glasshouse.plugins.starter.world.vocabulary import CORE_VALUES
from glasshouse.schema.errors import UsageError

N_IMAGES = 1_000
PLANTED = {"commercial": {"watermark": 1}, "festive": {"red": 1, "star": 1}, "restless": {"striped": 1, "cyan": -1}}
"""The attributes behind each dimension, with the sign of their part."""

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a demo whose ratings are there a second time, each image's with another image (`shuffled …`)."""
    from glasshouse.plugins.manager import Plugins
    from glasshouse.plugins.starter.demo import build_demo

    folder = tmp_path_factory.mktemp("ratings")
    warehouse = build_demo(
        folder / "world.glasshouse", N_IMAGES, 0, Plugins(external=False), lambda title: lambda done, total: None
    ).warehouse
    names = [Path(path).name for path in warehouse.images()["path"]]
    other = np.random.default_rng(0).permutation(N_IMAGES)
    with (folder / "shuffled.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "dimension", "rater", "value"])
        for image, dimension, rater, value in warehouse.sql(
            "SELECT image_id, dimension, rater, value FROM ratings WHERE dimension <> 'luck'"
        ).iter_rows():
            writer.writerow([names[other[image]], f"shuffled {dimension}", rater, value])
    warehouse.add(ratings=[folder / "shuffled.csv"])
    yield warehouse
    warehouse.close()


@pytest.fixture(scope="module")
def truth_nv(world: Any) -> Array:
    """Return which of the 36 values each image has."""
    true_nv = np.zeros((N_IMAGES, len(CORE_VALUES)), dtype=bool)
    for image, attribute, value in world.sql("SELECT image_id, attribute, value FROM image_labels").iter_rows():
        name = "watermark" if (attribute, value) == ("watermark", "present") else value
        if name in CORE_VALUES:
            true_nv[image, CORE_VALUES.index(name)] = True
    assert true_nv.any(axis=0).all() and not true_nv.all(axis=0).any()
    return true_nv


def values_of_features(world: Any, space: str, truth_nv: Array) -> list[set[str]]:
    """The values that (nearly) all of a feature's top 20 images have; none where it is active on fewer."""
    purity_fv = purity_table(world.sparse_matrix(space).toarray(), truth_nv)
    return [{CORE_VALUES[v] for v in np.flatnonzero(row >= PURE)} for row in purity_fv]


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("space", ["cls", "patches"])
def test_planted_attributes_come_first(world: Any, truth_nv: Array, space: str, method: str) -> None:
    dimensions = (*PLANTED, "luck")
    world.analyze("correlation", space, method=method, dimensions=dimensions)
    values = values_of_features(world, space, truth_nv)
    for dimension, signs in PLANTED.items():
        rows = world.sql(
            "SELECT feature_id, r, q FROM correlation WHERE space = $space AND method = $method AND covariates = '' "
            "AND dimension = $dimension ORDER BY abs(r) DESC",
            {"space": space, "method": method, "dimension": dimension},
        ).rows()
        places = [
            next(i for i, (feature, _, _) in enumerate(rows) if values[feature] & {attribute}) for attribute in signs
        ]
        assert max(places) < 5, (dimension, places)
        for place, sign in zip(places, signs.values(), strict=True):
            assert rows[place][2] < 0.05 and np.sign(rows[place][1]) == sign
        before = [values[feature] for feature, _, _ in rows[: max(places)]]
        assert [own for own in before if own and not own & set(signs)] == [], dimension


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("space", ["cls", "patches"])
def test_noise_and_shuffled_ratings_find_next_to_nothing(world: Any, space: str, method: str) -> None:
    """At q < .05 one run in twenty finds something where there is nothing; planted ratings find dozens."""
    controls = ("luck", *(f"shuffled {dimension}" for dimension in PLANTED))
    run = world.analyze("correlation", space, method=method, dimensions=controls)[-1].run
    assert set(run.notes["tested"]) == set(controls)
    assert sum(counts["n_found"] for counts in run.notes["tested"].values()) <= 1


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("space", ["cls", "patches"])
def test_few_of_many_shuffles_find_anything(world: Any, space: str, method: str) -> None:
    """Of 30 runs on shuffled ratings at most 5 find something: with one in twenty, more has a chance of .003."""
    from glasshouse.plugins.view import AnalysisView

    (rows,) = feature_rows(AnalysisView(world, space))
    frame = world.sql("SELECT image_id, avg(value) AS value FROM ratings WHERE dimension = 'festive' GROUP BY ALL")
    ratings = np.full(N_IMAGES, np.nan)
    ratings[frame["image_id"].to_numpy()] = frame["value"].to_numpy()
    rng, n_with = np.random.default_rng(5), 0
    for _ in range(30):
        images = rated_images(
            rng.permutation(ratings)[:, None], np.zeros((N_IMAGES, 0)), [0], ranks=method == "spearman"
        )
        r = correlate(rows, [images], ranks=method == "spearman")[0][:, 0]
        q = benjamini_hochberg(two_sided_p(r[~np.isnan(r)], images.n_rated - 2))
        n_with += bool((q < 0.05).any())
    assert n_with <= 5


@pytest.mark.parametrize("space", ["cls", "patches"])
def test_beside_planted_ratings_noise_has_a_small_share_of_what_is_found(world: Any, space: str) -> None:
    """q is over all dimensions of a run: 5 % of all that is found may be false, most of it where nothing is true."""
    run = world.analyze("correlation", space, dimensions=(*PLANTED, "luck"))[-1].run
    found = {name: counts["n_found"] for name, counts in run.notes["tested"].items()}
    assert found["luck"] <= 0.1 * sum(found.values())
    assert sum(found.values()) - found["luck"] >= 15 and min(found[dimension] for dimension in PLANTED) >= 2


def test_the_watermark_is_more_than_brightness(world: Any) -> None:
    covariates = ("brightness", "edge_energy", "saturation")
    world.analyze("correlation", "cls", dimensions=("commercial",), covariates=covariates)
    r = world.sql("SELECT max(r) AS r FROM correlation WHERE covariates <> '' AND dimension = 'commercial'")["r"][0]
    assert r > 0.6


def test_raters_agree_on_what_was_planted_more_than_on_noise(world: Any) -> None:
    run = world.analyze("correlation", "cls", dimensions=(*PLANTED, "luck"))[-1].run
    agreement = {name: figures["icc2k"] for name, figures in run.notes["reliability"].items()}
    assert all(agreement[dimension] > agreement["luck"] for dimension in PLANTED)
    assert all(figures["n_raters"] == 3 for figures in run.notes["reliability"].values())


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the prompts of the 36 values, one per line."""
    file = tmp_path_factory.mktemp("words") / "world.txt"
    file.write_text("\n".join(map(prompt, CORE_VALUES)))
    return file


def share_right(world: Any, space: str, of: str, truth_nv: Array, vocabulary: Path) -> float:
    """Share of the pure features of space `of` whose first word in `space` is one of their values."""
    world.analyze("soft_wpmi", space, vocabulary=str(vocabulary))
    rows = world.sql("SELECT feature_id, word FROM soft_wpmi WHERE space = $space AND rank = 0", {"space": space})
    word = dict(rows.iter_rows())
    values = values_of_features(world, of, truth_nv)
    right = [word[feature] in map(prompt, own) for feature, own in enumerate(values) if own]
    assert len(right) > 30
    return float(np.mean(right))


def test_words_are_right_and_those_of_shuffled_images_are_not(world: Any, truth_nv: Array, vocabulary: Path) -> None:
    codes_nf = world.sparse_matrix("cls").toarray()
    other = np.random.default_rng(1).permutation(N_IMAGES)
    world.import_features("shuffled", codes_nf[other], list(range(N_IMAGES)))
    assert share_right(world, "cls", "cls", truth_nv, vocabulary) >= 0.8
    assert share_right(world, "patches", "patches", truth_nv, vocabulary) >= 0.8
    assert share_right(world, "shuffled", "cls", truth_nv, vocabulary) <= 0.2


def test_features_shows_the_first_word_and_ranks_go_with_scores(world: Any, vocabulary: Path) -> None:
    run = world.analyze("soft_wpmi", "cls", vocabulary=str(vocabulary), n_words=2)[-1].run
    rows = world.sql("FROM soft_wpmi WHERE space = 'cls' ORDER BY feature_id, rank")
    n_active = int((world.feature_statistics("cls")["n_active"] > 0).sum())
    assert rows.height == 2 * n_active == 2 * run.notes["n_features"]
    assert rows["rank"].to_list() == [0, 1] * n_active
    scores = rows["score"].to_numpy().reshape(-1, 2)
    assert (scores[:, 0] >= scores[:, 1]).all()
    shown = world.sql("SELECT feature_id, f.word FROM features AS f WHERE space = 'cls' AND f.word IS NOT NULL")
    first = dict(rows.filter(rank=0).select("feature_id", "word").iter_rows())
    assert dict(shown.iter_rows()) == first
    assert run.parameters["embedding"] == "clip"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"embedding": "dinov2"}, "no embedding with a text tower 'dinov2'.*clip"),
        ({"vocabulary": "nowhere.txt"}, "There is no file nowhere.txt"),
        ({"template": ("a photo",)}, "has no {}"),
    ],
)
def test_what_soft_wpmi_cannot_do_is_said(world: Any, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        world.analyze("soft_wpmi", "cls", **parameters)


def test_an_embedding_without_text_is_not_enough(warehouse: Any) -> None:
    rng = np.random.default_rng(0)
    warehouse.import_features("x", rng.random((30, 5)).astype(np.float32), images=list(range(30)))
    warehouse.import_embeddings("other", rng.normal(size=(30, 5)).astype(np.float32), images=list(range(30)))
    with pytest.raises(UsageError, match="no image embedding of an encoder that also embeds text"):
        warehouse.analyze("soft_wpmi", "x")
