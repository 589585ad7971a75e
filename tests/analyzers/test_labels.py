"""`labels`: which features are chosen, what is stored, how runs add to each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glasshouse.schema.errors import UsageError

PLUGIN = """
from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import LabelerLoader
from glasshouse.plugins.labeling import BadReply, FeatureLabel

class Own:
    model = "own-1"

    def __init__(self, options):
        self.word = (options.vocabulary or "named").rpartition("/")[2]

    def label(self, question):
        if question.feature_id == 2:
            raise BadReply("no words for it", "hm\\x1b[31m\\nhm")
        said = "" if question.dimension is None else f"{question.dimension} {question.r:+.2f}"
        seen = ("\\x1b[31mred\\u202e",) if question.feature_id == 4 else ()
        return FeatureLabel(f"{self.word} {question.feature_id}", question.prompt, seen, said)

@hookimpl
def register_labelers(register):
    register("own", LabelerLoader(Own, "a stranger's", is_remote=False))
    register("blind", LabelerLoader(Own, "sees nothing", sees_pictures=False))
"""


@pytest.fixture
def own(warehouse: Any, tmp_path: Path) -> Iterator[Any]:
    """Return a warehouse with the space `x` of six features, feature f active on 4 f images, and a labeler."""
    from glasshouse.plugins.manager import Plugins
    from glasshouse.warehouse.warehouse import Warehouse

    (tmp_path / "mine.py").write_text(PLUGIN)
    rng = np.random.default_rng(0)
    codes_nf = np.zeros((30, 6), dtype=np.float32)
    for feature in range(6):
        codes_nf[rng.choice(30, 4 * feature, replace=False), feature] = rng.random(4 * feature) + 0.5
    warehouse.import_features("x", codes_nf, list(range(30)))
    opened = Warehouse(warehouse.root, Plugins([tmp_path / "mine.py"], external=False))
    yield opened
    opened.close()


def labels(warehouse: Any) -> dict[int, str | None]:
    return dict(warehouse.sql("SELECT feature_id, label FROM labels WHERE space = 'x' ORDER BY 1").iter_rows())


def test_a_strangers_labeler_names_the_most_active(own: Any) -> None:
    own.analyze("labels", "x", labeler="own", n=2)
    assert labels(own) == {4: "named 4", 5: "named 5"}
    run = own.runs()[-1]
    assert run.notes["chosen_by"] == "activity" and run.facets == {"labeler": "own", "model": None}
    assert own.sql("SELECT DISTINCT model FROM labels")["model"].to_list() == ["own-1"]
    features = own.sql("SELECT feature_id, label FROM features WHERE label IS NOT NULL ORDER BY 1")
    assert features.rows() == [(4, "named 4"), (5, "named 5")]


def test_failures_are_rows_without_a_label(own: Any) -> None:
    own.analyze("labels", "x", labeler="own", features=(3, 2, 3, 0))
    rows = {row["feature_id"]: row for row in own.sql("FROM labels").to_dicts()}
    assert rows[3]["label"] == "named 3" and len(rows) == 3
    assert (rows[2]["label"], rows[2]["failure"], rows[2]["reply"]) == (None, "no words for it", "hm[31m\nhm")
    assert rows[0]["label"] is None and "active on no image" in rows[0]["failure"]
    notes = own.runs()[-1].notes
    assert (notes["n_labels"], notes["n_failures"], notes["n_unlabelled"]) == (1, 2, 0)
    assert notes["summary"].startswith("1 label, 2 failures (nothing can be shown of it: ")
    own.analyze("labels", "x", labeler="own", features=(2,))
    assert own.runs()[-1].notes["summary"] == "0 labels, 1 failure (no words for it)"


def test_what_a_strangers_labeler_says_is_visible(own: Any) -> None:
    own.analyze("labels", "x", labeler="own", features=(4,))
    assert own.sql("SELECT visual_elements AS seen FROM labels")["seen"].to_list() == [["[31mred"]]


def test_runs_add_to_each_other(own: Any) -> None:
    own.analyze("labels", "x", labeler="own", features=(3, 4))
    own.analyze("labels", "x", labeler="own", features=(4, 5), vocabulary="better")
    assert labels(own) == {3: "named 3", 4: "better 4", 5: "better 5"}
    (report,) = own.analyze("labels", "x", labeler="own", features=(3, 4))
    assert not report.is_new


def test_tiers_come_before_ms_and_ms_before_activity(own: Any) -> None:
    import pyarrow as pa

    from glasshouse.plugins.analyzer import Analyzer, Parameters
    from glasshouse.plugins.analyzers.label_questions import choose_features
    from glasshouse.plugins.view import AnalysisView

    def stored(name: str, rows: dict[str, list[Any]], types: dict[str, Any]) -> None:
        class Fixed(Analyzer[Parameters]):
            schema = pa.schema([("feature_id", pa.int32()), *types.items()])

            def run(self, view: Any, parameters: Parameters) -> pa.Table:
                return pa.table(rows).cast(self.schema)

        registry = own.plugins.analyzers
        registry._entries[name] = (Fixed(), "test")
        own.analyze(name, "x")

    assert choose_features(AnalysisView(own, "x"), (), 3) == ([5, 4, 3], "activity")
    nan = float("nan")
    stored("monosemanticity", {"feature_id": [0, 1, 2, 3, 4], "ms": [None, 0.2, 0.7, nan, 0.2]}, {"ms": pa.float64()})
    assert choose_features(AnalysisView(own, "x"), (), 3) == ([2, 1, 4], "ms")
    assert choose_features(AnalysisView(own, "x"), (), 9) == ([2, 1, 4, 5, 3], "ms, then activity")
    tiers = {"feature_id": [1, 3, 5, 4], "tier": [2, 1, 1, 3], "rank": [1, 2, 1, 1]}
    stored("tiers", tiers, {"tier": pa.int32(), "rank": pa.int32()})
    view = AnalysisView(own, "x")
    assert choose_features(view, (), 3) == ([5, 3, 1], "tier")
    assert {given.name.split("|")[0] for given in view.inputs()} == {"x", "tiers"}
    assert choose_features(view, (), 5) == ([5, 3, 1, 4, 2], "tier, then ms")
    assert choose_features(AnalysisView(own, "x"), (4, 1, 4), 1) == ([4, 1], "name")


def test_the_rating_it_goes_with_is_told(own: Any, tmp_path: Path) -> None:
    values = own.sparse_matrix("x").toarray()[:, 5]
    paths = own.images()["path"].to_list()
    lines = [f"{path},beauty,{value}" for path, value in zip(paths, 3 + values, strict=True)]
    (tmp_path / "ratings.csv").write_text("image,dimension,value\n" + "\n".join(lines))
    own.add(ratings=[tmp_path / "ratings.csv"])
    own.analyze("correlation", "x")
    own.analyze("labels", "x", labeler="own", features=(5, 1))
    effects = dict(own.sql("SELECT feature_id, rating_effect FROM labels").iter_rows())
    prompts = dict(own.sql("SELECT feature_id, description FROM labels").iter_rows())
    assert effects[5] == "beauty +1.00" and '"beauty"' in prompts[5] and "higher" in prompts[5]
    assert effects[1] is None or abs(float(effects[1].split()[1])) < 1


def test_pictures_that_are_gone(own: Any, pictures: Path) -> None:
    """One of several is left out; without any, the feature is a failure that says why; the blind do not care."""
    top = own.top_images("x", 1, 4)["image_id"].to_list()
    paths = own.images()["path"].to_list()
    (pictures / Path(paths[top[0]]).name).unlink()
    own.analyze("labels", "x", labeler="own", features=(1,), n_images=4)
    prompt = own.sql("SELECT description FROM labels")["description"][0]
    assert "3 pictures" in prompt
    for image in top[1:]:
        (pictures / Path(paths[image]).name).unlink()
    own.analyze("labels", "x", labeler="own", features=(1,), n_images=3)
    row = own.sql("FROM labels").to_dicts()[0]
    assert row["label"] is None and "nothing can be shown of it" in row["failure"]
    own.analyze("labels", "x", labeler="blind", features=(1,))
    assert own.sql("SELECT label FROM labels WHERE labeler = 'blind'")["label"].to_list() == ["named 1"]


def test_what_is_not_possible(own: Any) -> None:
    with pytest.raises(UsageError, match=r"there is none.* text tower with `glasshouse embed"):
        own.analyze("labels", "x")
    for given in ({}, {"embedding": "clip"}):
        with pytest.raises(UsageError, match=r"no image embedding of an encoder with a text tower\. Make one"):
            own.analyze("soft_wpmi", "x", **given)
    with pytest.raises(UsageError, match=r"no labeler 'gemni'. Did you mean 'gemini'"):
        own.analyze("labels", "x", labeler="gemni")
    with pytest.raises(UsageError, match=r"no feature 6: they run from 0 to 5"):
        own.analyze("labels", "x", labeler="own", features=(6,))
    with pytest.raises(UsageError, match=r"There are no labels by own of the space 'x'"):
        own.analyze("label_score", "x", labeler="own")
    assert own.runs() == [], "nothing was labelled on the way"


def test_results_are_json_and_sql(own: Any) -> None:
    own.analyze("labels", "x", labeler="own", features=(3,))
    json.dumps(own.runs()[-1].notes)
    assert own.sql("SELECT len(visual_elements) AS n FROM labels")["n"].to_list() == [0]
