"""The parent of a feature, and what its vector has that its siblings' have not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from glasshouse.plugins.analyzers.label_questions import result_or_none
from glasshouse.plugins.labelers.vocabulary import unit_rows

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

Floats = npt.NDArray[np.float64]

SAME = 1e-6
"""What is left of a unit vector is rounding below this length: the two are the same."""


class Parents(NamedTuple):
    """Each child's parent, and what said so: `cooccurrence`, or the rule of `hierarchy`."""

    of: Mapping[int, int]
    rule: Mapping[int, str]


def parents_of(view: AnalysisView, pairs: pl.DataFrame, threshold: float) -> Parents:
    """Return parents from the newest `hierarchy` of the space; where there is none, by the published rule.

    As published, i is a child of j where D̂_ij is above the threshold. Of several j the one of largest D̂ counts, the
    lower feature of equal ones; only such with D̂_ji < D̂_ij, so that two never have each other as parents.

    Args:
        view: of the space.
        pairs: as `name_vectors.implications` gives them.
        threshold: of D̂.
    """
    edges = result_or_none(view, "hierarchy")
    if edges is not None:
        edges = edges.filter("is_tree_edge").with_columns(is_tested=pl.col("rule") == "tested")
        edges = edges.sort(["feature_id", "is_tested", "parent_feature_id"], descending=[False, True, False])
        edges = edges.select("feature_id", "parent_feature_id", rule="rule")
    else:
        edges = pairs.filter((pl.col("d_hat") > threshold) & (pl.col("reverse") < pl.col("d_hat")))
        edges = edges.sort(["feature_id", "d_hat", "other_feature_id"], descending=[False, True, False])
        edges = edges.select("feature_id", parent_feature_id="other_feature_id", rule=pl.lit("cooccurrence"))
    edges = edges.unique("feature_id", keep="first", maintain_order=True)
    return Parents(
        dict(edges.select("feature_id", "parent_feature_id").iter_rows()),
        dict(edges.select("feature_id", "rule").iter_rows()),
    )


def differences(own_fe: Floats, parents: Parents) -> dict[int, Floats]:
    """Return of each child the unit vector [E] of what sets it apart.

    It is the feature's unit vector without its part along the mean of its siblings' unit vectors; of an only child,
    without that along its parent. Children of which nothing is left, and those without a vector, have none.

    Args:
        own_fe: unit vectors [F, E], zeros where a feature has none.
        parents: of the features.
    """
    children: dict[int, list[int]] = {}
    for child, parent in parents.of.items():
        if own_fe[child].any():
            children.setdefault(parent, []).append(child)
    found = {}
    for parent, family in children.items():
        sum_e = own_fe[family].sum(axis=0)
        for child in family:
            common_e = sum_e - own_fe[child] if len(family) > 1 else own_fe[parent]
            common_e = unit_rows(common_e[None, :])[0]
            left_e = own_fe[child] - (own_fe[child] @ common_e) * common_e
            if np.linalg.norm(left_e) > SAME:
                found[child] = unit_rows(left_e[None, :])[0]
    return found


def words_apart(name: str, parent_name: str) -> str | None:
    """Return the words of a name that the parent's has not, as they are written; None where none is left."""
    theirs = set(parent_name.casefold().split())
    left = [word for word in name.split() if word.casefold() not in theirs]
    return " ".join(left) or None
