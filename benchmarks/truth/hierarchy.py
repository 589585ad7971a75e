"""Hierarchies against the world's parts, kinds and specialisations: how many edges are right, how many are found.

An edge is right where the child stands for all that the parent stands for, and more: a red star is red, what is red is
an object, a window is of a house. What a feature stands for is what it detects, or where it detects nothing what it
shows (`patch_truth`). Edges one end of which stands for nothing that the world has a word for cannot be judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.truth.patch_truth import PatchTruth, Values, closed
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.starter.activations import clip_activations
from glasshouse.plugins.starter.dictionary import Dictionary
from glasshouse.plugins.starter.models import clip_vocab_size, data_folder, new_clip
from glasshouse.plugins.starter.world.vocabulary import GENERAL_WORDS, PARTS, STRIPE_KINDS, WHOLES
from glasshouse.plugins.starter.world.write import write_world
from glasshouse.plugins.view import AnalysisView
from glasshouse.warehouse.extraction.finalise import finalise_space
from glasshouse.warehouse.extraction.rows import shard_rows
from glasshouse.warehouse.extraction.shards import ShardFolder, ShardRecord
from glasshouse.warehouse.showing.pictures import pictures
from glasshouse.warehouse.warehouse import Warehouse

REPORTED_ON = 3
"""Seed of the world that figures are of; the limits of the rule were chosen on that of seed 0, on five dictionaries."""

TOLD = ("kind_of", "part_of")
Pair = tuple[int, int]


class Judged(NamedTuple):
    """Edges of a rule.

    Attributes:
        counts: right, same (both ends stand for the same), reversed, wrong, unknown (one end stands for nothing known).
        precision: right of all that can be judged.
        precision_told: the same without `same`: the world has no words for parts of a triangle or for a lower edge.
        recall: of true pairs of detectors, those that a path of edges joins; `n_true` of them.
        recall_shown: of true pairs of a child that shows something and a detector; `n_true_shown` of them.
        right_kind: of the right ones that are told, the share told right: a part as part_of, else kind_of.
    """

    counts: dict[str, int]
    precision: float
    precision_told: float
    recall: float
    n_true: int
    recall_shown: float
    n_true_shown: int
    right_kind: float


def masked_world(folder: Path, n_images: int, seed: int) -> Warehouse:
    """Render scenes with masks; spaces `patches`, `shuffled` (each feature's maps on other images) and `untrained`."""
    plugins = Plugins(external=False)
    write_world(folder / "world", n_images, seed)
    warehouse = Warehouse.create(folder / "w.glasshouse", plugins)
    given = folder / "world"
    warehouse.add([given / "images"], annotations=[given / "annotations.json"], labels=[given / "labels.csv"])
    preset = plugins.presets.get("starter")
    chosen = [(s.name, s.hook, s.tokens, s.sae) for s in preset.spaces if s.name == "patches"]
    warehouse.extract(preset.encoder, chosen)
    view = AnalysisView(warehouse, "patches")
    grid = view.grid or (1, 1)
    store_maps(warehouse, "shuffled", shuffled_codes(view), grid)
    store_maps(warehouse, "untrained", untrained_codes(warehouse), grid)
    return warehouse


def shuffled_codes(view: AnalysisView) -> npt.NDArray[np.float32]:
    """Return the activations [images, tokens, features] with the maps of each feature on other images."""
    rows, columns = view.grid or (1, 1)
    codes_ntf = np.zeros((view.n_images, rows * columns, view.n_features), dtype=np.float32)
    with view.connection() as connection:
        found = connection.sql("SELECT image_id, token, feature_id, value FROM token_activations").fetchnumpy()
    codes_ntf[found["image_id"], found["token"], found["feature_id"]] = found["value"]
    rng = np.random.default_rng(0)
    for feature in range(view.n_features):
        codes_ntf[:, :, feature] = codes_ntf[rng.permutation(view.n_images), :, feature]
    return codes_ntf


@torch.no_grad()
def untrained_codes(warehouse: Warehouse) -> npt.NDArray[np.float32]:
    """Return the activations [images, tokens, features] of the control dictionary on a CLIP with initial weights."""
    seen = [np.asarray(picture) for _, picture in pictures(warehouse, range(warehouse.images().height))]
    acts = clip_activations(new_clip(clip_vocab_size(), 0), np.stack(seen))
    dictionary = Dictionary.load(data_folder("control-sae-patches"))
    return np.stack([dictionary.encode(tokens_td).numpy() for tokens_td in acts.patches_ntd])


def store_maps(warehouse: Warehouse, name: str, codes_ntf: npt.NDArray[np.float32], grid: tuple[int, int]) -> None:
    """Store activations as a patch space of all images."""
    n_images, n_tokens, n_features = codes_ntf.shape
    with warehouse.catalogue.writing() as connection:
        connection.execute(
            "INSERT INTO spaces BY NAME SELECT $name AS name, $name AS fingerprint, 'patches' AS tokens, "
            "$n_features AS n_features, $rows AS grid_rows, $columns AS grid_columns, 'extracting' AS state, "
            "0 AS n_images, 0 AS n_activations, now() AT TIME ZONE 'UTC' AS created_at",
            {"name": name, "n_features": n_features, "rows": grid[0], "columns": grid[1]},
        )
    folder = warehouse.layout.shard_folder("space", name)
    folder.mkdir(parents=True)
    shards = ShardFolder(folder, name)
    for first in range(0, n_images, 100):
        ids = np.arange(first, min(first + 100, n_images))
        codes_nf = codes_ntf[ids].reshape(-1, n_features)
        row_n, feature_n = np.nonzero(codes_nf)
        table = shard_rows(row_n, feature_n, codes_nf[row_n, feature_n], ids, n_tokens, n_features)
        shards.write(table, ShardRecord(name, ids.tolist()))
    finalise_space(warehouse.layout, name, name, n_features, shards, has_tokens=True)


class HierarchyTruth:
    """The true pairs among the features of a space, and what is to be said of edges."""

    def __init__(self, warehouse: Warehouse, space: str) -> None:
        self.truth = PatchTruth(AnalysisView(warehouse, space))
        self.detectors = [f for f, values in enumerate(self.truth.detects) if values]
        self.true_pairs = {
            (child, parent)
            for child, shows in enumerate(self.truth.shows)
            if shows
            for parent in self.detectors
            if child != parent and self.judge(child, parent) == "right"
        }

    def meaning(self, feature: int) -> Values:
        """What a feature stands for as a parent: what it detects, else what it shows."""
        return self.truth.detects[feature] or self.truth.shows[feature]

    def judge(self, child: int, parent: int) -> str:
        """Say what an edge is: right, same, reversed, wrong or unknown."""
        one, other = self.truth.detects[child] | self.truth.shows[child], self.meaning(parent)
        if not one or not other:
            return "unknown"
        if one == other or self.meaning(child) == other:
            return "same"
        return "right" if other < one else "reversed" if one < other else "wrong"

    def judged(self, edges: Collection[tuple[int, int, str | None]]) -> Judged:
        """Judge (child, parent, kind) edges."""
        verdicts = {(child, parent): self.judge(child, parent) for child, parent, _ in edges}
        counts = Counter(verdicts.values())
        n_judged = sum(counts.values()) - counts["unknown"]
        joined = closure(verdicts)
        detected = {pair for pair in self.true_pairs if pair[0] in self.detectors}
        kinds = [kind == self._true_kind(c, p) for c, p, kind in edges if kind in TOLD and verdicts[c, p] == "right"]
        return Judged(
            {name: counts[name] for name in ("right", "same", "reversed", "wrong", "unknown")},
            _share(counts["right"], n_judged),
            _share(counts["right"], n_judged - counts["same"]),
            _share(len(detected & joined), len(detected)),
            len(detected),
            _share(len(self.true_pairs & joined), len(self.true_pairs)),
            len(self.true_pairs),
            _share(sum(kinds), len(kinds)),
        )

    def judged_by_chance(self, edges: Collection[tuple[int, int, str | None]], draws: int = 20) -> float:
        """Return the mean precision when features that stand for something stand for what another one does."""
        rng = np.random.default_rng(0)
        known = np.array([feature for feature in range(len(self.truth.shows)) if self.meaning(feature)])
        found = []
        for _ in range(draws):
            other = dict(zip(known.tolist(), rng.permutation(known).tolist(), strict=True))
            swapped = [(other.get(child, child), other.get(parent, parent), kind) for child, parent, kind in edges]
            found.append(self.judged(swapped).precision)
        return float(np.mean(found))

    def _true_kind(self, child: int, parent: int) -> str:
        parts = set(PARTS) & (self.truth.shows[child] | self.truth.detects[child])
        is_part = any(set(WHOLES) & self.meaning(parent) for _ in parts) and not set(PARTS) & self.meaning(parent)
        return "part_of" if is_part else "kind_of"

    def reached(self, edges: Collection[tuple[int, int, str | None]]) -> dict[tuple[str, str], str]:
        """Say of each relation of the world's words whether it is found, missed, or lacks a feature, and which."""
        joined = closure((child, parent) for child, parent, _ in edges)
        found = {}
        for one, other in relations():
            children = [f for f, s in enumerate(self.truth.shows) if one in s | self.truth.detects[f]]
            parents = [f for f in self.detectors if other in self.meaning(f) and one not in self.meaning(f)]
            parents = [f for f in parents if self.meaning(f) <= closed({other})]
            lacking = [word for word, features in ((one, children), (other, parents)) if not features]
            is_found = any((child, parent) in joined for child in children for parent in parents)
            found[one, other] = (
                f"no feature for {' and '.join(lacking)}" if lacking else "found" if is_found else "missed"
            )
        return found


def relations() -> list[tuple[str, str]]:
    """Return the world's parts and wholes, kinds of stripes, and values of general words."""
    pairs = [(part, whole) for whole, parts in WHOLES.items() for part in parts]
    pairs += [(kind, "striped") for kind in STRIPE_KINDS]
    return pairs + [(value, word) for word, members in GENERAL_WORDS.items() for value in sorted(members)]


def closure(edges: Iterable[Pair]) -> set[Pair]:
    """Return all pairs that a path joins."""
    parents: dict[int, set[int]] = {}
    for child, parent in edges:
        parents.setdefault(child, set()).add(parent)
    found: set[Pair] = set()
    for child in parents:
        left = [child]
        seen: set[int] = set()
        while left:
            for parent in parents.get(left.pop(), set()) - seen:
                seen.add(parent)
                left.append(parent)
        found |= {(child, parent) for parent in seen}
    return found


def edges_of(warehouse: Warehouse, space: str, rule: str, kinds: Collection[str] = ()) -> list[tuple[int, int, Any]]:
    """Return the edges that a rule gives; of `tested` those of some kinds. `same` is no edge."""
    warehouse.analyze("hierarchy", space)
    rows = warehouse.sql(
        "FROM hierarchy WHERE space = $space AND rule = $rule AND kind IS DISTINCT FROM 'same'",
        {"space": space, "rule": rule},
    )
    found = rows.select("feature_id", "parent_feature_id", "kind").rows()
    return [edge for edge in found if not kinds or edge[2] in kinds]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
