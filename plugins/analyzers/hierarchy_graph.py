"""A hierarchy as a graph without cycles: which edges agree with the order, which are direct, which make the forest.

Edges go from the smaller feature to the larger, by patches; of equal ones the lower id is the larger. What goes the
other way is no edge of the graph, so that there are no cycles. An edge is direct when no path leads from the child to
the parent by way of another feature (transitive reduction). In the forest each feature keeps its best direct edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Edge(NamedTuple):
    """A child and its parent, by their ids.

    Attributes:
        is_sure: whether it may only be replaced by a path of sure edges (those whose kind is told).
        strength: of a child's direct edges the surest, then the strongest is that of the forest.
    """

    child: int
    parent: int
    is_sure: bool
    strength: float


class Standing(NamedTuple):
    """Where each edge stands, in the order given: [edges] each."""

    is_in_order: npt.NDArray[np.bool_]
    is_direct: npt.NDArray[np.bool_]
    is_tree_edge: npt.NDArray[np.bool_]


def arranged(edges: Sequence[Edge], size_of: Mapping[int, int]) -> Standing:
    """Find out which edges belong to the graph, are direct, and make the forest.

    Args:
        edges: at most one from each child to each parent.
        size_of: patches of each feature that an edge names.
    """
    features = {feature for edge in edges for feature in edge[:2]}
    # A feature's rank among all, the largest first, is its bit in sets of ancestors: common ancestors keep them short.
    rank = {f: n for n, f in enumerate(sorted(features, key=lambda f: (-size_of[f], f)))}
    is_in_order = np.array([rank[e.parent] < rank[e.child] for e in edges], dtype=np.bool_)
    is_direct, is_tree = np.zeros(len(edges), dtype=np.bool_), np.zeros(len(edges), dtype=np.bool_)
    by_child: dict[int, list[int]] = {}
    for number in np.flatnonzero(is_in_order).tolist():
        by_child.setdefault(edges[number].child, []).append(number)
    above: dict[int, int] = {}
    surely_above: dict[int, int] = {}
    for child in sorted(by_child, key=rank.__getitem__):
        numbers = by_child[child]
        beyond, surely_beyond = 0, 0
        for edge in (edges[number] for number in numbers):
            beyond |= above.get(edge.parent, 0)
            if edge.is_sure:
                surely_beyond |= surely_above.get(edge.parent, 0)
        above[child], surely_above[child] = beyond, surely_beyond
        for number in numbers:
            bit = 1 << rank[edges[number].parent]
            above[child] |= bit
            if edges[number].is_sure:
                surely_above[child] |= bit
            is_direct[number] = not (surely_beyond if edges[number].is_sure else beyond) & bit
        direct = [number for number in numbers if is_direct[number]]
        is_tree[max(direct, key=lambda n: (edges[n].is_sure, edges[n].strength, -edges[n].parent))] = True
    return Standing(is_in_order, is_direct, is_tree)
