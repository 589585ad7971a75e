"""label_score: its figures against naive references, its two sides, and a model's votes over real HTTP."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.plugins.analyzers.label_measures import (
    auc_columns,
    balanced_accuracy,
    best_threshold,
    held_out_accuracy,
)
from glasshouse.schema.errors import UsageError

numbers = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=9)


def naive_auc(active: list[float], silent: list[float]) -> float:
    pairs = [1.0 if a > s else 0.5 if a == s else 0.0 for a in active for s in silent]
    return sum(pairs) / len(pairs)


def naive_accuracy(active: list[float], silent: list[float], threshold: float) -> float:
    hits = sum(a > threshold for a in active) / len(active)
    return (hits + sum(s <= threshold for s in silent) / len(silent)) / 2


@settings(deadline=None)
@given(numbers, numbers)
def test_auc_is_the_share_of_pairs(active: list[float], silent: list[float]) -> None:
    columns = [np.array([side, [-a for a in side]]).T for side in (active, silent)]
    found = auc_columns(*columns)
    assert found == pytest.approx([naive_auc(active, silent), naive_auc(silent, active)], abs=1e-12)


def test_auc_of_an_empty_side_is_not_known() -> None:
    assert np.isnan(auc_columns(np.empty((0, 2)), np.ones((3, 2)))).all()
    assert np.isnan(auc_columns(np.ones((3, 2)), np.empty((0, 2)))).all()


@settings(deadline=None)
@given(numbers, numbers)
def test_the_best_threshold_is_the_best(active: list[float], silent: list[float]) -> None:
    a, s = np.array(active), np.array(silent)
    found = balanced_accuracy(a, s, best_threshold(a, s))
    tried = [naive_accuracy(active, silent, x / 4) for x in range(-20, 21)]
    assert found == pytest.approx(max(tried), abs=1e-12)


def test_the_threshold_is_chosen_on_other_images() -> None:
    """On noise, the threshold of the same images looks better than chance; the held-out one does not."""
    rng = np.random.default_rng(0)
    sides = [(rng.normal(size=20), rng.normal(size=20)) for _ in range(400)]
    held_out = [held_out_accuracy(active, silent) for active, silent in sides]
    same = [balanced_accuracy(active, silent, best_threshold(active, silent)) for active, silent in sides]
    assert abs(np.mean(held_out) - 0.5) < 0.02 and np.mean(same) > 0.58
    assert held_out_accuracy(np.arange(5.0) + 9, np.arange(5.0)) == 1.0
    assert math.isnan(held_out_accuracy(np.array([1.0]), np.arange(5.0)))


@pytest.fixture
def view(warehouse: Any) -> Any:
    """A space of six features over 30 images; feature f is active on 5 f of them, feature 5 on all but two."""
    from glasshouse.plugins.view import AnalysisView

    rng = np.random.default_rng(3)
    codes_nf = np.zeros((30, 6), dtype=np.float32)
    for feature, n_active in enumerate((0, 5, 10, 15, 20, 28)):
        codes_nf[rng.choice(30, n_active, replace=False), feature] = rng.choice([1.0, 2.0, 3.0], n_active)
    warehouse.import_features("x", codes_nf, list(range(30)))
    return AnalysisView(warehouse, "x")


def test_the_two_sides(view: Any) -> None:
    from glasshouse.plugins.analyzers.label_images import sides_of

    codes_nf = view.sparse_matrix().toarray()
    everything = np.arange(30, dtype=np.int32)
    found = {sides.feature: sides for sides in sides_of(view, range(6), 7, 4, 0, everything)}
    for feature, sides in found.items():
        values = codes_nf[:, feature]
        strongest = sorted(np.flatnonzero(values), key=lambda image: (-values[image], image))
        assert list(sides.active_p) == strongest[:7]
        assert (values[sides.silent_q] == 0).all() and len(set(sides.silent_q)) == len(sides.silent_q)
        assert len(sides.silent_q) == min(4, int((values == 0).sum()))
    assert len(found[5].silent_q) == 2 and len(found[0].active_p) == 0
    (alone,) = sides_of(view, [3], 7, 4, 0, everything)
    assert list(alone.silent_q) == list(found[3].silent_q), "does not depend on the other features"
    (other,) = sides_of(view, [3], 7, 4, 1, everything)
    assert set(other.silent_q) != set(alone.silent_q)
    (some,) = sides_of(view, [4], 30, 30, 0, everything[::2])
    assert {int(i) % 2 for i in (*some.active_p, *some.silent_q)} == {0}
    assert [len(side) for side in next(sides_of(view, [4], 5, 5, 0, everything[:0]))[1:]] == [0, 0]


def test_silent_images_are_drawn_evenly(view: Any) -> None:
    from glasshouse.plugins.analyzers.label_images import sides_of

    everything = np.arange(30, dtype=np.int32)
    silent = np.flatnonzero(view.sparse_matrix().toarray()[:, 2] == 0)
    times = np.zeros(30)
    for seed in range(400):
        (sides,) = sides_of(view, [2], 1, 3, seed, everything)
        times[sides.silent_q] += 1
    assert times[silent].min() > 30 and times.sum() == 1200 and times[silent].max() < 100


def test_a_models_votes_are_counted(warehouse: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service calls dark pictures true, and its replies about one label cannot be read."""
    import base64
    import io

    from labelers.conftest import Answer, Service, openai_body
    from PIL import Image

    bright = warehouse.images()["brightness"].to_numpy()
    order = np.argsort(bright)
    codes_nf = np.zeros((30, 3), dtype=np.float32)
    codes_nf[order[:10], 0] = np.arange(10, 0, -1)
    codes_nf[order[20:], 1] = np.arange(1, 11)
    codes_nf[::2, 2] = 1
    warehouse.import_features("x", codes_nf, list(range(30)))
    service = Service()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    middle = float(np.median(bright))

    def is_dark(uri: str) -> bool:
        picture = Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))
        return bool(np.asarray(picture.convert("L"), dtype=float).mean() / 255 < middle)

    def script(number: int, seen: Any) -> Answer:
        content = seen.body["messages"][0]["content"]
        pictures = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        if "Name what" in content[0]["text"]:
            return Answer(body=openai_body(json.dumps({"label": f"label {number}"})))
        if '"label 2"' in content[0]["text"]:
            return Answer(body=openai_body("I would rather not say"))
        return Answer(body=openai_body(json.dumps({"answers": [is_dark(uri) for uri in pictures]})))

    service.script = script
    try:
        with pytest.raises(UsageError, match=r"with --model\."):
            warehouse.analyze("labels", "x", labeler="openai")
        there = {"model": "m", "base_url": service.address + "/v1", "concurrency": 1}
        warehouse.analyze("labels", "x", labeler="openai", features=(0, 1, 2), n_images=2, **there)
        judge = {"scorer": "vlm", "judge_model": "m", "base_url": there["base_url"], "n_positive": 6, "n_negative": 7}
        with pytest.raises(UsageError, match=r"with --judge-model\."):
            warehouse.analyze("label_score", "x", scorer="vlm")
        warehouse.analyze("label_score", "x", **judge)
        n_asked = len(service.seen) - 3
    finally:
        service.close()
    rows = warehouse.sql("FROM label_score ORDER BY feature_id").to_dicts()
    assert [row["label"] for row in rows] == ["label 0", "label 1", "label 2"] and n_asked == 9
    for row, expected in zip(rows[:2], (1.0, 0.0), strict=True):
        assert (row["n_positive"], row["n_negative"], row["n_parse_failures"]) == (6, 7, 0)
        assert row["auc"] == row["balanced_accuracy"] and abs(row["auc"] - expected) < 0.4
    assert rows[0]["auc"] > 0.6 > 0.4 > rows[1]["auc"]
    assert (rows[2]["auc"], rows[2]["n_parse_failures"], rows[2]["n_positive"]) == (None, 13, 6)
    assert warehouse.runs()[-1].notes["summary"] == "2 labels scored, 13 pictures without a readable answer"
