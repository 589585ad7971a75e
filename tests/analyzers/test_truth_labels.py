"""Labels on the starter world: the vocabulary names pure features right, and label_score knows right from wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

N_IMAGES = 1000
SPACES = ("cls", "patches")

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

Array = np.ndarray[Any, Any]


class TableLabeler(NamedTuple):
    """Answers from a table, which is a JSON file."""

    model: str
    labels: Mapping[str, str]

    def label(self, question: Any) -> Any:
        from glasshouse.plugins.labeling import FeatureLabel

        return FeatureLabel(self.labels[str(question.feature_id)])


def load_table(options: Any) -> TableLabeler:
    return TableLabeler(options.model, json.loads(Path(options.vocabulary).read_text(encoding="utf-8")))


class World(NamedTuple):
    """The warehouse, the values' names, and of each space the features that are pure with the values that they show."""

    warehouse: Any
    values: tuple[str, ...]
    pure: dict[str, dict[int, set[str]]]

    def score(self, space: str, name: str, labels: Mapping[int, str], folder: Path) -> Any:
        """Store labels as a model's of that name; return their scores by feature."""
        file = folder / f"{name}.json"
        file.write_text(json.dumps(labels), encoding="utf-8")
        given = {"labeler": "table", "model": name}
        self.warehouse.analyze("labels", space, features=tuple(labels), vocabulary=str(file), **given)
        self.warehouse.analyze("label_score", space, **given)
        return self.warehouse.sql(
            "FROM label_score WHERE space = $space AND model = $name ORDER BY feature_id",
            {"space": space, "name": name},
        )

    def names(self, space: str, labeler: str) -> dict[int, str]:
        rows = self.warehouse.sql(
            "SELECT feature_id, label FROM labels WHERE space = $space AND labeler = $labeler",
            {"space": space, "labeler": labeler},
        )
        return dict(rows.iter_rows())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    from glasshouse.plugins.contracts import LabelerLoader
    from glasshouse.plugins.manager import Plugins
    from glasshouse.plugins.starter.demo import build_demo
    from glasshouse.plugins.starter.measures import PURE, purity_table
    from glasshouse.plugins.starter.world.vocabulary import CORE_VALUES

    plugins = Plugins(external=False)
    plugins.labelers.register("table", LabelerLoader(load_table, "", sees_pictures=False), "these tests")
    root: Path = tmp_path_factory.mktemp("labels") / "world.glasshouse"
    warehouse = build_demo(root, N_IMAGES, 0, plugins, lambda title: lambda done, total: None).warehouse
    warehouse.forget(warehouse.runs())
    true_nv = truth(warehouse, CORE_VALUES)
    pure = {}
    for space in SPACES:
        purity_fv = purity_table(warehouse.sparse_matrix(space).toarray(), true_nv)
        features = np.flatnonzero(purity_fv.max(axis=1) >= PURE)
        pure[space] = {int(f): {CORE_VALUES[v] for v in np.flatnonzero(purity_fv[f] >= PURE)} for f in features}
    warehouse.analyze("concepts")
    yield World(warehouse, CORE_VALUES, pure)
    warehouse.close()


def truth(warehouse: Any, values: tuple[str, ...]) -> Array:
    """Truth [n, values] from the world's labels, where a watermark is `present`."""
    place = {value: column for column, value in enumerate(values)}
    true_nv = np.zeros((warehouse.images().height, len(values)), dtype=bool)
    for image, attribute, value in warehouse.sql("SELECT image_id, attribute, value FROM image_labels").iter_rows():
        name = "watermark" if (attribute, value) == ("watermark", "present") else value
        if name in place:
            true_nv[image, place[name]] = True
    return true_nv


def share_right(labels: Mapping[int, str], pure: Mapping[int, set[str]]) -> float:
    return float(np.mean([labels[feature] in values for feature, values in pure.items()]))


@pytest.fixture(scope="module")
def world_words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The words of the world: its 36 values, its general words, the parts of its houses and faces."""
    from glasshouse.plugins.starter.world.vocabulary import ALL_VALUES

    file = tmp_path_factory.mktemp("words") / "world.txt"
    file.write_text("\n".join(ALL_VALUES), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize("space", SPACES)
def test_the_vocabulary_names_pure_features_right(world: World, world_words: str, space: str) -> None:
    pure = world.pure[space]
    assert len(pure) >= 40
    world.warehouse.analyze("labels", space, features=tuple(pure), vocabulary=world_words)
    labels = world.names(space, "vocabulary")
    right = share_right(labels, pure)
    rng = np.random.default_rng(0)
    shuffled = np.mean([share_right(dict(zip(labels, rng.permutation(list(labels.values())), strict=True)), pure)
                        for _ in range(20)])  # fmt: skip
    world.warehouse.analyze("labels", space, features=tuple(pure))
    default = share_right(world.names(space, "vocabulary"), pure)
    print(
        f"{space}: {len(pure)} pure; right {right:.3f}; the same labels shuffled {shuffled:.3f}; default {default:.3f}"
    )
    assert right >= 0.8
    assert shuffled <= 0.15
    assert default >= 0.35, "of 3,439 words, of which the small CLIP has learned some fifty"


@pytest.mark.parametrize("space", SPACES)
def test_label_score_ranks_the_right_label_above_a_random_one(world: World, space: str, tmp_path: Path) -> None:
    """The random one is that of another feature, and wrong; the control compares two random ones."""
    pure = world.pure[space]
    rng = np.random.default_rng(1)
    right = {feature: sorted(values)[0] for feature, values in pure.items()}
    wrong = [{f: str(rng.choice([r for r in right.values() if r not in pure[f]])) for f in pure} for _ in range(2)]
    answers = {"right": right, "wrong": wrong[0], "other": wrong[1]}
    scores = {name: world.score(space, name, labels, tmp_path) for name, labels in answers.items()}
    assert {frame.height for frame in scores.values()} == {len(pure)}
    auc = {name: frame["auc"].to_numpy() for name, frame in scores.items()}
    beats = np.mean((auc["right"] > auc["wrong"]) + 0.5 * (auc["right"] == auc["wrong"]))
    control = np.mean((auc["other"] > auc["wrong"]) + 0.5 * (auc["other"] == auc["wrong"]))
    means = {name: (frame["auc"].mean(), frame["balanced_accuracy"].mean()) for name, frame in scores.items()}
    print(f"{space}: right above random {beats:.3f}; random above random {control:.3f}; AUC and accuracy {means}")
    print(f"  beats_random {scores['right']['beats_random'].mean():.3f} {scores['wrong']['beats_random'].mean():.3f}")
    assert beats >= 0.95
    assert 0.25 <= control <= 0.75
    assert means["right"][0] >= 0.85 and means["right"][1] >= 0.75
    assert 0.4 <= means["wrong"][0] <= 0.6 and 0.4 <= means["wrong"][1] <= 0.6


def test_labels_of_features_that_mean_nothing_score_low(world: World, world_words: str) -> None:
    """Controls: a dictionary of an untrained CLIP, and the trained features' numbers on other images.

    The untrained CLIP still tells bright from dark and one colour from another, so its labels say something; those of
    the shuffled features say nothing but for the images by which they were chosen.
    """
    warehouse = world.warehouse
    images = list(range(warehouse.images().height))
    trained_nf = warehouse.sparse_matrix("cls").toarray()
    warehouse.import_features("untrained", untrained_features(warehouse, images), images)
    warehouse.import_features("shuffled", trained_nf[np.random.default_rng(0).permutation(len(images))], images)
    figures = {}
    for space in ("cls", "untrained", "shuffled"):
        warehouse.analyze("concepts", space)
        warehouse.analyze("labels", space, vocabulary=world_words, n=300)
        warehouse.analyze("label_score", space, labeler="vocabulary")
        found = warehouse.sql("FROM label_score WHERE space = $space AND labeler = 'vocabulary'", {"space": space})
        enough = found.filter((found["n_positive"] >= 20) & (found["n_negative"] >= 20))
        assert enough.height >= 40
        figures[space] = {name: enough[name].mean() for name in ("auc", "balanced_accuracy", "beats_random")}
        print(space, enough.height, figures[space])
    assert figures["cls"]["auc"] >= 0.88
    assert figures["untrained"]["auc"] <= figures["cls"]["auc"] - 0.1
    assert 0.4 <= figures["shuffled"]["auc"] <= 0.6 and 0.4 <= figures["shuffled"]["balanced_accuracy"] <= 0.6


def untrained_features(warehouse: Any, images: list[int]) -> Array:
    """The dictionary that was trained in the same way on a CLIP with initial weights."""
    from glasshouse.plugins.starter.activations import clip_activations
    from glasshouse.plugins.starter.dictionary import Dictionary
    from glasshouse.plugins.starter.models import clip_vocab_size, data_folder, new_clip

    pictures_nhwc = np.stack([np.asarray(warehouse.picture(image)) for image in images])
    cls_nd = clip_activations(new_clip(clip_vocab_size(), 0), pictures_nhwc).cls_nd
    return np.asarray(Dictionary.load(data_folder("control-sae-cls")).encode(cls_nd).detach())
