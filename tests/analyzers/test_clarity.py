"""Clarity and polysemanticity against loops over their definitions, and one fit of scikit-learn per set of vectors."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.cluster import KMeans

from glasshouse.plugins.analyzers import clarity_scores
from glasshouse.plugins.analyzers.clarity_scores import clarities, polysemanticities
from glasshouse.plugins.analyzers.two_means import draws, two_means
from glasshouse.schema.errors import UsageError

Array = np.ndarray[Any, Any]


def length(vector: Any) -> float:
    return math.sqrt(math.fsum(float(x) ** 2 for x in vector))


def cosine(one: Any, other: Any) -> float:
    lengths = length(one) * length(other)
    return math.fsum(float(a) * float(b) for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0


def naive_clarity(vectors_ne: Array) -> float:
    """The published formula, with 0 for the direction of a zero vector."""
    n = len(vectors_ne)
    units = [[float(x) / length(v) if length(v) else 0.0 for x in v] for v in vectors_ne]
    mean = [math.fsum(column) / n for column in zip(*units, strict=True)]
    return n / (n - 1) * (length(mean) ** 2 - 1 / n)


def naive_polysemanticity(vectors_ne: Array, seed: int = 0) -> float:
    """One fit for this set, on the float64 copy of its vectors, then the formula."""
    wide_ne = vectors_ne.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicates: fewer different vectors than clusters
        fitted = KMeans(n_clusters=2, n_init=10, random_state=seed).fit(wide_ne)
    if min(np.sum(fitted.labels_ == 0), np.sum(fitted.labels_ == 1)) >= 2:
        return 1 - naive_clarity(fitted.cluster_centers_)
    mean = wide_ne.mean(axis=0)
    first = wide_ne[:10]
    return 1 - math.fsum(cosine(mean, v) for v in first) / len(first)


def both(sets: list[Array], seed: int = 0) -> tuple[Array, Array, int]:
    n_f, vectors_pe = np.array([len(one) for one in sets]), np.concatenate(sets).astype(np.float32)
    score_f, n_asked = polysemanticities(n_f, vectors_pe, seed)
    return clarities(n_f, vectors_pe), score_f, n_asked


def check(sets: list[Array], seed: int = 0) -> int:
    clarity_f, polysemanticity_f, n_asked = both(sets, seed)
    for vectors_ne, clarity, polysemanticity in zip(sets, clarity_f, polysemanticity_f, strict=True):
        assert clarity == pytest.approx(naive_clarity(vectors_ne), abs=1e-9)
        assert polysemanticity == pytest.approx(naive_polysemanticity(vectors_ne, seed), abs=1e-6)
        assert -1e-9 <= polysemanticity <= 2 + 1e-9 and clarity <= 1 + 1e-9
    return n_asked


def clouds(rng: Any, n_sets: int, n: int, width: int, gap: float) -> list[Array]:
    """Sets of two clouds of unequal size around a common mean, `gap` apart: one cloud at 0."""
    sides_sn = rng.random((n_sets, n)) < rng.uniform(0.1, 0.9, (n_sets, 1))
    centre_se = rng.normal(size=(n_sets, width)) * gap
    cloud_sne = rng.normal(size=(n_sets, n, width)) + 0.5 + sides_sn[..., None] * centre_se[:, None]
    return list(cloud_sne.astype(np.float32))


@pytest.mark.parametrize(("n", "width"), [(2, 3), (3, 3), (4, 5), (6, 2), (11, 8), (30, 64), (40, 3), (300, 1)])
@pytest.mark.parametrize("seed", [0, 7])
def test_random_sets_score_as_one_fit_each(n: int, width: int, seed: int) -> None:
    rng = np.random.default_rng((n, seed))
    sets = [*clouds(rng, 6, n, width, 0.0), *clouds(rng, 6, n, width, 1.0), *clouds(rng, 4, n, width, 6.0)]
    assert check(sets, seed) == 0, "random numbers are never close to each other: nothing is left to scikit-learn"


def test_many_vectors_without_clusters_stop_at_the_tolerance() -> None:
    """Uniform in a cube: the centres creep, and rest before the labels do."""
    sets = list(np.random.default_rng(0).uniform(0, 1, (12, 500, 4)).astype(np.float32))
    assert check(sets) == 0


def test_sets_of_different_sizes_stay_apart() -> None:
    rng = np.random.default_rng(0)
    sizes = [5, 1, 12, 2, 30, 5, 1, 7, 12, 4, 3, 30]
    sets = [rng.normal(0.2, 1, (n, 6)).astype(np.float32) for n in sizes]
    clarity_f, polysemanticity_f, _ = both(sets)
    for i, one in enumerate(sets):
        if len(one) == 1:
            assert np.isnan(clarity_f[i]) and np.isnan(polysemanticity_f[i])
        else:
            assert clarity_f[i] == pytest.approx(naive_clarity(one), abs=1e-12)
            assert polysemanticity_f[i] == pytest.approx(naive_polysemanticity(one), abs=1e-9)


def test_how_many_sets_are_worked_on_together_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = clouds(np.random.default_rng(3), 20, 9, 4, 2.0)
    whole = both(sets)
    monkeypatch.setattr(clarity_scores, "AT_ONCE", 100)
    parts = both(sets)
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-14)
    np.testing.assert_allclose(parts[1], whole[1], atol=1e-14)


def nasty() -> dict[str, Array]:
    rng = np.random.default_rng(5)
    few = rng.normal(size=(3, 4))
    e = np.eye(4)
    return {
        "all equal": np.tile([0.1, 0.2, 0.7, -1.0], (12, 1)),
        "all zero": np.zeros((6, 4)),
        "one differs": np.vstack([np.tile(few[0], (9, 1)), few[1:2]]),
        "two values": np.vstack([np.tile(few[0], (5, 1)), np.tile(few[1], (7, 1))]),
        "three values": few[rng.integers(0, 3, 30)],
        "opposite": np.vstack([np.tile(few[0], (5, 1)), np.tile(-few[0], (5, 1))]),
        "some zero": np.vstack([np.zeros((4, 4)), rng.normal(size=(8, 4))]),
        "square": np.array([[1, 1, 0, 0], [1, -1, 0, 0], [-1, 1, 0, 0], [-1, -1, 0, 0]], dtype=float),
        "corners": np.vstack([e, -e]),
        "two equal": np.tile(few[0], (2, 1)),
        "two opposite": np.vstack([few[0], -few[0]]),
        "line": np.arange(10)[:, None] * np.ones((1, 4)),
        "two runs of one inertia": np.array([[1, 0], [2, -1], [-2, -2], [2, 0], [-1, 2], [2, 2]]),
        "between two centres": np.array([[-2], [-1], [-2], [-2], [0], [-2], [0]]),
        "huge": rng.normal(size=(8, 4)) * 1e30,
        "tiny": rng.normal(size=(8, 4)) * 1e-30,
        "hardly different": 1 + rng.integers(0, 3, (10, 4)) * 1e-6,
    }


@pytest.mark.parametrize("name", nasty())
def test_nasty_sets_score_as_one_fit_each(name: str) -> None:
    check([nasty()[name].astype(np.float32)])


def test_known_values() -> None:
    """Equal vectors are one thing; two opposite groups are as polysemantic as it gets; two at right angles half so."""
    one, other = np.array([1.0, 0, 0]), np.array([0, 2.0, 0])
    sets = [
        np.tile(one, (6, 1)),
        np.vstack([np.tile(one, (3, 1)), np.tile(-one, (3, 1))]),
        np.vstack([np.tile(one, (3, 1)), np.tile(other, (3, 1))]),
    ]
    clarity_f, polysemanticity_f, _ = both(sets)
    np.testing.assert_allclose(clarity_f, [1, -1 / 5, 2 / 5], atol=1e-12)
    np.testing.assert_allclose(polysemanticity_f, [0, 2, 1], atol=1e-12)


VALUES = st.one_of(
    st.integers(-2, 2).map(float),
    st.floats(-3, 3, width=16),
    st.floats(-1e3, 1e3, width=32),
)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(2, 14), st.integers(1, 5)), elements=VALUES, fill=st.nothing()),
    st.integers(0, 3),
)
@example(np.zeros((2, 1), np.float32), 0)
@settings(max_examples=100, deadline=None)
def test_whatever_the_vectors_it_is_the_score_of_one_fit(vectors_ne: Array, seed: int) -> None:
    check([vectors_ne], seed)


def test_certain_clusters_are_those_of_scikit_learn() -> None:
    """Not only the score: sizes and centres, also where many vectors are equal."""
    rng = np.random.default_rng(11)
    few_e = rng.normal(size=(5, 6))
    sets = np.stack([few_e[rng.integers(0, 5, 16)] for _ in range(60)])
    centred = sets - sets.mean(axis=1, keepdims=True)
    found = two_means(centred @ centred.transpose(0, 2, 1), 6, draws(16, 4))
    assert found.certain_b.mean() > 0.9
    for row in np.flatnonzero(found.certain_b):
        fitted = KMeans(n_clusters=2, n_init=10, random_state=4).fit(sets[row])
        ours = found.weights_bkn[row] @ sets[row]
        theirs = fitted.cluster_centers_
        order = slice(None) if np.allclose(ours, theirs, atol=1e-9) else slice(None, None, -1)
        np.testing.assert_allclose(ours, theirs[order], atol=1e-9)
        assert found.smaller_b[row] == np.bincount(fitted.labels_, minlength=2).min()


def test_what_hangs_on_rounding_is_left_to_scikit_learn() -> None:
    """Corners of a square: which pair of sides is cut is decided by the last bit."""
    square = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=float)
    assert not two_means((square @ square.T)[None], 2, draws(4, 0)).certain_b[0]


def test_what_is_certain_stays_under_noise_of_the_size_of_rounding() -> None:
    """Small sets of integers, where equal distances abound; noise decides ties now one way, now the other."""
    rng = np.random.default_rng(2)
    n_certain = 0
    for n, width in ((4, 2), (5, 2), (6, 3), (7, 1)):
        sets = rng.integers(-3, 4, (150, n, width)) + rng.normal(size=(1, width))
        centred = sets - sets.mean(axis=1, keepdims=True)
        gram = centred @ centred.transpose(0, 2, 1)
        found = two_means(gram, width, draws(n, 0))
        n_certain += found.certain_b.sum()
        for _ in range(5):
            noise = rng.normal(size=gram.shape) * gram.max() * 1e-15
            again = two_means(gram + noise + noise.transpose(0, 2, 1), width, draws(n, 0))
            for row in np.flatnonzero(found.certain_b):
                assert sorted(found.weights_bkn[row].tolist()) == sorted(again.weights_bkn[row].tolist())
    assert n_certain > 200


# -- in a warehouse --------------------------------------------------------------------------------------------


def filled(warehouse: Any, seed: int = 0) -> tuple[Array, dict[int, Array]]:
    """Features active on none, one, two, some and all images, some of which have no embedding or one not finite."""
    rng = np.random.default_rng(seed)
    acts_nf = rng.exponential(size=(30, 9)).astype(np.float32) * (rng.random((30, 9)) < 0.6)
    acts_nf[:, 0], acts_nf[:, 1], acts_nf[:, 2], acts_nf[:, 3] = 0, 0, 0, 1
    acts_nf[4, 1], acts_nf[[4, 9], 2] = 3, (1, 2)
    embedded = [i for i in range(30) if i not in (5, 6, 7)]
    vectors_ne = rng.normal(0.3, 1, (len(embedded), 5)).astype(np.float32)
    warehouse.import_features("s", acts_nf, list(range(30)))
    warehouse.import_embeddings("e", vectors_ne, embedded)
    return acts_nf, dict(zip(embedded, vectors_ne, strict=True))


def examples_of(acts_nf: Array, of_image: dict[int, Array], feature: int, k: int) -> list[Array]:
    active = [i for i in range(30) if acts_nf[i, feature] > 0]
    strongest = sorted(active, key=lambda i: (-acts_nf[i, feature], i))[:k]
    return [of_image[i] for i in strongest if i in of_image]


@pytest.mark.parametrize("k", [12])
def test_stored_scores_are_those_of_the_strongest_images(warehouse: Any, k: int) -> None:
    acts_nf, of_image = filled(warehouse)
    warehouse.analyze("clarity", "s", embedding="e", n=k)
    warehouse.analyze("polysemanticity", "s", embedding="e", n=k, seed=2)
    rows = warehouse.sql("SELECT feature_id, clarity, polysemanticity FROM features WHERE space = 's'").rows()
    assert sorted(row[0] for row in rows) == list(range(9))
    for feature, clarity, polysemanticity in rows:
        examples = np.array(examples_of(acts_nf, of_image, feature, k))
        if len(examples) < 2:
            assert clarity is None and polysemanticity is None and feature in (0, 1)
            continue
        assert clarity == pytest.approx(naive_clarity(examples), abs=1e-9)
        assert polysemanticity == pytest.approx(naive_polysemanticity(examples, 2), abs=1e-9)
    counts = dict(warehouse.sql("SELECT feature_id, n_images FROM clarity").rows())
    assert counts == {f: len(found) for f in range(9) if (found := examples_of(acts_nf, of_image, f, k))}


def test_the_run_notes_the_mean_over_the_features_that_have_a_score(warehouse: Any) -> None:
    filled(warehouse)
    for analyzer in ("clarity", "polysemanticity"):
        (report,) = warehouse.analyze(analyzer, "s", embedding="e")
        found = [score for (score,) in warehouse.sql(f"SELECT {analyzer} FROM {analyzer}").rows() if score is not None]
        assert report.run.notes["n_scored"] == len(found) == 7
        assert report.run.notes[f"mean_{analyzer}"] == pytest.approx(np.mean(found), abs=1e-12)
        assert report.run.notes["summary"] == f"{analyzer} {np.mean(found):.3f} on average of 7 features"
    assert report.run.seed == 0 and report.run.notes["n_by_scikit_learn"] == 0


def test_a_space_without_any_example_has_no_rows(warehouse: Any) -> None:
    warehouse.import_features("s", np.eye(30, 3, dtype=np.float32)[:2], [0, 1])
    warehouse.import_embeddings("e", np.ones((1, 4), np.float32), [29])
    (report,) = warehouse.analyze("clarity", "s", embedding="e")
    assert report.run.n_rows == 0 and "no feature has a score" in report.run.notes["summary"]


def test_scores_of_several_embeddings_stand_side_by_side(warehouse: Any) -> None:
    filled(warehouse)
    warehouse.import_embeddings("other", np.eye(30, 8, dtype=np.float32) + 0.1, list(range(30)))
    for embedding in ("e", "other"):
        warehouse.analyze("clarity", "s", embedding=embedding)
    assert sorted(warehouse.sql("SELECT DISTINCT embedding FROM clarity").to_series()) == ["e", "other"]
    shown = warehouse.sql("SELECT clarity FROM features WHERE feature_id = 3").item()
    newest = warehouse.sql("SELECT clarity FROM clarity WHERE feature_id = 3 AND embedding = 'other'").item()
    assert shown == newest


def test_what_is_not_possible_says_why(warehouse: Any) -> None:
    warehouse.import_features("s", np.eye(30, 3, dtype=np.float32), list(range(30)))
    with pytest.raises(UsageError, match="compared with texts"):
        warehouse.analyze("clarity", "s")
    with pytest.raises(UsageError, match="no embedding 'e'"):
        warehouse.analyze("polysemanticity", "s", embedding="e")
