"""Monosemanticity through the real stores against double loops over pairs; which embedding may score a space."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import pytest
from analyzers import naive

from glasshouse.plugins.analyzers import monosemantic_bootstrap as bootstrap
from glasshouse.plugins.analyzers import monosemantic_scores as formulas
from glasshouse.plugins.analyzers.directions import Directions, directions_of, random_pair_cosines
from glasshouse.plugins.analyzers.feature_rows import FeatureRows, feature_rows
from glasshouse.plugins.view import AnalysisView
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.extraction.run import embedding_schema
from glasshouse.warehouse.vectors import Embeddings

Array = np.ndarray[Any, Any]
N, WIDTH = 30, 7
HALF = np.arange(N) % 2 == 0


def nasty_values() -> Array:
    """Activations [30, features]: random ones of several densities first, then one trap per column."""
    rng = np.random.default_rng(1)
    random_nf = rng.exponential(size=(N, 12)) * (rng.random((N, 12)) < np.linspace(0.2, 1, 12))
    images = np.arange(N, dtype=float)
    traps = {
        "silent": np.zeros(N),
        "one image": np.where(images == 7, 3.0, 0),
        "two images": np.where(images < 2, images + 1, 0),
        "two equal images": np.where((images == 3) | (images == 4), 2.5, 0),
        "two images, one tiny": np.select([images == 1, images == 2], [1.0, 1e-9]),
        "all images": images + 5,
        "all images, equal": np.full(N, 0.3),
        "half, equal": np.where(HALF, 1e30, 0),
        "ties around the last of the top": np.where(images < 25, np.floor(images / 7) + 1, 0),
        "only the first counts": np.where(images < 12, np.where(images == 0, 9.0, 1.0), 0),
        "one giant": np.where(HALF, np.where(images == 4, 1e9, images + 1), 0),
        "all images, one giant": np.where(images == 4, 1e12, images + 1),
        "two giants among dust": np.where(images < 3, 1e8, 1e-3) * (images > 0),
        "smallest numbers": np.where(HALF, 1e-44 * (images + 1), 0),
        "on images without a vector only": np.where((images > 19) & (images < 24), images, 0),
    }
    return np.column_stack([random_nf, *traps.values()]).astype(np.float32)


def nasty_vectors() -> Array:
    """Embeddings [30, 7]: duplicates, opposites; images 20 and 21 NaN (not given), 22 zero, 23 with an infinity."""
    vectors_ne = np.random.default_rng(2).normal(0.4, 1, (N, WIDTH)).astype(np.float32)
    vectors_ne[5:8], vectors_ne[9], vectors_ne[10] = vectors_ne[5], -vectors_ne[8], vectors_ne[8] * 1e-20
    vectors_ne[20:22], vectors_ne[22], vectors_ne[23, 3] = np.nan, 0, np.inf
    return vectors_ne


def give(warehouse: Any, values_nf: Array, vectors_ne: Array) -> None:
    """Make the space `s` and the embedding `e`; images whose vector is NaN throughout get none."""
    images = list(range(len(values_nf)))
    warehouse.import_features("s", values_nf, images, n_features=values_nf.shape[1])
    sound = np.isfinite(vectors_ne).all(axis=1)
    warehouse.import_embeddings("e", vectors_ne[sound], [i for i in images if sound[i]])
    # An import refuses vectors with an infinity; an encoder may give them all the same.
    broken = [i for i in images if not sound[i] and not np.isnan(vectors_ne[i]).all()]
    if broken:
        schema = embedding_schema(vectors_ne.shape[1])
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ne[broken].reshape(-1)), vectors_ne.shape[1])
        ids = pa.array(broken, schema.field("image_id").type)
        warehouse.vectors.append("e", schema, [pa.RecordBatch.from_arrays([ids, vectors], schema=schema)])


def scored(warehouse: Any, **parameters: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    (report,) = warehouse.analyze("monosemanticity", "s", **parameters)
    rows = warehouse.sql("FROM monosemanticity WHERE run_id = $run ORDER BY feature_id", {"run": report.run.run_id})
    return rows.to_dicts(), report.run.notes


def rows_of(values_nf: Array) -> FeatureRows:
    """Activations in the order of a space's file."""
    found = [[i for i in np.lexsort((np.arange(len(column)), -column)) if column[i] > 0] for column in values_nf.T]
    bounds_f = np.cumsum([0, *(len(images) for images in found)])
    image_r = np.array([i for images in found for i in images], dtype=np.int32)
    value_r = np.array([values_nf[i, f] for f, images in enumerate(found) for i in images], dtype=np.float32)
    return FeatureRows(0, bounds_f, image_r, value_r)


def directions(vectors_ne: Array) -> Directions:
    ids = np.arange(len(vectors_ne), dtype=np.int32)
    return directions_of(Embeddings(ids, vectors_ne.astype(np.float32)), ids)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("k", [4, 20])
def test_top_equals_the_double_loop(warehouse: Any, k: int, centre: bool) -> None:
    values_nf, vectors_ne = nasty_values(), nasty_vectors()
    give(warehouse, values_nf, vectors_ne)
    rows, _ = scored(warehouse, k=k, centre=centre, min_images=3)
    units = naive.usable_rows(vectors_ne, centre=centre)
    assert len(units) == N - 4
    expected = [naive.ms_top(column, units, k, 3) for column in values_nf.T]
    assert sum(score is None for score in expected) in range(6, 11)  # the traps do what they are there for
    assert [row["ms"] for row in rows] == [None if s is None else pytest.approx(s, abs=1e-9) for s in expected]
    assert [row["n_images"] for row in rows] == [min(k, sum(column[i] > 0 for i in units)) for column in values_nf.T]
    assert all(row["ms_low"] is None and row["variant"] == "top" and row["embedding"] == "e" for row in rows)


@pytest.mark.parametrize("centre", [False, True])
def test_all_equals_the_double_loop(warehouse: Any, centre: bool) -> None:
    values_nf, vectors_ne = nasty_values(), nasty_vectors()
    give(warehouse, values_nf, vectors_ne)
    rows, _ = scored(warehouse, variant="all", centre=centre, min_images=29)
    units = naive.usable_rows(vectors_ne, centre=centre)
    expected = [naive.ms_all(column, units) for column in values_nf.T]
    assert sum(score is None for score in expected) == 3
    assert [row["ms"] for row in rows] == [None if s is None else pytest.approx(s, abs=1e-9) for s in expected]
    assert [row["n_images"] for row in rows] == [sum(column[i] > 0 for i in units) for column in values_nf.T]


def test_concentration_counts_every_active_image(warehouse: Any) -> None:
    values_nf = nasty_values()
    give(warehouse, values_nf, nasty_vectors())
    rows, _ = scored(warehouse)
    for row, column in zip(rows, values_nf.T.astype(float), strict=True):
        expected = None if not column.any() else (column**2).sum() / column.sum() ** 2
        assert row["concentration"] == (None if expected is None else pytest.approx(expected, rel=1e-9))


def test_fewer_than_ten_images_make_no_score_unless_asked_for(warehouse: Any) -> None:
    values_nf = np.zeros((N, 2), dtype=np.float32)
    values_nf[:9, 0], values_nf[:10, 1] = 1, 1
    give(warehouse, values_nf, np.random.default_rng(0).normal(size=(N, 3)))
    assert [row["ms"] is None for row in scored(warehouse)[0]] == [True, False]
    assert [row["ms_class"] is None for row in scored(warehouse, bootstrap=20)[0]] == [True, False]
    assert [row["ms_low"] is None for row in scored(warehouse, bootstrap=20)[0]] == [True, False]
    assert [row["ms"] is None for row in scored(warehouse, min_images=9)[0]] == [False, False]


@pytest.mark.parametrize("seed", range(5))
def test_one_overwhelming_image_does_not_cancel_the_rest(seed: int) -> None:
    """The difference of squares alone would be wrong in the second digit here."""
    rng = np.random.default_rng(seed)
    values_nf = (rng.uniform(1, 2, (40, 6)) * (rng.random((40, 6)) < 0.7)).astype(np.float32)
    values_nf[rng.integers(40, size=6), np.arange(6)] = 10.0 ** np.array([3, 5, 7, 9, 11, 14])
    vectors_ne = rng.normal(size=(40, 300)).astype(np.float32)
    rows = rows_of(values_nf)
    score_f = formulas.scores(rows, rows.value_r.astype(float), directions(vectors_ne))
    units = list(naive.usable_rows(vectors_ne, centre=False).values())
    for column, score in zip(values_nf.T, score_f, strict=True):
        assert score == pytest.approx(naive.pairwise_score([float(v) for v in column], units), abs=1e-9)


def test_the_adding_form_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    weight_r, found = rng.exponential(size=50), directions(rng.normal(size=(50, 5)))
    images = np.arange(50, dtype=np.int32)
    whole = formulas.adding_score(images, weight_r, found)
    monkeypatch.setattr(formulas, "ROWS_AT_ONCE", 7)
    assert formulas.adding_score(images, weight_r, found) == pytest.approx(whole, abs=1e-13)
    assert np.isnan(formulas.adding_score(images[:1], weight_r[:1], found))


def test_columns_in_parts_and_blocks_of_features_change_nothing(
    warehouse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    values_nf = nasty_values()
    give(warehouse, values_nf, nasty_vectors())
    view = AnalysisView(warehouse, "s")
    blocks = list(feature_rows(view, max_rows=40))
    assert len(blocks) > 5 and blocks[-1].first + len(blocks[-1].counts_f) == values_nf.shape[1]
    expected = rows_of(values_nf)
    assert np.concatenate([block.counts_f for block in blocks]).tolist() == expected.counts_f.tolist()
    assert np.concatenate([block.image_r for block in blocks]).tolist() == expected.image_r.tolist()
    assert np.concatenate([block.value_r for block in blocks]).tolist() == expected.value_r.tolist()

    whole, _ = scored(warehouse, variant="all")
    monkeypatch.setattr(formulas, "COLUMNS_AT_ONCE", 2)
    (report,) = warehouse.analyze("monosemanticity", "s", variant="all", force=True)
    parts = warehouse.result_rows(report.run).sort("feature_id")["ms"].to_list()
    assert parts == [None if row["ms"] is None else pytest.approx(row["ms"], abs=1e-12) for row in whole]


def test_intervals_equal_a_loop_over_resamples() -> None:
    values_nf, vectors_ne = nasty_values()[:20], np.random.default_rng(5).normal(size=(20, WIDTH))
    top = rows_of(values_nf).strongest(15)
    weight_r, found = formulas.min_max_weights(top), directions(vectors_ne)
    low_f, high_f = bootstrap.intervals(top, weight_r, found, 40, seed=3)
    units = list(naive.usable_rows(vectors_ne.astype(np.float32), centre=False).values())
    for feature, n in enumerate(top.counts_f.tolist()):
        own = slice(*top.bounds_f[feature : feature + 2].tolist())
        if n < 2:
            assert np.isnan(low_f[feature]) and np.isnan(high_f[feature])
            continue
        drawn_sk = np.random.default_rng([3, n]).integers(n, size=(40, n))
        resampled = [
            resampled_score(drawn_k, weight_r[own], [units[i] for i in top.image_r[own]]) for drawn_k in drawn_sk
        ]
        defined = [score for score in resampled if score is not None]
        low, high = np.percentile(defined, [2.5, 97.5]) if defined else (np.nan, np.nan)
        assert low_f[feature] == pytest.approx(low, abs=1e-9, nan_ok=True)
        assert high_f[feature] == pytest.approx(high, abs=1e-9, nan_ok=True)


def resampled_score(drawn_k: Array, weight_k: Array, units: list[list[float]]) -> float | None:
    """Over pairs of drawn images, those of an image with itself left out."""
    above = below = 0.0
    for a in range(len(drawn_k)):
        for b in range(a + 1, len(drawn_k)):
            i, j = int(drawn_k[a]), int(drawn_k[b])
            if i != j:
                above += weight_k[i] * weight_k[j] * float(np.dot(units[i], units[j]))
                below += weight_k[i] * weight_k[j]
    return above / below if below > 0 else None


def test_intervals_hold_the_score_and_narrow_with_agreement(warehouse: Any) -> None:
    rng = np.random.default_rng(0)
    direction_e, values_nf = rng.normal(size=16), np.zeros((N, 2), dtype=np.float32)
    values_nf[:10, 0], values_nf[10:20, 1] = rng.uniform(1, 2, 10), rng.uniform(1, 2, 10)
    vectors_ne = rng.normal(size=(N, 16))
    vectors_ne[:10] = direction_e + 0.1 * vectors_ne[:10]
    give(warehouse, values_nf, vectors_ne)
    clean, mixed = scored(warehouse, bootstrap=300, seed=4)[0]
    assert clean["ms_low"] < clean["ms"] < clean["ms_high"] < 1
    assert mixed["ms_low"] < mixed["ms"] < mixed["ms_high"]
    assert clean["ms_high"] - clean["ms_low"] < (mixed["ms_high"] - mixed["ms_low"]) / 3
    assert (clean["ms_class"], mixed["ms_class"]) == ("monosemantic", "polysemantic")


def test_thresholds_come_from_random_pairs_of_the_data(warehouse: Any) -> None:
    values_nf, vectors_ne = nasty_values(), nasty_vectors()
    give(warehouse, values_nf, vectors_ne)
    _, notes = scored(warehouse, seed=11)
    units = np.array(list(naive.usable_rows(vectors_ne, centre=False).values()))
    cosine_nn = units @ units.T
    pairs = cosine_nn[np.triu_indices(len(units), 1)]
    assert notes["mu"] == pytest.approx(pairs.mean(), abs=5 * pairs.std() / np.sqrt(50_000))
    assert notes["sigma"] == pytest.approx(pairs.std(), rel=0.02)
    assert notes["moderate_from"] == pytest.approx(notes["mu"] + notes["sigma"])
    assert notes["monosemantic_from"] == pytest.approx(notes["mu"] + 2 * notes["sigma"])
    assert (notes["n_pairs"], notes["seed"], notes["n_images"], notes["n_left_out"]) == (50_000, 11, N - 4, 4)
    assert scored(warehouse, seed=12)[1]["mu"] != notes["mu"]
    centred = scored(warehouse, centre=True)[1]
    assert abs(centred["mu"]) < 0.1 < notes["mu"]


def test_random_pairs_are_of_two_images_and_each_as_likely() -> None:
    # Unit vectors along axes: the cosine is 0 unless an image met itself.
    assert not random_pair_cosines(directions(np.eye(3)), 3000, seed=0).any()
    two = directions(np.array([[1.0, 0], [1, 1]]))
    assert random_pair_cosines(two, 100, seed=0) == pytest.approx(np.sqrt(0.5))
    # Three images, of which one pair is alike: a third of the draws.
    three = directions(np.array([[1.0, 0], [1, 0], [0, 1]]))
    assert random_pair_cosines(three, 30_000, seed=0).mean() == pytest.approx(1 / 3, abs=0.015)


def test_classes_begin_at_their_thresholds() -> None:
    found = formulas.classes(np.array([-1, 0.299, 0.3, 0.499, 0.5, 1, np.nan]), (0.3, 0.5))
    assert found == ["polysemantic"] * 2 + ["moderate"] * 2 + ["monosemantic"] * 2 + [None]


def test_images_that_are_all_alike_have_no_direction_once_centred(warehouse: Any) -> None:
    give(warehouse, nasty_values(), np.full((N, 3), 0.1))
    rows, notes = scored(warehouse)
    assert notes["mu"] == pytest.approx(1)
    assert {round(row["ms"], 12) for row in rows if row["ms"] is not None} == {1}
    assert {row["ms_class"] for row in rows} == {None} and "nearly equal" in notes["no_classes_because"]
    with pytest.raises(UsageError, match=r"usable vector for 0 of the 30 images of 's'"):
        scored(warehouse, centre=True)


@pytest.mark.parametrize("centre", [False, True])
def test_rounding_makes_no_classes(warehouse: Any, centre: bool) -> None:
    """Vectors that differ in their last digit; the control differs in its second."""
    noise_ne = np.random.default_rng(0).normal(size=(N, 5))
    give(warehouse, nasty_values(), 10 + 1e-6 * noise_ne)
    rows, notes = scored(warehouse, centre=centre)
    assert {row["ms_class"] for row in rows} == {None} and any(row["ms"] is not None for row in rows)
    assert "nearly equal" in notes["no_classes_because"] and "moderate_from" not in notes
    warehouse.import_embeddings("control", 10 + noise_ne, list(range(N)))
    rows, notes = scored(warehouse, centre=centre, embedding="control")
    assert {row["ms_class"] for row in rows} > {None} and "no_classes_because" not in notes


def test_a_handful_of_images_makes_no_classes_and_no_tiers(warehouse: Any, tmp_path: Path) -> None:
    vectors_ne = np.random.default_rng(0).normal(size=(N, 5))
    vectors_ne[9:] = np.nan
    give(warehouse, nasty_values(), vectors_ne)
    rows, notes = scored(warehouse, min_images=2)
    assert {row["ms_class"] for row in rows} == {None} and any(row["ms"] is not None for row in rows)
    assert notes["no_classes_because"] == "9 images have a usable vector, thresholds need 10"
    lines = [f"{path},beauty,{i % 7}" for i, path in enumerate(warehouse.images()["path"])]
    (tmp_path / "ratings.csv").write_text("image,dimension,value\n" + "\n".join(lines))
    warehouse.add(ratings=[tmp_path / "ratings.csv"])
    with pytest.raises(UsageError, match=r"no thresholds for tiers: 9 images have a usable vector.*--embedding NAME"):
        warehouse.analyze("tiers", "s")
    with pytest.raises(UsageError, match=r"n[_-]pairs"):
        scored(warehouse, n_pairs=99)


def test_two_images_are_enough_for_scores_and_one_is_not(warehouse: Any) -> None:
    vectors_ne = np.full((N, 3), np.nan)
    vectors_ne[0], vectors_ne[1] = [1, 0, 0], [0, 1, 0]
    give(warehouse, nasty_values(), vectors_ne)
    _, notes = scored(warehouse, min_images=2)
    assert (notes["mu"], notes["sigma"], notes["n_left_out"]) == (0, 0, 28)
    warehouse.import_embeddings("lonely", np.ones((1, 3)), [4])
    with pytest.raises(UsageError, match="usable vector for 1 of the 30 images"):
        scored(warehouse, embedding="lonely")


def test_variants_and_embeddings_stand_side_by_side(warehouse: Any) -> None:
    give(warehouse, nasty_values(), nasty_vectors())
    warehouse.import_embeddings("f", np.random.default_rng(3).normal(size=(N, 4)), list(range(N)))
    for parameters in ({}, {"variant": "all"}, {"embedding": "e"}, {"k": 10}):
        scored(warehouse, **parameters)
    counted = warehouse.sql("SELECT variant, embedding, count(*) AS n FROM monosemanticity GROUP BY ALL ORDER BY ALL")
    n_features = nasty_values().shape[1]
    # `f` has more images than `e`, so it is the choice where none is named.
    assert counted.rows() == [("all", "f", n_features), ("top", "e", n_features), ("top", "f", n_features)]
    assert warehouse.sql("SELECT count(ms) AS n FROM features")["n"].item() > 5


def test_the_embedding_of_the_spaces_own_encoder_is_refused(warehouse: Any) -> None:
    warehouse.extract("toy:0", [("x", "blocks.0.resid_post", "cls", "neurons")], "own")
    with pytest.raises(UsageError, match=r"no image embedding by another encoder than that of 'x' \(toy:0\)"):
        warehouse.analyze("monosemanticity", "x")
    with pytest.raises(UsageError, match=r"'own' comes from the encoder of the space 'x' itself .* --circular"):
        warehouse.analyze("monosemanticity", "x", embedding="own")
    (insisted,) = warehouse.analyze("monosemanticity", "x", circular=True)
    assert insisted.run.parameters["embedding"] == "own" and insisted.run.parameters["circular"]

    warehouse.extract("toy:1", embedding="other")
    with pytest.raises(UsageError, match="Use other, or insist with --circular"):
        warehouse.analyze("monosemanticity", "x", embedding="own")
    (free,) = warehouse.analyze("monosemanticity", "x")
    assert free.run.parameters["embedding"] == "other" and free.run.notes["chosen_from"] == ["other"]
    # Insisting where nothing is circular is the same request, so nothing is computed again.
    (again,) = warehouse.analyze("monosemanticity", "x", embedding="other", circular=True)
    assert not again.is_new and again.run.run_id == free.run.run_id


def test_of_several_embeddings_a_known_encoder_with_most_images_comes_first(warehouse: Any) -> None:
    warehouse.extract("toy:0", [("x", "blocks.0.resid_post", "cls", "neurons")])
    warehouse.import_embeddings("a-imported", np.random.default_rng(0).normal(size=(N, 4)), list(range(N)))
    warehouse.extract("toy:2", embedding="c-computed")
    warehouse.extract("toy:1", embedding="b-computed")
    (report,) = warehouse.analyze("monosemanticity", "x")
    assert report.run.notes["chosen_from"] == ["b-computed", "c-computed", "a-imported"]
    assert report.run.parameters["embedding"] == "b-computed"


def test_an_embedding_of_fewer_images_does_not_win_by_its_library() -> None:
    from glasshouse.plugins.analyzers.embedding_choice import candidates

    class Space:
        """Records as the catalogue has them; the choice reads nothing else."""

        record: ClassVar = {"encoder_spec": "open_clip:a", "encoder_fingerprint": "1"}

        def embedding_records(self) -> list[dict[str, Any]]:
            specs = {"few": ("hf:b", 40), "most": ("open_clip:c", 2000), "other": ("hf:d", 2000)}
            return [
                {"name": name, "encoder_spec": spec, "encoder_fingerprint": spec, "n_images": n}
                for name, (spec, n) in specs.items()
            ]

    assert candidates(cast(AnalysisView, Space()), circular=False) == ["other", "most", "few"]


def test_an_imported_space_takes_any_embedding(warehouse: Any) -> None:
    warehouse.import_features("s", nasty_values(), list(range(N)))
    with pytest.raises(UsageError, match=r"There is no image embedding\. Make one, e\.g\. with `glasshouse embed"):
        warehouse.analyze("monosemanticity", "s")
    warehouse.extract("toy:0", embedding="own")
    assert scored(warehouse)[0][0]["embedding"] == "own"
    with pytest.raises(UsageError, match=r"encoder of the space 's' \(none: it was imported\)\. Leave --circular out"):
        warehouse.analyze("monosemanticity", "s", circular=True)


def test_mistakes_are_named(warehouse: Any) -> None:
    give(warehouse, nasty_values(), nasty_vectors())
    with pytest.raises(UsageError, match=r"no embedding 'ee'.*Did you mean 'e'|no embedding 'ee'.*Known: e"):
        scored(warehouse, embedding="ee")
    with pytest.raises(UsageError, match="--bootstrap resamples the top images"):
        scored(warehouse, variant="all", bootstrap=10)
    with pytest.raises(UsageError, match="--k"):
        scored(warehouse, k=1)
