"""Search against plain loops over the definition, and everything that a question can get wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_pictures
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from glasshouse.schema.errors import SourceError, UsageError
from glasshouse.warehouse.search.index import VectorIndex
from glasshouse.warehouse.search.search import _best
from glasshouse.warehouse.search.texts import embed_texts


def cosine(a: Any, b: Any) -> float:
    a, b = np.asarray(a, float), np.asarray(b, float)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def vectors_of(warehouse: Any, space: str) -> dict[int, Any]:
    """Concept vectors by the definition: the mean embedding of the 30 strongest images."""
    images, vectors_ne = warehouse.embeddings("clip")
    of_image = dict(zip(images.tolist(), vectors_ne.astype(float), strict=True))
    found = {}
    for feature in range(warehouse.space(space).n_features):
        strongest = warehouse.top_images(space, feature, 30)["image_id"].to_list()
        if strongest:
            found[feature] = (len(strongest), np.mean([of_image[image] for image in strongest], axis=0))
    return found


def test_words_find_features_as_a_loop_over_the_definition_does(searchable: Any) -> None:
    words = ["striped", "red", "a star"]
    templates = ["a photo of {}", "{} on white"]
    found = searchable.search(words, templates=templates, k=5)
    vectors = {(space, f): v for space in ("cls", "patches") for f, v in vectors_of(searchable, space).items()}
    for word in words:
        query_e = np.mean(
            [
                embed_texts(searchable, "clip", [t.replace("{}", word)])[0].astype(float)
                - embed_texts(searchable, "clip", [t.replace("{}", "")])[0]
                for t in templates
            ],
            axis=0,
        )
        scores = {key: cosine(query_e, vector_e) for key, (n, vector_e) in vectors.items() if n >= 10}
        expected = sorted(scores, key=lambda key: -scores[key])[:5]
        hits = found.filter(query=word)
        assert list(zip(hits["space"], hits["feature_id"], strict=True)) == expected
        np.testing.assert_allclose(hits["score"], [scores[key] for key in expected], atol=1e-5)


def test_centring_subtracts_the_mean_image(searchable: Any) -> None:
    mean_e = searchable.embeddings("clip").vectors_ne.astype(float).mean(axis=0)
    query_e = embed_texts(searchable, "clip", ["red"])[0]
    scores = {
        f: cosine(query_e, vector_e - mean_e) for f, (n, vector_e) in vectors_of(searchable, "cls").items() if n >= 10
    }
    found = searchable.search("red", space="cls", centre=True, k=4)
    assert found["feature_id"].to_list() == sorted(scores, key=lambda f: -scores[f])[:4]
    np.testing.assert_allclose(found["score"], sorted(scores.values())[::-1][:4], atol=1e-5)


def test_a_feature_is_most_like_others_by_the_cosine_of_their_vectors(searchable: Any) -> None:
    vectors = vectors_of(searchable, "patches")
    feature = next(f for f, (n, _) in vectors.items() if n >= 10)
    scores = {f: cosine(vectors[feature][1], v) for f, (n, v) in vectors.items() if n >= 10 and f != feature}
    found = searchable.similar_features("patches", feature, 6)
    assert found["feature_id"].to_list() == sorted(scores, key=lambda f: -scores[f])[:6]
    other = searchable.similar_features("patches", feature, 3, within="cls")
    assert set(other["space"]) == {"cls"}


def test_pictures_find_images_and_features(searchable: Any) -> None:
    images, vectors_ne = searchable.embeddings("clip")
    scores = {int(i): cosine(vectors_ne[3], v) for i, v in zip(images, vectors_ne, strict=True) if i != 3}
    found = searchable.search(image=3, images=True, k=5)
    assert found["image_id"].to_list() == sorted(scores, key=lambda i: -scores[i])[:5]
    assert found["path"][0] == searchable.images()["path"][found["image_id"][0]]
    both_e = vectors_ne[[3, 8]].astype(float).mean(axis=0)
    by_loop = {f: cosine(both_e, v) for f, (n, v) in vectors_of(searchable, "cls").items() if n >= 10}
    features = searchable.search(image=[3, 8], space="cls", k=3)
    assert features["feature_id"].to_list() == sorted(by_loop, key=lambda f: -by_loop[f])[:3]


def test_a_picture_from_anywhere_goes_through_the_encoder(searchable: Any, tmp_path: Path) -> None:
    stored = searchable.root / searchable.images()["path"][5]
    copy = tmp_path / "elsewhere.png"
    shutil.copy(stored, copy)
    same = searchable.search(image=copy, images=True, k=3)
    assert same["image_id"].to_list() == searchable.search(image=5, images=True, k=3)["image_id"].to_list()
    (other,) = write_pictures(tmp_path / "other", 1, first=999, size=64)
    found = searchable.search(image=other, images=True, k=200)
    assert found.height == searchable.images().height
    record = searchable.sql("FROM embeddings WHERE name = 'clip'").to_dicts()[0]
    encoder = searchable.load_encoder(record["encoder_spec"])
    from PIL import Image

    vector_e = encoder.forward(encoder.preprocess(Image.open(other).convert("RGB"))[None], []).embedding_be[0].numpy()
    best = found["image_id"][0]
    expected = cosine(vector_e, searchable.embeddings("clip").vectors_ne[best])
    assert found["score"][0] == pytest.approx(expected, abs=1e-5)


def test_what_is_known_of_a_feature_is_beside_it(searchable: Any) -> None:
    found = searchable.search("red", k=3)
    known = searchable.sql("FROM features")
    for hit in found.to_dicts():
        (row,) = known.filter(space=hit["space"], feature_id=hit["feature_id"]).to_dicts()
        assert hit["n_active"] == row["n_active"]


def test_features_of_few_images_are_left_out_unless_asked_for(searchable: Any) -> None:
    few = {f for f, (n, _) in vectors_of(searchable, "cls").items() if n < 10}
    assert few and not few & set(searchable.search("red", space="cls", k=500)["feature_id"])
    assert few <= set(searchable.search("red", space="cls", k=500, min_images=1)["feature_id"])
    with pytest.raises(UsageError, match="the best has 30"):
        searchable.search("red", min_images=31)


def test_the_plain_files_give_what_lancedb_gives_and_are_no_truth(searchable: Any) -> None:
    from glasshouse.plugins.manager import Plugins
    from glasshouse.warehouse.warehouse import Warehouse

    def ask() -> list[Any]:
        opened = Warehouse(searchable.root, Plugins(external=False))
        return [opened.search("red", k=9).rows(), opened.search("red", images=True, k=9).rows()]

    first = ask()
    files = sorted((searchable.root / "cache" / "vectors").glob("*.npy"))
    assert len(files) == 6
    assert ask() == first
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    assert ask() == first
    searchable.analyze("concepts", "cls", n=3, force=True)
    assert ask() != first
    assert len(list((searchable.root / "cache" / "vectors").glob("*.npy"))) == 6


def test_a_new_run_is_seen_by_a_warehouse_that_has_searched(searchable: Any) -> None:
    before = searchable.search("red", space="cls", min_images=1)["score"].to_list()
    searchable.analyze("concepts", "cls", n=2)
    assert searchable.search("red", space="cls", min_images=1)["score"].to_list() != before


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"queries": ""}, "empty"),
        ({}, "one of the three"),
        ({"queries": "red", "image": 3}, "one of the three"),
        ({"image": 3, "templates": ["a {}"]}, "Templates"),
        ({"queries": "red", "templates": ["a photo"]}, "no {}"),
        ({"queries": "red", "space": "clss"}, "Did you mean 'cls'"),
        ({"queries": "red", "embedding": "dinov3"}, "embedding 'dinov3'"),
        ({"queries": "red", "embedding": "dinov2", "space": "cls"}, "--embedding dinov2"),
        ({"queries": "red", "crop": True, "space": "patches"}, "--space patches --embedding clip --crop"),
        ({"queries": "red", "k": 0}, "at least 1"),
        ({"like": ("cls", 99999)}, "no feature 99999"),
        ({"like": ("nope", 1)}, "no space 'nope'"),
        ({"image": 99999}, "no image 99999"),
        ({"image": "not there.png"}, "no file 'not there.png'"),
        ({"queries": "red", "images": True, "embedding": "dinov2"}, "no text tower"),
    ],
)
def test_what_cannot_be_answered_says_why(searchable: Any, request_: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        searchable.search(**request_)


def test_a_file_that_is_no_picture_is_named(searchable: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(SourceError, match=r"notes\.png"):
        searchable.search(image=tmp_path / "notes.png")


def test_without_concept_vectors_the_command_that_makes_them_is_named(demo: Any) -> None:
    with pytest.raises(UsageError, match="Run `glasshouse analyze concepts`"):
        demo.search("red")
    with pytest.raises(UsageError, match="`glasshouse analyze concepts --space cls --embedding clip`"):
        demo.search("red", space="cls")


MATRICES = st.tuples(st.integers(1, 12), st.integers(1, 4)).flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=st.integers(-3, 3).map(float))
)


@given(MATRICES, st.integers(1, 15))
def test_the_best_are_the_best_with_ties_in_the_order_of_ids(vectors_ke: Any, k: int) -> None:
    ids = np.arange(len(vectors_ke), dtype=np.int32) * 3
    index = VectorIndex(ids, vectors_ke, np.ones(len(ids), np.int32))
    queries_qe = np.vstack([np.ones(vectors_ke.shape[1]), np.arange(vectors_ke.shape[1])]).astype(np.float32)
    hits = _best([("b", index, index.cosines(queries_qe)), ("a", index, index.cosines(queries_qe))], 2, k)
    for query, query_e in enumerate(queries_qe):
        lengths = np.linalg.norm(vectors_ke, axis=1) * np.linalg.norm(query_e)
        scores = [float(v @ query_e / n) if n else 0.0 for v, n in zip(vectors_ke, lengths, strict=True)]
        mine = [
            (s, i, x)
            for q, s, i, x in zip(hits.query_h, hits.space_h, hits.id_h, hits.score_h, strict=True)
            if q == query
        ]
        assert len(mine) == min(k, 2 * len(ids))
        np.testing.assert_allclose([x for _, _, x in mine], sorted(scores * 2)[::-1][: len(mine)], atol=1e-6)
        assert mine == sorted(mine, key=lambda hit: (-hit[2], hit[0], hit[1]))


def test_as_many_vectors_as_their_width_are_multiplied_the_right_way_round() -> None:
    vectors_ke = np.arange(16, dtype=np.float32).reshape(4, 4) ** 2 + np.eye(4, dtype=np.float32)
    index = VectorIndex(np.arange(4, dtype=np.int32), vectors_ke, np.ones(4, np.int32))
    expected = [[cosine(q, v) for v in vectors_ke] for q in vectors_ke[::-1]]
    np.testing.assert_allclose(index.cosines(np.ascontiguousarray(vectors_ke[::-1])), expected, atol=1e-6)
