"""Labels: does the vocabulary name pure features right, and does `label_score` know right from wrong?"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmarks.truth.world import SHUFFLED, TABLE, Floats, World
from glasshouse.plugins.starter.world.captions import prompt
from glasshouse.plugins.starter.world.vocabulary import CORE_VALUES

N_SHUFFLES = 20
N_SCORED = 20
"""Images on which a feature is active, and on which it is silent, at least: fewer say little of its label."""


class Named(NamedTuple):
    """Of the pure features of a space the share whose label is one of their values.

    `right` with the world's words, `default` with the default vocabulary, `shuffled` with other features' labels.
    """

    n_pure: int
    right: float
    default: float
    shuffled: float


class Ranked(NamedTuple):
    """How often a right label scores above another feature's, and one of these above another; ties count by half.

    Means by kind of label: `auc`, `balanced_accuracy` and `beats_random`, of `right`, `wrong` and `other`.
    """

    n: int
    right_above_wrong: float
    other_above_wrong: float
    means: dict[str, dict[str, float]]


def named(world: World, space: str) -> Named:
    """How often the vocabulary labeler is right about pure features."""
    pure = world.pure(space)
    labels = vocabulary_labels(world, space, pure, world.words)
    rng = np.random.default_rng(0)
    mixed = [dict(zip(pure, rng.permutation(list(labels.values())), strict=True)) for _ in range(N_SHUFFLES)]
    return Named(
        len(pure),
        share_right(labels, pure),
        share_right(vocabulary_labels(world, space, pure, None), pure),
        float(np.mean([share_right(one, pure) for one in mixed])),
    )


def vocabulary_labels(world: World, space: str, features: Collection[int], words: str | None) -> dict[int, str]:
    """Labels from a vocabulary file, None being the default list.

    They are those of that very run: all runs of the vocabulary labeler add to each other in the view `labels`.
    """
    world.warehouse.analyze("concepts", space)
    rows = world.rows("labels", space, features=tuple(features), vocabulary=words)
    labels = dict(rows.select("feature_id", "label").iter_rows())
    return {feature: labels[feature] for feature in features}


def share_right(labels: Mapping[int, str], pure: Mapping[int, set[str]]) -> float:
    """Share of the pure features whose label is one of their values."""
    return float(np.mean([labels[feature] in values for feature, values in pure.items()]))


def ranked(world: World, space: str) -> Ranked:
    """How `label_score` ranks a right label, and wrong ones, which are right for other features."""
    pure = world.pure(space)
    rng = np.random.default_rng(1)
    right = {feature: min(values) for feature, values in pure.items()}
    wrong, other = (
        {f: str(rng.choice([label for label in right.values() if label not in pure[f]])) for f in pure}
        for _ in range(2)
    )
    scores = {
        name: table_scores(world, space, name, labels)
        for name, labels in {"right": right, "wrong": wrong, "other": other}.items()
    }
    auc = {name: rows["auc"].to_numpy() for name, rows in scores.items()}
    return Ranked(
        len(auc["right"]),
        share_above(auc["right"], auc["wrong"]),
        share_above(auc["other"], auc["wrong"]),
        {name: means(rows) for name, rows in scores.items()},
    )


def table_scores(world: World, space: str, name: str, labels: Mapping[int, str]) -> Any:
    """Store labels as those of a model of that name; return their scores, a row for each feature in order."""
    file = world.folder / f"{space} {name}.json"
    file.write_text(json.dumps(labels), encoding="utf-8")
    given = {"labeler": TABLE, "model": name}
    world.warehouse.analyze("concepts", space)
    world.warehouse.analyze("labels", space, features=tuple(labels), vocabulary=str(file), **given)
    return world.rows("label_score", space, **given).sort("feature_id")


def share_above(one: Floats, other: Floats) -> float:
    """Share of pairs in which the first is larger; ties count by half."""
    return float(np.mean((one > other) + 0.5 * (one == other)))


def means(rows: Any) -> dict[str, float]:
    """Means of what `label_score` says of each label."""
    return {name: float(rows[name].mean()) for name in ("auc", "balanced_accuracy", "beats_random")}


def scores_of_labels(world: World, space: str) -> tuple[int, dict[str, float]]:
    """How well the vocabulary's labels of all features score that are active on enough images and silent on enough.

    Returns:
        How many features, and the means of `label_score`'s columns.
    """
    n_active_f = (world.codes(space) > 0).sum(axis=0)
    enough_f = (n_active_f >= N_SCORED) & (n_active_f <= world.n_images - N_SCORED)
    labels = vocabulary_labels(world, space, [int(feature) for feature in np.flatnonzero(enough_f)], world.words)
    rows = table_scores(world, space, "vocabulary", labels)
    return rows.height, means(rows)


def prompts(world: World) -> str:
    """A vocabulary file of the prompts of the 36 values."""
    return world.vocabulary("prompts", tuple(map(prompt, CORE_VALUES)))


def first_words(world: World, space: str, of: str) -> float:
    """Share of the pure features of space `of` whose first word of `soft_wpmi` in `space` is one of their values."""
    rows = world.rows("soft_wpmi", space, vocabulary=prompts(world)).filter(rank=0)
    word = dict(rows.select("feature_id", "word").iter_rows())
    return float(np.mean([word[f] in set(map(prompt, values)) for f, values in world.pure(of).items()]))


def shuffled(space: str) -> str:
    """Name of the space with the codes of `space`, each image's on another."""
    return f"{SHUFFLED}_{space}"
