"""Names: is a pure patch feature called what its strongest images show, and is a child told from its parent?

Right is a word that all but a tenth over chance of a feature's 20 strongest images show, of the 36 values, the kinds
of stripes, wholes and parts; general words (polygon, warm, …) count as wrong, since a value says more. Strictly right
is one of the 36 alone: the measure by which labels are judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from glasshouse.plugins.starter.measures import PURE, purity_table
from glasshouse.plugins.starter.world.vocabulary import (
    ALL_VALUES,
    CORE_ATTRIBUTES,
    CORE_VALUES,
    GENERAL_WORDS,
    PARTS,
    STRIPE_KINDS,
    WHOLES,
)

N_SHUFFLES = 20
METHODS = ("plain", "published")
WORDS = tuple(value for value in ALL_VALUES if value not in GENERAL_WORDS)
_ATTRIBUTE = {
    **{value: attribute for attribute, values in CORE_ATTRIBUTES.items() for value in values},
    **dict.fromkeys(STRIPE_KINDS, "stripes"), **dict.fromkeys(WHOLES, "whole"), **dict.fromkeys(PARTS, "part"),
}  # fmt: skip


class NameTruth(NamedTuple):
    """Of the pure features of a space.

    Attributes:
        n_pure: how many there are: pure in one of the 36 values.
        right: share whose name is right.
        strict: share whose name is strictly right.
        mixed: share whose name is right, names of other features given to each.
        n_values: how many different words are names that are right.
    """

    n_pure: int
    right: float
    strict: float
    mixed: float
    n_values: int


class ApartTruth(NamedTuple):
    """Of the pure children that show something that their parent does not.

    Attributes:
        n: how many there are.
        right: share whose difference is right, and not of the parent.
        own: the same of their own plain names.
        mixed: the same of other children's differences.
        n_children: children of any kind.
        unique: share of the children whose distinguishing name no other child of the parent has.
        own_unique: the same of their own names.
    """

    n: int
    right: float
    own: float
    mixed: float
    n_children: int
    unique: float
    own_unique: float


def values_shown(warehouse: Any, space: str) -> list[set[str]]:
    """Return of each feature of a space the words that are right for it."""
    labels = warehouse.sql("SELECT image_id, attribute, value FROM image_labels")
    n_images = warehouse.images().height
    true_nv = np.zeros((n_images, len(WORDS)), dtype=bool)
    for place, word in enumerate(WORDS):
        value = "present" if word == "watermark" else word
        fits = (labels["attribute"] == _ATTRIBUTE[word]) & (labels["value"] == value)
        true_nv[labels.filter(fits)["image_id"].to_numpy(), place] = True
    codes_nf = warehouse.sparse_matrix(space).toarray()
    purity_fv = purity_table(codes_nf, true_nv)
    return [{WORDS[v] for v in np.flatnonzero(row_v >= PURE)} for row_v in purity_fv]


def name_rows(warehouse: Any, space: str, words: str, method: str, **parameters: Any) -> dict[int, dict[str, Any]]:
    """Run `names` with a vocabulary file; return its rows by feature."""
    report = warehouse.analyze("names", space, vocabulary=words, method=method, **parameters)[-1]
    return {row["feature_id"]: row for row in warehouse.result_rows(report.run).to_dicts()}


def right_names(rows: Mapping[int, Mapping[str, Any]], shown: Sequence[set[str]]) -> NameTruth:
    """Compare names with what the features show."""
    core = set(CORE_VALUES)
    pure = [feature for feature, values in enumerate(shown) if values & core]
    names = [rows[feature]["name"] for feature in pure]
    rng = np.random.default_rng(0)
    mixed = [share(rng.permutation(names).tolist(), [shown[f] for f in pure]) for _ in range(N_SHUFFLES)]
    return NameTruth(
        len(pure),
        share(names, [shown[feature] for feature in pure]),
        share(names, [shown[feature] & core for feature in pure]),
        float(np.mean(mixed)),
        len({name for name, feature in zip(names, pure, strict=True) if name in shown[feature]}),
    )


def right_differences(rows: Mapping[int, Mapping[str, Any]], shown: Sequence[set[str]]) -> ApartTruth:
    """Compare what is said to set children apart with what they show and their parents do not."""
    children = {f: row["parent_feature_id"] for f, row in rows.items() if row["difference"] is not None}
    core = set(CORE_VALUES)
    judged = {f: shown[f] - shown[p] for f, p in children.items() if shown[f] & core and shown[f] - shown[p]}
    said = [rows[feature]["difference"] for feature in judged]
    rng = np.random.default_rng(0)
    mixed = [share(rng.permutation(said).tolist(), list(judged.values())) for _ in range(N_SHUFFLES)]
    return ApartTruth(
        len(judged),
        share(said, list(judged.values())),
        share([rows[feature]["name"] for feature in judged], list(judged.values())),
        float(np.mean(mixed)) if mixed else 0.0,
        len(children),
        unique_share(children, {f: rows[f]["distinguishing_name"] for f in children}),
        unique_share(children, {f: rows[f]["name"] for f in children}),
    )


def share(said: Sequence[str], right: Sequence[set[str]]) -> float:
    """Share of words that are right; 0 of none."""
    return float(np.mean([word in values for word, values in zip(said, right, strict=True)])) if said else 0.0


def unique_share(parents: Mapping[int, int], names: Mapping[int, str]) -> float:
    """Share of the children whose name no other child of the same parent has."""
    counts = Counter((parents[feature], name) for feature, name in names.items())
    return float(np.mean([counts[parents[f], name] == 1 for f, name in names.items()])) if names else 0.0


class CaptionTruth(NamedTuple):
    """Of captions, means over images: the share of their words that are true of the image, and of its values said.

    `…_shuffled` is the same of the caption of the next image.
    """

    precision: float
    recall: float
    precision_shuffled: float
    recall_shuffled: float


def right_captions(warehouse: Any, space: str, images: Sequence[int]) -> CaptionTruth:
    """Compare captions with what was rendered; general words count where they are true, and are not asked for.

    Nor are positions, which captions say as regions and not as concepts.
    """
    labels = warehouse.sql("SELECT image_id, attribute, value FROM image_labels WHERE attribute <> 'split'")
    true: dict[int, set[str]] = {}
    for image, attribute, value in labels.iter_rows():
        word = "watermark" if (attribute, value) == ("watermark", "present") else value
        true.setdefault(image, set()).add(word)
    said = [{concept.name for concept in warehouse.caption(image, space).concepts} for image in images]
    core = set(CORE_VALUES) - set(CORE_ATTRIBUTES["position"])

    def means(shift: int) -> tuple[float, float]:
        pairs = [(said[(place + shift) % len(said)], true[image]) for place, image in enumerate(images)]
        precision = np.mean([len(words & facts) / len(words) for words, facts in pairs if words])
        recall = np.mean([len(words & facts & core) / len(facts & core) for words, facts in pairs])
        return float(precision), float(recall)

    return CaptionTruth(*means(0), *means(1))
