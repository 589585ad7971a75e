"""The vocabulary labeler against its definition, written as loops, on a small rendered world."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glasshouse.schema.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

WORDS = ["red", "striped", "star", "black background", "watermark", "small"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from glasshouse.plugins.manager import Plugins
    from glasshouse.plugins.starter.demo import build_demo

    root = tmp_path_factory.mktemp("vocabulary") / "demo.glasshouse"
    built = build_demo(root, 120, 0, Plugins(external=False), lambda title: lambda done, total: None).warehouse
    built.forget(built.runs())
    built.close()
    return root


@pytest.fixture
def demo(made: Path, tmp_path: Path) -> Iterator[Any]:
    from glasshouse.plugins.manager import Plugins
    from glasshouse.warehouse.warehouse import Warehouse

    shutil.copytree(made, tmp_path / "demo.glasshouse")
    opened = Warehouse(tmp_path / "demo.glasshouse", Plugins(external=False))
    yield opened
    opened.close()


@pytest.fixture
def words(tmp_path: Path) -> str:
    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    return str(tmp_path / "words.txt")


def cosine(a: Any, b: Any) -> float:
    return float(sum(a * b) / (sum(a * a) ** 0.5 * sum(b * b) ** 0.5))


def test_the_label_is_the_word_of_the_largest_lift(demo: Any, words: str) -> None:
    from glasshouse.warehouse.search.texts import embed_texts

    demo.analyze("concepts", "cls")
    demo.analyze("labels", "cls", vocabulary=words, n=25)
    found = demo.sql("FROM labels ORDER BY feature_id").to_dicts()
    assert len(found) == 25 and {row["model"] for row in found} == {"clip"}
    texts = embed_texts(demo, "clip", WORDS).astype(float)
    images = demo.embeddings("clip").vectors_ne.astype(float)
    usual = [np.mean([cosine(image, text) for image in images]) for text in texts]
    run = next(run for run in demo.runs() if run.analyzer == "concepts")
    ids, vectors = demo.result_vectors(run)
    chosen = set()
    for row in found:
        vector = vectors[list(ids).index(row["feature_id"])].astype(float)
        lifts = [cosine(vector, text) - usual[i] for i, text in enumerate(texts)]
        assert row["label"] == WORDS[int(np.argmax(lifts))]
        shift = vector / sum(vector**2) ** 0.5 - np.mean([v / sum(v**2) ** 0.5 for v in images], axis=0)
        assert row["confidence"] == pytest.approx(max(cosine(shift, texts[int(np.argmax(lifts))]), 0), abs=1e-6)
        order = [WORDS[i] for i in np.argsort(-np.array(lifts))]
        assert list(row["visual_elements"]) == order[:5]
        chosen.add(row["label"])
    assert len(chosen) >= 3, "not one word for all"


def test_without_concept_vectors_it_says_what_to_run(demo: Any, words: str) -> None:
    with pytest.raises(UsageError, match=r"Run `glasshouse analyze concepts --space cls`"):
        demo.analyze("labels", "cls", vocabulary=words)
    demo.analyze("concepts", "cls", embedding="dinov2")
    with pytest.raises(UsageError, match=r"Run `glasshouse analyze concepts --space cls`"):
        demo.analyze("labels", "cls", vocabulary=words)
    with pytest.raises(UsageError, match=r"cannot be compared with the embedding 'dinov2'. Those that can: clip"):
        demo.analyze("labels", "cls", vocabulary=words, model="dinov2")


def test_a_feature_without_a_concept_vector_is_a_failure(demo: Any, words: str) -> None:
    demo.analyze("concepts", "cls")
    silent = demo.feature_statistics("cls").filter(demo.feature_statistics("cls")["n_active"] == 0)["feature_id"][0]
    demo.analyze("labels", "cls", vocabulary=words, features=(int(silent),))
    row = demo.sql("FROM labels").to_dicts()[0]
    assert row["label"] is None and "no concept vector" in row["failure"]


def test_new_concept_vectors_make_labels_stale(demo: Any, words: str) -> None:
    demo.analyze("concepts", "cls")
    demo.analyze("labels", "cls", vocabulary=words)
    assert not demo.runs()[-1].is_stale
    demo.analyze("concepts", "cls", n=5)
    assert [run.is_stale for run in demo.runs() if run.analyzer == "labels"] == [True]
