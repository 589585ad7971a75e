"""What each feature of a patch space stands for, by the masks of the rendered world: the truth of hierarchies.

A set of values is true of a patch where the masks of all of them are. Every set holds what its values imply: red is
warm, an object and a thing; a door is its house. A feature *shows* the values that (nearly) all of its strongest
patches have; it *detects* the one value, or pair of values, whose patches it finds best, where it finds them well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.ndimage import maximum_filter
from scipy.stats import rankdata

from glasshouse.plugins.analyzers.mask_patches import MaskGrid
from glasshouse.plugins.starter.world.vocabulary import (
    GENERAL_WORDS,
    OBJECT_ATTRIBUTES,
    PARTS,
    SCENE_ATTRIBUTES,
    STRIPE_KINDS,
    WHOLES,
)
from glasshouse.plugins.view import AnalysisView
from glasshouse.warehouse.intake.masks import decode_mask

PURE, STRONGEST, MIN_PATCHES = 0.8, 0.5, 20
"""Purity over chance; the strongest patches are those of half the maximum or more, or the first 20."""

DETECTS, CORE, MIN_TRUE = 0.9, 0.25, 100
"""AUC of a detector; the share of a patch that makes it a value's; true patches of a set, at least."""

Bools = npt.NDArray[np.bool_]
Values = frozenset[str]
BACKGROUNDS = ("background_colour", "background_pattern")


def _implications() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"object": {"thing"}}
    for word in (*GENERAL_WORDS, *(v for values in OBJECT_ATTRIBUTES.values() for v in values)):
        found[word] = {"object", "thing", *(w for w, members in GENERAL_WORDS.items() if word in members)}
    for kind in STRIPE_KINDS:
        found[kind] = {"striped", "object", "thing"}
    for whole, parts in WHOLES.items():
        found[whole] = {"thing"}
        found |= {part: {whole, "thing"} for part in parts}
    return found


IMPLIED = _implications()
ATTRIBUTE_OF = {
    **{v: a for a, values in OBJECT_ATTRIBUTES.items() for v in values},
    **{v: a for a in BACKGROUNDS for v in SCENE_ATTRIBUTES[a]},
    **dict.fromkeys(STRIPE_KINDS, "texture"),
    **dict.fromkeys(("polygon", "round"), "shape"),
    **dict.fromkeys(("warm", "cool"), "colour"),
}
"""Values of one attribute make no pair."""


def closed(values: Iterable[str]) -> Values:
    """Return values with all that they imply."""
    given = set(values)
    return frozenset(given.union(*(IMPLIED.get(value, ()) for value in given)))


def covers(view: AnalysisView) -> dict[str, npt.NDArray[np.float32]]:
    """Return of each value which share of each patch its masks cover, float32 [images, tokens]."""
    rows, columns = view.grid or (1, 1)
    grid = MaskGrid((rows, columns), view.warehouse.space(view.space).framing)
    found: dict[str, npt.NDArray[np.float32]] = {}

    def add(value: str, image: int, cover_t: npt.NDArray[np.float32]) -> None:
        map_nt = found.setdefault(value, np.zeros((view.n_images, rows * columns), dtype=np.float32))
        map_nt[image] = np.maximum(map_nt[image], cover_t)

    for row in view.warehouse.sql("FROM annotations WHERE mask_rle IS NOT NULL").to_dicts():
        cover_t = grid.cover(decode_mask(row["mask_height"], row["mask_width"], row["mask_rle"]))
        for value in values_of(row):
            add(value, row["image_id"], cover_t)
    labels = view.warehouse.sql("FROM image_labels")
    for attribute in BACKGROUNDS:
        for value in SCENE_ATTRIBUTES[attribute]:
            of_value = (labels["attribute"] == attribute) & (labels["value"] == value)
            for image in labels.filter(of_value)["image_id"].to_list():
                add(value, image, np.ones(rows * columns, dtype=np.float32))
    return found


def values_of(row: Mapping[str, Any]) -> set[str]:
    """Return the values of an annotation: its category, its attributes, and what these imply."""
    given = row["attributes"]
    attributes = (json.loads(given) if isinstance(given, str) else given) or {}
    category = str(row["category"])
    is_object = category in OBJECT_ATTRIBUTES["shape"]
    named = {str(v) for name, v in attributes.items() if is_object and name in (*OBJECT_ATTRIBUTES, "stripes")}
    own = closed({category} | named)
    # A part's mask says where the part is; its whole has a mask of its own.
    return {category} if category in PARTS else set(own)


class PatchTruth:
    """What the features of a space show and detect.

    Args:
        view: of a patch space whose images have the world's annotations and labels.
    """

    def __init__(self, view: AnalysisView) -> None:
        self._grid = view.grid or (1, 1)
        cover = covers(view)
        self.values = list(cover)
        self._core_vp = np.stack([cover[v].ravel() >= CORE for v in self.values])
        self._near_vp = np.stack([self._near(v, cover[v]) for v in self.values])
        self._on_image_vn = np.stack([cover[v].any(axis=1) for v in self.values])
        chance = self._on_image_vn.mean(axis=1)
        # A picture says nothing of parts, which nearly every whole has, nor of what most pictures show.
        self._by_image_v = np.array([v not in PARTS and c < 0.5 for v, c in zip(self.values, chance, strict=True)])
        self._sets = list(self._candidate_sets())
        self._true_ps = np.stack([self._core_vp[list(s)].all(axis=0) for s in self._sets], axis=1)
        self._known_ps = self._true_ps | ~np.stack([self._near_vp[list(s)].all(axis=0) for s in self._sets], axis=1)
        self._n_true_s = self._true_ps.sum(axis=0)
        codes = _codes(view, self._core_vp.shape[1])
        self.shows: list[Values] = []
        self.detects: list[Values] = []
        self.auc: list[float] = []
        for feature in range(view.n_features):
            inside = slice(codes.indptr[feature], codes.indptr[feature + 1])
            patch_r, value_r = codes.indices[inside], codes.data[inside]
            shows, detects, auc = closed(()), closed(()), 0.0
            if len(patch_r) >= MIN_PATCHES:
                shows, (detects, auc) = self._shows(patch_r, value_r), self._detects(patch_r, value_r)
            self.shows.append(shows)
            self.detects.append(detects if auc >= DETECTS else closed(()))
            self.auc.append(auc)

    def _near(self, value: str, cover_nt: npt.NDArray[np.float32]) -> Bools:
        """Patches that a value touches, and those beside them: features spill over; parts are smaller than that."""
        if value in PARTS:
            return np.asarray(cover_nt.ravel() > 0)
        stack = cover_nt.reshape(-1, *self._grid)
        return np.asarray(maximum_filter(stack, size=(1, 3, 3)).ravel() > 0)

    def _candidate_sets(self) -> Iterable[tuple[int, ...]]:
        for number, _ in enumerate(self.values):
            if self._core_vp[number].sum() >= MIN_TRUE:
                yield (number,)
        for one, other in combinations(range(len(self.values)), 2):
            first, second = ATTRIBUTE_OF.get(self.values[one]), ATTRIBUTE_OF.get(self.values[other])
            is_pair = first is not None and second is not None and first != second
            if is_pair and (self._core_vp[one] & self._core_vp[other]).sum() >= MIN_TRUE:
                yield (one, other)

    def _shows(self, patch_r: npt.NDArray[np.int32], value_r: npt.NDArray[np.float32]) -> Values:
        strongest = patch_r[value_r >= STRONGEST * value_r.max()]
        if len(strongest) < MIN_PATCHES:
            strongest = patch_r[np.argsort(-value_r, kind="stable")[:MIN_PATCHES]]
        image_r = strongest // (self._grid[0] * self._grid[1])
        on_patch_v = _over_chance(self._near_vp[:, strongest], self._near_vp)
        on_image_v = _over_chance(self._on_image_vn[:, image_r], self._on_image_vn)
        is_shown_v = (on_patch_v >= PURE) | (self._by_image_v & (on_image_v >= PURE))
        return closed(self.values[v] for v in np.flatnonzero(is_shown_v))

    def _detects(self, patch_r: npt.NDArray[np.int32], value_r: npt.NDArray[np.float32]) -> tuple[Values, float]:
        """Return the set of largest F1 at its best threshold, and the AUC of its patches against all others."""
        ranked = patch_r[np.argsort(-value_r, kind="stable")]
        n_above = np.unique(np.geomspace(min(10, len(ranked)), len(ranked), 30).astype(int))
        starts = np.concatenate([[0], n_above[:-1]])
        hits_ks, known_ks = (
            np.cumsum(np.add.reduceat(table_ps[ranked], starts, axis=0, dtype=np.int32), axis=0)
            for table_ps in (self._true_ps, self._known_ps)
        )
        best = int((2 * hits_ks / (known_ks + self._n_true_s)).max(axis=0).argmax())
        strength_p = np.zeros(self._core_vp.shape[1], dtype=np.float32)
        strength_p[patch_r] = value_r
        known = self._known_ps[:, best]
        auc = _auc(strength_p[known], self._true_ps[known, best])
        return closed(self.values[v] for v in self._sets[best]), auc


def _codes(view: AnalysisView, n_patches: int) -> scipy.sparse.csc_array:
    with view.connection() as connection:
        found = connection.sql("SELECT image_id, token, feature_id, value FROM token_activations").fetchnumpy()
    patch_r = found["image_id"].astype(np.int64) * (n_patches // view.n_images) + found["token"]
    return scipy.sparse.csc_array((found["value"], (patch_r, found["feature_id"])), shape=(n_patches, view.n_features))


def _over_chance(true_vr: Bools, all_vp: Bools) -> npt.NDArray[np.float64]:
    """Share of true ones over what chance gives, 1 for all; 0 where everything is true."""
    chance_v = all_vp.mean(axis=1)
    room_v = np.where(chance_v < 1, 1 - chance_v, 1)
    return np.asarray((true_vr.mean(axis=1) - chance_v) / room_v)


def _auc(values: npt.NDArray[np.float32], is_true: Bools) -> float:
    n_true = int(is_true.sum())
    ranks = rankdata(values)[is_true].sum() - n_true * (n_true + 1) / 2
    return float(ranks / (n_true * (len(values) - n_true)))
