"""SemanticLens' describe: words in templates, their empty forms subtracted, against its formula written as loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from glasshouse.plugins.labelers.vocabulary import load
from glasshouse.plugins.labeling import FeatureQuestion, LabelerOptions
from glasshouse.plugins.view import AnalysisView
from glasshouse.schema.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

WORDS = ("red", "striped", "star", "black background", "watermark", "small")
TEMPLATES = ("a photo of {}", "{} on a table, {}", "something {}")
WIDTH = 128
"""Of the starter's CLIP."""


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return a warehouse with CLIP's embedding and concept vectors of as many features as it has coordinates."""
    from glasshouse.plugins.manager import Plugins
    from glasshouse.plugins.starter.world.write import write_world
    from glasshouse.warehouse.warehouse import Warehouse

    folder = tmp_path_factory.mktemp("describe")
    write_world(folder / "world", 60, 0)
    opened = Warehouse.create(folder / "w.glasshouse", Plugins(external=False))
    opened.add([folder / "world" / "images"])
    opened.extract("starter:clip", embedding="clip")
    rng = np.random.default_rng(0)
    acts_nf = rng.exponential(size=(60, WIDTH)).astype(np.float32) * (rng.random((60, WIDTH)) < 0.3)
    opened.import_features("s", acts_nf, list(range(60)))
    opened.analyze("concepts", "s", embedding="clip", n=5)
    (folder / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    yield opened, str(folder / "words.txt")
    opened.close()


def cosine(one: Any, other: Any) -> float:
    a, b = np.asarray(one, float), np.asarray(other, float)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def prompt_vector(warehouse: Any, text: str) -> Any:
    """One text alone through the text tower."""
    import torch

    tower = warehouse.kept_encoder("starter:clip")
    with torch.no_grad():
        return tower.embed_text([text])[0].double().numpy()


def expected(warehouse: Any, templates: tuple[str, ...]) -> dict[str, Any]:
    """q of each word: every template with its own empty form, one by one."""
    vectors = {}
    for word in WORDS:
        parts = [
            prompt_vector(warehouse, template.replace("{}", word))
            - prompt_vector(warehouse, template.replace("{}", ""))
            for template in templates
        ]
        vectors[word] = np.mean(parts, axis=0)
    return vectors


@pytest.mark.parametrize("templates", [TEMPLATES[:1], TEMPLATES])
def test_scores_of_several_words_in_several_templates_are_those_of_a_loop(
    described: Any, templates: tuple[str, ...]
) -> None:
    warehouse, words = described
    (report,) = warehouse.analyze("labels", "s", vocabulary=words, template=templates, n=WIDTH)
    (run,) = [run for run in warehouse.runs() if run.analyzer == "concepts"]
    ids, vectors_ke = warehouse.result_vectors(run)
    assert vectors_ke.shape == (WIDTH, WIDTH), "as many features as coordinates"
    queries = expected(warehouse, templates)
    options = LabelerOptions(AnalysisView(warehouse, "s"), vocabulary=words, templates=templates)
    labeler = load(options)
    rows = {row["feature_id"]: row for row in warehouse.result_rows(report.run).to_dicts()}
    assert sorted(rows) == ids.tolist()
    for feature, vector in zip(ids.tolist(), vectors_ke, strict=True):
        scores = {word: cosine(vector, query) for word, query in queries.items()}
        best = max(scores, key=lambda word: scores[word])
        assert rows[feature]["label"] == best
        assert rows[feature]["confidence"] == pytest.approx(max(scores[best], 0), abs=1e-6)
        stored = labeler.texts_we @ labeler.shifted_ke[labeler.row_of_feature[feature]]
        np.testing.assert_allclose(stored, [scores[word] for word in WORDS], atol=1e-6)
        assert labeler.label(FeatureQuestion(feature, "")).label == best
    assert len({row["label"] for row in rows.values()}) >= 3, "not one word for all"


def test_templates_are_part_of_the_request(described: Any) -> None:
    warehouse, words = described
    plain, templated, again = (
        warehouse.analyze("labels", "s", vocabulary=words, template=template, n=7)[0]
        for template in ((), ("an image of {}",), ("an image of {}",))
    )
    assert plain.is_new and templated.is_new and not again.is_new
    labels = [warehouse.result_rows(report.run)["confidence"].to_list() for report in (plain, templated)]
    assert labels[0] != labels[1]


def test_a_template_without_a_gap_and_one_for_a_model_are_refused(described: Any) -> None:
    warehouse, words = described
    with pytest.raises(UsageError, match=r"The template \"a photo\" has no \{\} for the query"):
        warehouse.analyze("labels", "s", vocabulary=words, template=("a photo",))
    with pytest.raises(UsageError, match="labeler 'gemini' has none"):
        warehouse.analyze("labels", "s", labeler="gemini", template=("a photo of {}",))
