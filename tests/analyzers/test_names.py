"""Names against loops over patches, families and words that know nothing of products."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.patch_space import make_patch_space

from glasshouse.plugins.analyzers import name_words
from glasshouse.plugins.analyzers.name_parents import Parents, differences, words_apart
from glasshouse.plugins.analyzers.name_templates import TEMPLATE_SETS
from glasshouse.plugins.analyzers.name_words import Words, embedded
from glasshouse.plugins.analyzers.names import headline
from glasshouse.schema.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

Array = np.ndarray[Any, Any]
N, T, F = 40, 6, 9
WORDS = ["red", "striped", "star", "black", "watermark", "small", "ring", "house"]


def values() -> Array:
    """Activations [40, 6, 9].

    0 and 1 lie where 2 does, 1 nearly always; 3 lies where 1 does; 4 is never active, 5 on one patch, 6 everywhere
    alike, 7 is 8 at another scale.
    """
    rng = np.random.default_rng(2)
    values_ntf = rng.exponential(size=(N, T, F)) * (rng.random((N, T, F)) < 0.3)
    values_ntf[:, :, 0] *= values_ntf[:, :, 2] > 0
    values_ntf[:, :, 1] *= (values_ntf[:, :, 2] > 0) | (rng.random((N, T)) < 0.1)
    values_ntf[:, :, 3] = values_ntf[:, :, 1] * (rng.random((N, T)) < 0.7)
    values_ntf[:, :, 4:7] = 0
    values_ntf[7, 2, 5] = 3
    values_ntf[:, :, 6] = 0.5
    values_ntf[:, :, 7] = values_ntf[:, :, 8] * 2
    return values_ntf.astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse of 40 rendered images with CLIP embeddings and the space `s`."""
    from glasshouse.plugins.manager import Plugins
    from glasshouse.plugins.starter.world.write import write_world
    from glasshouse.warehouse.warehouse import Warehouse

    folder = tmp_path_factory.mktemp("names")
    write_world(folder / "world", N, 0)
    built = Warehouse.create(folder / "made.glasshouse", Plugins(external=False))
    built.add([folder / "world" / "images"])
    built.extract("starter:clip", embedding="clip")
    make_patch_space(built, "s", values(), (2, 3))
    built.analyze("concepts", "s", n=5)
    built.analyze("cooccurrence", "s", min_support=2)
    # Every sentence has its vector from here on, so that no test needs the model.
    (folder / "words.txt").write_text("\n".join([*WORDS, "thing"]))
    built.analyze("names", "s", vocabulary=str(folder / "words.txt"))
    built.forget([run for run in built.runs() if run.analyzer == "names"])
    built.close()
    return folder / "made.glasshouse"


@pytest.fixture
def warehouse(made: Path, tmp_path: Path) -> Iterator[Any]:
    from glasshouse.plugins.manager import Plugins
    from glasshouse.warehouse.warehouse import Warehouse

    shutil.copytree(made, tmp_path / "copy.glasshouse")
    opened = Warehouse(tmp_path / "copy.glasshouse", Plugins(external=False))
    yield opened
    opened.close()


@pytest.fixture
def words(tmp_path: Path) -> str:
    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    return str(tmp_path / "words.txt")


def unit(vector: Array) -> Array:
    length = math.sqrt(math.fsum(float(v) ** 2 for v in vector))
    return np.asarray(vector, dtype=np.float64) / length if length else np.zeros(len(vector))


def naive_d_hat(values_pf: Array, i: int, j: int) -> float:
    active = [p for p in range(len(values_pf)) if values_pf[p, i] > 0.001]
    both = [p for p in active if values_pf[p, j] > 0.001]
    if i != j and len(both) < 2:
        return 0.0
    return math.fsum(values_pf[p, i] for p in both) / math.fsum(values_pf[p, i] for p in active) if active else 0.0


def naive_codes(values_pf: Array, threshold: float, n_patches: int) -> list[Array]:
    """Code vectors of the published method, each of length 1.33."""
    codes = []
    for i in range(F):
        code_f = np.zeros(F)
        active = [p for p in range(len(values_pf)) if values_pf[p, i] > 0]
        top = sorted(active, key=lambda p: (-values_pf[p, i], p))[:n_patches]
        for j in range(F):
            d_hat = 1.0 if i == j else naive_d_hat(values_pf, i, j)
            if top and (i == j or d_hat > threshold):
                code_f[j] = d_hat * math.fsum(values_pf[p, j] for p in top) / len(top)
        codes.append(1.33 * unit(code_f))
    return codes


def naive_vectors(warehouse: Any) -> dict[int, Array]:
    """Unit concept vectors without the mean image."""
    mean_e = np.mean([unit(row) for row in warehouse.embeddings("clip").vectors_ne], axis=0)
    run = next(run for run in warehouse.runs() if run.analyzer == "concepts")
    ids, vectors = warehouse.result_vectors(run)
    return {int(f): unit(vector) - mean_e for f, vector in zip(ids, vectors, strict=True)}


def naive_texts(warehouse: Any, sets: tuple[str, ...]) -> dict[tuple[str, str], Array]:
    from glasshouse.warehouse.search.texts import embed_texts

    return {
        (name, word): unit(
            np.mean([unit(embed_texts(warehouse, "clip", [t.replace("{}", word)])[0]) for t in TEMPLATE_SETS[name]], 0)
        )
        for name in sets
        for word in WORDS
    }


def best(vector: Array, texts: dict[tuple[str, str], Array], without: str | None = None) -> tuple[str, str, float]:
    cosine = {key: float(unit(vector) @ text) for key, text in texts.items() if key[1] != without}
    name, word = max(cosine, key=lambda key: cosine[key])
    return name, word, cosine[name, word]


def rows_of(warehouse: Any, words: str, **parameters: Any) -> dict[int, dict[str, Any]]:
    report = warehouse.analyze("names", "s", vocabulary=words, **parameters)[-1]
    return {row["feature_id"]: row for row in warehouse.result_rows(report.run).to_dicts()}


@pytest.mark.parametrize("sets", [("noun", "adjective", "verb"), ("verb",)])
def test_plain_names_are_the_words_nearest_to_a_features_own_vector(
    warehouse: Any, words: str, sets: tuple[str, ...]
) -> None:
    vectors, texts = naive_vectors(warehouse), naive_texts(warehouse, sets)
    rows = rows_of(warehouse, words, templates=sets)
    assert set(rows) == set(vectors) == set(range(F)) - {4}
    for feature, row in rows.items():
        name, word, score = best(vectors[feature], texts)
        assert (row["template_set"], row["name"]) == (name, word)
        assert row["score"] == pytest.approx(score, abs=1e-6) and row["n_family"] == 1
        others = sorted((-max(unit(vectors[feature]) @ texts[s, w] for s in sets), w) for w in WORDS if w != word)
        assert row["next_words"] == [w for _, w in others[:4]]
        assert row["margin"] == pytest.approx(score + others[0][0], abs=1e-6)


@pytest.mark.parametrize(("threshold", "n_patches"), [(0.75, 30), (0.5, 3)])
def test_published_names_are_those_of_the_decoded_family(
    warehouse: Any, words: str, threshold: float, n_patches: int
) -> None:
    vectors, texts = naive_vectors(warehouse), naive_texts(warehouse, tuple(TEMPLATE_SETS))
    codes = naive_codes(values().reshape(-1, F), threshold, n_patches)
    rows = rows_of(warehouse, words, method="published", threshold=threshold, n_patches=n_patches)
    assert set(rows) == set(vectors)
    differs = 0
    for feature, row in rows.items():
        decoded_e = sum(codes[feature][j] * vectors[j] for j in vectors)
        name, word, score = best(np.asarray(decoded_e), texts)
        assert (row["template_set"], row["name"]) == (name, word)
        assert row["score"] == pytest.approx(score, abs=1e-6)
        assert row["n_family"] == np.count_nonzero(codes[feature])
        differs += score != pytest.approx(best(vectors[feature], texts)[2], abs=1e-6)
    assert differs >= 3, "families change the vectors of the children"


def test_parents_are_those_of_the_published_rule_and_differences_set_children_apart(warehouse: Any, words: str) -> None:
    values_pf, vectors = values().reshape(-1, F), naive_vectors(warehouse)
    texts = naive_texts(warehouse, tuple(TEMPLATE_SETS))
    rows = rows_of(warehouse, words)
    parents = {}
    for i in range(F):
        d_hat = {j: naive_d_hat(values_pf, i, j) for j in range(F) if j != i}
        above = [j for j, d in d_hat.items() if d > 0.75 and naive_d_hat(values_pf, j, i) < d]
        if above:
            parents[i] = min(above, key=lambda j: (-d_hat[j], j))
    assert parents == {f: row["parent_feature_id"] for f, row in rows.items() if row["parent_feature_id"] is not None}
    assert len(parents) >= 3 and 5 not in parents, "a single patch is no support"
    for child, parent in parents.items():
        own, theirs = rows[child]["name"], rows[parent]["name"]
        siblings = [c for c in parents if parents[c] == parent and c != child]
        if own != theirs and all(rows[s]["name"] != own for s in siblings):
            expected = own
        else:
            common_e = unit(np.sum([unit(vectors[s]) for s in siblings or [parent]], axis=0))
            left_e = unit(vectors[child]) - (unit(vectors[child]) @ common_e) * common_e
            expected = best(left_e, texts, theirs)[1]
        assert rows[child]["difference"] == expected
        assert rows[child]["distinguishing_name"] == f"{theirs}: {expected}"
        assert rows[child]["parent_rule"] == "cooccurrence"
    roots = [row for f, row in rows.items() if f not in parents]
    assert roots and all(r["distinguishing_name"] == r["name"] and r["difference"] is None for r in roots)


def test_what_siblings_share_is_no_difference() -> None:
    """Three children along x; a tenth of their vectors lies along an axis of their own. The fifth has no vector."""
    own_fe = np.array([[1, 0, 0, 0], [1, 0.1, 0, 0], [1, 0, 0.1, 0], [1, 0, 0, 0.1], [0, 0, 0, 0.0], [1, 0, 0, 0]])
    own_fe /= np.maximum(np.linalg.norm(own_fe, axis=1, keepdims=True), 1e-9)
    found = differences(own_fe, Parents({1: 0, 2: 0, 3: 0, 4: 0, 0: 5}, {}))
    assert set(found) == {1, 2, 3}, "the only child of 5 is the same as 5"
    assert [int(np.argmax(np.abs(found[child]))) for child in (1, 2, 3)] == [1, 2, 3]
    assert found[1] @ own_fe[[2, 3]].sum(axis=0) == pytest.approx(0, abs=1e-12)


def test_words_apart() -> None:
    assert words_apart("Red striped star", "striped shape") == "Red star"
    assert words_apart("striped", "Striped") is None
    assert words_apart("star", "") == "star"


def test_a_hierarchy_says_who_the_parent_is(warehouse: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import polars as pl

    from glasshouse.plugins.analyzers import name_parents

    edges = pl.DataFrame(
        {
            "feature_id": [0, 0, 1, 2],
            "parent_feature_id": [6, 8, 8, 8],
            "rule": ["published", "tested", "published", "tested"],
            "is_tree_edge": [True, True, True, False],
        },
        schema_overrides={"feature_id": pl.Int32, "parent_feature_id": pl.Int32},
    )
    monkeypatch.setattr(name_parents, "result_or_none", lambda view, name: edges if name == "hierarchy" else None)
    rows = rows_of(warehouse, words)
    found = {f: (row["parent_feature_id"], row["parent_rule"]) for f, row in rows.items() if row["parent_rule"]}
    assert found == {0: (8, "tested"), 1: (8, "published")}


def test_blocks_change_nothing(warehouse: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows_of(warehouse, words)
    monkeypatch.setattr(name_words, "MAX_COSINES", 1)
    warehouse.analyze("names", "s", vocabulary=words, force=True)
    for feature, row in rows_of(warehouse, words).items():
        same = {name: value for name, value in row.items() if name not in ("score", "margin")}
        assert same.items() <= whole[feature].items()
        assert row["score"] == pytest.approx(whole[feature]["score"], abs=1e-12)


def test_how_many_got_a_name_is_said_and_why_none_did() -> None:
    assert headline(8, 9, "plain", "concepts") == "8 of 9 active features named"
    assert headline(0, 0, "published", "decoder").endswith("no feature is active on any image")
    assert headline(0, 1, "labels", "concepts") == "0 of 1 active feature named: none of them has a label"
    assert "no other than the mean image" in headline(0, 9, "published", "concepts")


def test_equal_words_are_the_first_and_one_word_is_enough() -> None:
    axes_we = np.eye(3)[[0, 0, 1]]
    both = Words(["a", "b", "c"], ["x", "y"], np.stack([axes_we, axes_we]))
    (fits,) = both.fits(np.array([[1.0, 0, 0]]), 5)
    assert [(fit.word, fit.template_set) for fit in fits] == [("a", "x"), ("b", "x"), ("c", "x")]
    (fits,) = both.fits(np.array([[1.0, 0, 0]]), 1, ["a"])
    assert [fit.word for fit in fits] == ["b"]
    alone = embedded(lambda texts: np.ones((len(texts), 2)), ["a"], ["x"], {"x": ("{}",)})
    assert list(alone.fits(np.ones((1, 2)) / math.sqrt(2), 3, ["a"])) == [[]]


def test_what_a_vocabulary_holds_is_made_plain(warehouse: Any, tmp_path: Path) -> None:
    (tmp_path / "nasty.txt").write_text("re\x1b[31md\nsta\u202er\n<b>house</b>\n# none\n\n")
    rows = rows_of(warehouse, str(tmp_path / "nasty.txt"))
    assert {row["name"] for row in rows.values()} <= {"re[31md", "star", "<b>house</b>"}


def test_one_word_for_all(warehouse: Any, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("thing")
    rows = rows_of(warehouse, str(tmp_path / "one.txt"))
    assert {(row["name"], row["difference"], row["margin"]) for row in rows.values()} == {("thing", None, None)}


def test_methods_stand_side_by_side_and_become_stale(warehouse: Any, words: str) -> None:
    rows_of(warehouse, words)
    rows_of(warehouse, words, method="published")
    counted = dict(warehouse.sql("SELECT method, count(*) FROM names GROUP BY 1").iter_rows())
    assert counted == {"plain": F - 1, "published": F - 1}
    assert warehouse.sql("SELECT name, distinguishing_name FROM features WHERE feature_id = 0").height == 1
    warehouse.analyze("cooccurrence", "s", min_support=3)
    assert all(run.is_stale for run in warehouse.runs() if run.analyzer == "names")


def test_labels_are_names_too(warehouse: Any, words: str) -> None:
    with pytest.raises(UsageError, match="There are no labels of the space 's' to make names of"):
        rows_of(warehouse, words, method="labels")
    warehouse.analyze("labels", "s", vocabulary=words)
    labels = dict(warehouse.sql("SELECT feature_id, label FROM labels WHERE label IS NOT NULL").iter_rows())
    rows = rows_of(warehouse, words, method="labels")
    assert {f: row["name"] for f, row in rows.items()} == labels
    assert all(row["score"] is None and row["template_set"] is None for row in rows.values())


def test_what_is_missing_is_said(warehouse: Any, words: str) -> None:
    with pytest.raises(UsageError, match=r"There is no set of templates 'nouns'. Did you mean 'noun'"):
        rows_of(warehouse, words, templates=("nouns",))
    with pytest.raises(UsageError, match=r"Texts cannot be compared with the embedding 'x'.*with --embedding"):
        rows_of(warehouse, words, embedding="x")
    warehouse.import_features("flat", np.ones((N, 2)), list(range(N)))
    with pytest.raises(UsageError, match="needs patches, and the space 'flat'"):
        warehouse.analyze("names", "flat")
    warehouse.forget([run for run in warehouse.runs() if run.analyzer == "cooccurrence"])
    warehouse.analyze("cooccurrence", "s", radius=1)
    with pytest.raises(UsageError, match=r"Names need co-occurrence on the same patch. Run `glasshouse analyze cooc"):
        rows_of(warehouse, words)


def test_names_are_scored_like_labels(warehouse: Any, words: str) -> None:
    with pytest.raises(
        UsageError, match=r"There are no names of the space 's'. Run `glasshouse analyze names --space s`"
    ):
        warehouse.analyze("label_score", "s", labeler="names")
    plain, published = rows_of(warehouse, words), rows_of(warehouse, words, method="published")
    with pytest.raises(UsageError, match=r"no names by the method labels of .* names --space s --method labels"):
        warehouse.analyze("label_score", "s", labeler="names", model="labels")
    expected = {
        "plain": {f: row["name"] for f, row in plain.items()},
        "published": {f: row["name"] for f, row in published.items()},
        "distinguishing": {f: row["distinguishing_name"] for f, row in published.items()},
    }
    for model in (*expected, None):
        warehouse.analyze("label_score", "s", labeler="names", **({} if model is None else {"model": model}))
    rows = warehouse.sql("SELECT model, feature_id, label, auc FROM label_score WHERE labeler = 'names'").to_dicts()
    found: dict[str, dict[int, str]] = {model: {} for model in expected}
    for row in rows:
        found[row["model"]][row["feature_id"]] = row["label"]
    assert found == expected
    assert any(row["auc"] is not None for row in rows)


def test_decoder_rows_are_taken_only_where_they_lie_in_clips_space(warehouse: Any, words: str) -> None:
    with pytest.raises(UsageError, match="needs a space of patches in CLIP's space, which 's' is not"):
        rows_of(warehouse, words, vectors="decoder")
    assert rows_of(warehouse, words, vectors="concepts") == rows_of(warehouse, words)


def test_decoder_rows_and_bias_are_decoded(
    warehouse: Any, words: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The family's code, brought to 1.33 times the mean length, through given rows and a bias; plain without it."""
    from glasshouse.plugins.analyzers import names
    from glasshouse.plugins.analyzers.name_vectors import Basis
    from glasshouse.warehouse.search.encoders import embedding_record

    rng = np.random.default_rng(1)
    basis = Basis("decoder", rng.normal(size=(F, 128)), rng.normal(size=128))
    monkeypatch.setattr(names, "is_clip_space", lambda view: True)
    monkeypatch.setattr(names, "decoder_basis", lambda view: basis)
    monkeypatch.setattr(names, "own_texts", lambda view: embedding_record(view.warehouse, "clip"))
    texts, values_pf = naive_texts(warehouse, tuple(TEMPLATE_SETS)), values().reshape(-1, F)
    raw = []
    for i in range(F):
        top = sorted((p for p in range(len(values_pf)) if values_pf[p, i] > 0), key=lambda p: (-values_pf[p, i], p))[
            :30
        ]
        code_f = np.zeros(F)
        for j in range(F):
            d_hat = 1.0 if i == j else naive_d_hat(values_pf, i, j)
            if top and d_hat > 0.75:
                code_f[j] = d_hat * math.fsum(values_pf[p, j] for p in top) / len(top)
        raw.append(code_f)
    mean = np.mean([np.linalg.norm(code) for code in raw if code.any()])
    plain, published = rows_of(warehouse, words), rows_of(warehouse, words, method="published")
    assert set(plain) == set(published) == {f for f in range(F) if raw[f].any()} == set(range(F)) - {4}, "4 is silent"
    for feature, row in published.items():
        decoded_e = 1.33 * mean * unit(raw[feature]) @ basis.rows_fe + basis.bias_e
        assert (row["template_set"], row["name"], pytest.approx(row["score"], abs=1e-6)) == best(decoded_e, texts)
        own = best(basis.rows_fe[feature], texts)
        assert (plain[feature]["template_set"], plain[feature]["name"]) == own[:2] and row["embedding"] is None
