"""The probe against loops, and against a solver written from the objective."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_pictures

from glasshouse.plugins.analyzers.probe_fit import fit, scores_of, shuffled
from glasshouse.plugins.analyzers.probe_targets import Targets, targets_of
from glasshouse.plugins.view import AnalysisView
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.splits import TEST, TRAIN, VALIDATION
from glasshouse.warehouse.warehouse import Warehouse

Array = np.ndarray[Any, Any]
N, F = 160, 12
CLASSES = ("cat", "cow", "dog")


def class_of(image: int) -> int:
    return int(np.random.default_rng([7, image]).integers(0, 3))


def acts() -> Array:
    """Features 0 to 2 speak for a class each, 3 against the first; 4 is silent, 5 to 11 noise of unlike sizes."""
    rng = np.random.default_rng(1)
    acts_nf = rng.exponential(size=(N, F)) * (rng.random((N, F)) < 0.4) * 10.0 ** rng.integers(-2, 3, F)
    for image in range(N):
        for k in range(3):
            acts_nf[image, k] = rng.exponential() + 2 if class_of(image) == k and rng.random() < 0.9 else 0
        acts_nf[image, 3] = 0 if class_of(image) == 0 else 30 * rng.random()
    acts_nf[:, 4] = 0
    return acts_nf.astype(np.float32)


def vectors() -> Array:
    """Image embeddings [160, 6]: the class in the first three coordinates, and noise."""
    noise_ne = np.random.default_rng(2).normal(size=(N, 6))
    return (noise_ne + 3 * np.eye(6)[[class_of(i) for i in range(N)]]).astype(np.float32)


def split_of(image: int) -> str:
    return ("train", "train", "val", "test")[image % 4]


def write_labels(file: Path, rows: list[tuple[int, str, str]]) -> Path:
    with file.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("image", "attribute", "value"))
        writer.writerows((f"{image:05d}.png", attribute, value) for image, attribute, value in rows)
    return file


@pytest.fixture
def labelled(tmp_path: Path, plugins: Any) -> Any:
    """Return a function that makes a warehouse of the activations with the given labels."""
    write_pictures(tmp_path / "p", N, size=4)
    opened = []

    def make(rows: list[tuple[int, str, str]], *, embedded: bool = False) -> Any:
        file = write_labels(tmp_path / f"labels{len(opened)}.csv", rows)
        warehouse = Warehouse.create(tmp_path / f"{len(opened)}.glasshouse", plugins)
        warehouse.add([tmp_path / "p"], labels=[file])
        warehouse.import_features("s", acts(), list(range(N)))
        if embedded:
            warehouse.import_embeddings("e", vectors(), list(range(N)))
        opened.append(warehouse)
        return warehouse

    yield make
    for warehouse in opened:
        warehouse.close()


def classes() -> list[tuple[int, str, str]]:
    return [(image, "class", CLASSES[class_of(image)]) for image in range(N)]


def splits() -> list[tuple[int, str, str]]:
    return [(image, "split", split_of(image)) for image in range(N)]


def stored(warehouse: Any, **parameters: Any) -> tuple[Any, Any]:
    (report,) = warehouse.analyze("probe", "s", **parameters)
    return report.run, warehouse.result_rows(report.run)


def naive_weights(inputs_nf: Array, is_class_n: Array, c: float) -> Array:
    """Minimise ‖w‖₁ + c·Σ log(1 + exp(−y·w·x)) by proximal gradient steps with momentum."""
    sign_n = np.where(is_class_n, 1.0, -1.0)
    step = 4 / (c * np.linalg.norm(inputs_nf, 2) ** 2)
    w_f = ahead_f = np.zeros(inputs_nf.shape[1])
    for number in range(5000):
        slope_f = -c * inputs_nf.T @ (sign_n / (1 + np.exp(sign_n * (inputs_nf @ ahead_f))))
        moved_f = ahead_f - step * slope_f
        new_f = np.sign(moved_f) * np.maximum(np.abs(moved_f) - step, 0)
        ahead_f = new_f + number / (number + 3) * (new_f - w_f)
        w_f = new_f
    return w_f


def naive_accuracy(logits_nc: Array, true_nc: Array) -> float:
    hits = [true_nc[i][max(range(len(row)), key=lambda k: (row[k], -k))] for i, row in enumerate(logits_nc)]
    return sum(map(bool, hits)) / len(hits)


def test_weights_are_those_of_the_objective_on_activations_over_their_maximum(labelled: Any) -> None:
    run, rows = stored(labelled(classes() + splits()), c=0.5)
    acts_nf, own_n = acts().astype(float), np.array([class_of(i) for i in range(N)])
    train = [i for i in range(N) if split_of(i) == "train"]
    learned = [i for i in range(N) if split_of(i) != "test"]
    top_f = np.array([max(acts_nf[train, f].max(), 0) or 1.0 for f in range(F)])
    assert run.notes["classes"] == sorted(
        CLASSES, key=lambda name: (-(own_n[train] == CLASSES.index(name)).sum(), name)
    )
    for k, name in enumerate(CLASSES):
        expected_f = naive_weights(acts_nf[learned] / top_f, own_n[learned] == k, 0.5) / top_f
        found_f = np.zeros(F)
        own = rows.filter(rows["class"] == name)
        found_f[own["feature_id"].to_numpy()] = own["weight"].to_numpy()
        np.testing.assert_allclose(found_f * top_f, expected_f * top_f, atol=0.01)
        assert found_f[k] > 0 and found_f[4] == 0
    assert rows.filter((rows["class"] == "cat") & (rows["feature_id"] == 3))["weight"][0] < 0


def test_contributions_and_shares_are_means_over_the_images_of_the_class(labelled: Any) -> None:
    _, rows = stored(labelled(classes() + splits()))
    acts_nf = acts().astype(float)
    assert rows.height
    for row in rows.iter_rows(named=True):
        images = [i for i in range(N) if CLASSES[class_of(i)] == row["class"]]
        own = rows.filter(rows["class"] == row["class"])
        means = {
            f: w * sum(acts_nf[i, f] for i in images) / len(images)
            for f, w in own.select("feature_id", "weight").iter_rows()
        }
        assert row["mean_contribution"] == pytest.approx(means[row["feature_id"]], rel=1e-6)
        assert row["share"] == pytest.approx(abs(means[row["feature_id"]]) / sum(map(abs, means.values())), rel=1e-6)
        larger = [f for f, v in means.items() if abs(v) > abs(means[row["feature_id"]])]
        equal = [f for f, v in means.items() if abs(v) == abs(means[row["feature_id"]])]
        assert len(larger) <= row["rank"] < len(larger) + len(equal)
        assert (row["n_nonzero"], row["n_images"]) == (len(means), len(images))
        assert row["n_active"] == sum(acts_nf[i, row["feature_id"]] > 0 for i in images)


def test_accuracies_by_counting(labelled: Any) -> None:
    run, rows = stored(labelled(classes() + splits(), embedded=True), embeddings=("e",))
    acts_nf, names = acts().astype(float), run.notes["classes"]
    test = [i for i in range(N) if split_of(i) == "test"]
    logits_nc = np.zeros((N, 3))
    for feature, name, weight in rows.select("feature_id", "class", "weight").iter_rows():
        logits_nc[:, names.index(name)] += weight * acts_nf[:, feature]
    true_nc = np.array([[CLASSES[class_of(i)] == name for name in names] for i in range(N)])
    assert run.notes["accuracy"] == pytest.approx(naive_accuracy(logits_nc[test], true_nc[test]))
    assert run.notes["accuracy_majority"] == pytest.approx(np.mean([names[0] == CLASSES[class_of(i)] for i in test]))
    assert run.notes["accuracy"] > 0.85 > run.notes["accuracy_shuffled"] + 0.2
    assert run.notes["embeddings"]["e"]["accuracy"] > 0.85
    assert not run.notes["multilabel"] and set(rows["accuracy"]) == {run.notes["accuracy"]}
    for number, name in enumerate(names):
        order = sorted(test, key=lambda i: -logits_nc[i, number])
        hits = [bool(true_nc[i, number]) for i in order]
        precisions = [sum(hits[: place + 1]) / (place + 1) for place in range(len(hits)) if hits[place]]
        values = logits_nc[test, number]
        if len(set(values)) == len(values):
            ap = rows.filter(rows["class"] == name)["ap"][0]
            assert ap == pytest.approx(sum(precisions) / len(precisions)), "average precision without ties"


def test_the_test_images_decide_nothing(labelled: Any) -> None:
    """With other classes on the test images, the weights and the chosen C stay the same."""
    wrong = [(i, a, CLASSES[(class_of(i) + 1) % 3] if split_of(i) == "test" else v) for i, a, v in classes()]
    (first, rows), (second, others) = stored(labelled(classes() + splits())), stored(labelled(wrong + splits()))
    assert first.notes["c"] == second.notes["c"] and first.notes["tried"] == second.notes["tried"]
    key = ["feature_id", "class"]
    assert rows.select(*key, "weight").sort(key).equals(others.select(*key, "weight").sort(key))
    assert first.notes["accuracy"] > second.notes["accuracy"] + 0.5


def test_several_classes_of_one_image(labelled: Any) -> None:
    rows = [*classes(), *splits(), *((i, "class", "brown") for i in range(N) if acts()[i, 5] > 0)]
    run, _ = stored(labelled(rows))
    assert run.notes["multilabel"] and run.notes["mean_ap"] > run.notes["mean_ap_shuffled"] + 0.2
    assert max(run.notes["tried"].values()) <= 1


def test_slack_takes_the_strongest_penalty_within_it() -> None:
    """Two inputs: one tells the classes nearly, both together fully. C is chosen by what the slack allows."""
    rng = np.random.default_rng(0)
    true_n = rng.random(400) < 0.5
    strong_n = np.where(rng.random(400) < 0.93, true_n, ~true_n) * 2.0 - 1
    weak_n = np.where(strong_n == true_n * 2.0 - 1, 0, true_n * 2.0 - 1)
    inputs_nf = np.stack([strong_n, weak_n], axis=1)
    part_n = np.arange(400) % 4 // 2 + (np.arange(400) % 4 == 3)
    targets = Targets(["a", "b"], np.arange(400), np.stack([true_n, ~true_n], axis=1), part_n, "", [])
    exact, slack = fit(inputs_nf, targets, "l1"), fit(inputs_nf, targets, "l1", slack=0.2)
    assert slack.c < exact.c and (slack.weights_fc != 0).sum() < (exact.weights_fc != 0).sum()
    best = max(exact.tried.values())
    assert exact.c == min(c for c, score in exact.tried.items() if score == best)
    assert slack.c == min(c for c, score in slack.tried.items() if score >= best - 0.2)


def test_shuffling_leaves_the_test_images_alone() -> None:
    part_n = np.array([TRAIN] * 50 + [VALIDATION] * 20 + [TEST] * 30)
    true_nc = np.eye(4, dtype=bool)[np.random.default_rng(0).integers(0, 4, 100)]
    mixed = shuffled(Targets(list("abcd"), np.arange(100), true_nc, part_n, "", []), 3)
    for part in (TRAIN, VALIDATION, TEST):
        assert (mixed.true_nc[part_n == part].sum(0) == true_nc[part_n == part].sum(0)).all()
        assert (mixed.true_nc[part_n == part] == true_nc[part_n == part]).all() == (part == TEST)


def test_equal_logits_give_the_most_frequent_class() -> None:
    scores = scores_of(np.zeros((4, 2)), np.array([[1, 0], [1, 0], [0, 1], [1, 0]], dtype=bool))
    assert scores.accuracy == 0.75


def parts(warehouse: Any, seed: int = 0) -> dict[int, int]:
    found = targets_of(AnalysisView(warehouse, "s"), "class", 1, seed)
    return dict(zip(found.image_n.tolist(), found.part_n.tolist(), strict=True))


def test_how_images_are_split(labelled: Any) -> None:
    words = {"train": TRAIN, "val": VALIDATION, "test": TEST}
    assert parts(labelled(classes() + splits())) == {i: words[split_of(i)] for i in range(N)}
    by_hash = labelled(classes())
    counts = np.bincount(list(parts(by_hash).values()))
    assert (abs(counts - N * np.array([0.7, 0.1, 0.2])) < 20).all()
    assert parts(by_hash) != parts(by_hash, seed=1)
    some = labelled([row for row in classes() if row[0] % 3])
    assert parts(some) == {i: part for i, part in parts(by_hash).items() if i % 3}, "others are no matter"
    two = [(i, "split", "Train" if i % 2 else "val") for i in range(N - 10)] + [(N - 1, "split", "unused")]
    found = parts(labelled(classes() + two))
    assert all((found[i] == TEST) == (i % 2 == 0) for i in range(N - 10)) and not set(found) & set(range(N - 10, N))
    assert 2 < sum(part == VALIDATION for part in found.values()) < 25


def test_small_classes_are_left_out_and_said(labelled: Any) -> None:
    rare = [(i, "class", "yak") for i in range(3)]
    run, rows = stored(labelled([*classes()[3:], *splits(), *rare]))
    assert run.notes["classes_left_out"] == ["yak"] and "yak" not in rows["class"].to_list()
    assert run.notes["n_train"] == sum(split_of(i) == "train" for i in range(3, N))


def test_what_is_refused(labelled: Any, warehouse: Any) -> None:
    warehouse.import_features("s", acts()[:30], list(range(30)))
    with pytest.raises(UsageError, match=r"Nothing tells the images apart.*--labels FILE"):
        warehouse.analyze("probe", "s")
    made = labelled(classes())
    with pytest.raises(UsageError, match=r"no attribute with several values 'colour'.*class"):
        made.analyze("probe", "s", attribute="colour")
    with pytest.raises(UsageError, match=r"Of 'class' no values have at least 500 training images.*lower --min-images"):
        made.analyze("probe", "s", min_images=500)
    with pytest.raises(UsageError, match=r"no embedding 'x'"):
        made.analyze("probe", "s", embeddings=("x",))
    only = labelled(classes() + [(i, "split", "train") for i in range(N)])
    with pytest.raises(UsageError, match=r"in the test part \(by the labels `split`"):
        only.analyze("probe", "s")


def test_a_result_is_stale_when_what_was_not_there_is_added_and_not_before(labelled: Any, tmp_path: Path) -> None:
    """It looks for annotations too: that there are none is no change, that some come is one."""
    warehouse = labelled(classes())
    run, _ = stored(warehouse)
    assert not run.is_stale and not warehouse.analyze("probe", "s")[0].is_new
    coco = {
        "images": [{"id": 1, "file_name": "00000.png", "width": 4, "height": 4}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(coco))
    warehouse.add(annotations=[tmp_path / "a.json"])
    assert next(one for one in warehouse.runs() if one.run_id == run.run_id).is_stale
