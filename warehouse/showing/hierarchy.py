"""A hierarchy of features to look at: what `glasshouse show hierarchy` prints and writes.

Rules: nothing is computed here that belongs into a result; the graph has the direct edges only; in the forest each
feature has one parent; duplicates stand beside each other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from glasshouse.schema.errors import UsageError, unknown_name
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.results.views import result_views
from glasshouse.warehouse.showing.gather import has_view, labels_of, rows_of

if TYPE_CHECKING:
    from glasshouse.warehouse.reads import WarehouseReads

RULES = ("tested", "published")
KINDS = ("kind_of", "part_of", "implied")
EVERYWHERE = 0.9
"""Share of the space's images from which a feature is said to be nearly everywhere."""
EVIDENCE = ("d_hat", "n_both", "implied", "implies_back", "fills", "recurs", "lift", "expected", "q", "q_among_shared")
"""Columns of an edge's evidence that are handed on; those that are NULL are left out."""


class Feature(NamedTuple):
    """A feature of the hierarchy: its id, its name where it has one, images and patches on which it is active.

    `nearly_everywhere`: active on at least 90 % of the space's images, so that its name tells no kind of picture.
    """

    feature_id: int
    name: str | None
    n_images: int
    n_patches: int
    nearly_everywhere: bool = False


class Link(NamedTuple):
    """An edge; `kind` is None where the rule tells none; `evidence` by column."""

    child: int
    parent: int
    kind: str | None
    is_tree_edge: bool
    evidence: dict[str, Any]


class Step(NamedTuple):
    """A feature in the order of reading: its depth, the edge above it (None of roots), whether it is the last child."""

    feature: Feature
    depth: int
    link: Link | None
    is_last: bool


@dataclass(frozen=True)
class FeatureHierarchy:
    """What one rule found among the features of a space.

    Attributes:
        warehouse: where pictures are read from.
        space: its name.
        rule: `tested` or `published`.
        features: those that an edge names, by id.
        links: the direct edges, those of the forest among them.
        same: pairs of duplicates.
        is_stale: what was read has changed since.
        root: the only feature whose tree is shown; None for all.
        depth: how many levels of children are shown; None for all.
        n_other_kinds: edges of this rule that `kinds` left out.
        n_other_rule: edges of the other rule.
    """

    warehouse: WarehouseReads
    space: str
    rule: str
    features: dict[int, Feature]
    links: Sequence[Link]
    same: Sequence[tuple[int, int]] = ()
    is_stale: bool = False
    root: int | None = None
    depth: int | None = None
    n_other_kinds: int = 0
    n_other_rule: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is no tree: no edges; there may be duplicates."""
        return not self.links and self.root is None

    @cached_property
    def children(self) -> dict[int, list[Link]]:
        """The forest's edges by parent: told ones before implied ones, the most frequent child first."""
        found: dict[int, list[Link]] = {}
        for link in self.links:
            if link.is_tree_edge:
                found.setdefault(link.parent, []).append(link)
        for links in found.values():
            links.sort(key=lambda link: (link.kind == "implied", -self.features[link.child].n_patches, link.child))
        return found

    @cached_property
    def roots(self) -> list[int]:
        """The features with children and without a parent, the largest trees first; or the one that is asked for."""
        if self.root is not None:
            return [self.root]
        below = {link.child for links in self.children.values() for link in links}
        roots = [feature for feature in self.children if feature not in below]
        return sorted(roots, key=lambda root: (-self.n_below[root], -self.features[root].n_patches, root))

    @cached_property
    def n_below(self) -> dict[int, int]:
        """How many features lie below each one that has children, whatever `depth` says."""
        parent_of = {link.child: link.parent for links in self.children.values() for link in links}
        order = [feature for feature in self.children if feature not in parent_of]
        for feature in order:  # grows while it is read: parents before their children
            order += [link.child for link in self.children.get(feature, ())]
        sizes = dict.fromkeys(order, 0)
        for feature in reversed(order):
            if feature in parent_of:
                sizes[parent_of[feature]] += sizes[feature] + 1
        return {feature: sizes[feature] for feature in self.children}

    def steps(self) -> Iterator[Step]:
        """Yield the forest as it is read, each feature before its children, down to `depth`."""
        left = [Step(self.features[root], 0, None, True) for root in reversed(self.roots)]
        while left:
            step = left.pop()
            yield step
            if self.depth is not None and step.depth >= self.depth:
                continue
            links = self.children.get(step.feature.feature_id, [])
            for link in reversed(links):
                left.append(Step(self.features[link.child], step.depth + 1, link, link is links[-1]))

    @cached_property
    def twins(self) -> dict[int, list[int]]:
        """The duplicates of each feature that has any, ascending."""
        found: dict[int, list[int]] = {}
        for one, other in self.same:
            found.setdefault(one, []).append(other)
            found.setdefault(other, []).append(one)
        return {feature: sorted(others) for feature, others in found.items()}

    @cached_property
    def shown(self) -> set[int]:
        """The features that `steps` gives."""
        return {step.feature.feature_id for step in self.steps()}

    @cached_property
    def loose(self) -> list[tuple[int, int]]:
        """The duplicates neither of which is shown; none where a root is asked for."""
        return [pair for pair in self.same if self.root is None and self.shown.isdisjoint(pair)]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain data: features, direct edges among them, duplicates."""
        steps = {step.feature.feature_id: step for step in self.steps()}
        kept = set(steps)
        return {
            "space": self.space,
            "rule": self.rule,
            "stale": self.is_stale,
            "features": [
                {**step.feature._asdict(), "depth": step.depth, "parent": step.link.parent if step.link else None}
                for step in steps.values()
            ],
            "edges": [
                {"child": e.child, "parent": e.parent, "kind": e.kind, "is_tree_edge": e.is_tree_edge, **e.evidence}
                for e in self.links
                if e.child in kept and e.parent in kept
            ],
            "same": [list(pair) for pair in self.same if self.root is None or kept & set(pair)],
        }

    def __str__(self) -> str:
        from glasshouse.warehouse.showing.hierarchy_text import hierarchy_text

        return hierarchy_text(self)


def hierarchy_of(
    warehouse: WarehouseReads,
    space: str,
    rule: str = "tested",
    kinds: Collection[str] = (),
    root: int | None = None,
    depth: int | None = None,
) -> FeatureHierarchy:
    """Read the hierarchy of a space.

    Args:
        warehouse: that is read.
        space: its name.
        rule: `tested` or `published`.
        kinds: only edges of these kinds; all when empty.
        root: only what lies below this feature.
        depth: only so many levels below the roots.

    Raises:
        UsageError: no such space, rule, kind or root, or there is no result.
    """
    n_features = warehouse.space(space).n_features
    if root is not None and not 0 <= root < n_features:
        raise UsageError(f"The space '{space}' has no feature {root}: they run from 0 to {n_features - 1}.")
    for name, known, what in ((rule, RULES, "rule"), *((kind, KINDS, "kind of edge") for kind in kinds)):
        if name not in known:
            raise unknown_name(what, name, known)
    if kinds and rule == "published":
        raise UsageError("The rule 'published' tells no kinds: leave --kind away, or take --rule tested.")
    with warehouse.reading() as connection:
        views = result_views(connection)
        wanted = {"space": space, "rule": rule}
        of_space = "SELECT run_id FROM runs WHERE analyzer = 'hierarchy' AND space = $space"
        if not has_view(views, "hierarchy") or not connection.execute(of_space, {"space": space}).fetchall():
            raise UsageError(
                f"There is no hierarchy of the space '{space}'. Run `glasshouse analyze hierarchy --space {space}`."
            )
        rows = rows_of(connection, read_sql("queries/hierarchy_of_space.sql"), wanted)
        same = [(row["feature_id"], row["parent_feature_id"]) for row in rows if row["kind"] == "same"]
        direct = [_link(row) for row in rows if row["is_direct"]]
        links = [link for link in direct if not kinds or link.kind in kinds]
        of_other = "SELECT count(*) FROM hierarchy WHERE space = $space AND rule != $rule AND is_direct"
        ((n_other_rule,),) = connection.execute(of_other, wanted).fetchall()
        ids = {feature for link in links for feature in link[:2]} | {feature for pair in same for feature in pair}
        if root is not None:
            ids.add(root)
        names = labels_of(connection, space, ids)
        ((n_images,),) = connection.execute("SELECT n_images FROM spaces WHERE name = $s", {"s": space}).fetchall()
    features = _features(warehouse, space, sorted(ids), names, EVERYWHERE * n_images)
    found = FeatureHierarchy(warehouse, space, rule, features, links, same, any(row["stale"] for row in rows))
    return replace(
        found, root=root, depth=depth, n_other_kinds=len(direct) - len(links), n_other_rule=int(n_other_rule)
    )


def spaces_with_hierarchy(warehouse: WarehouseReads) -> list[str]:
    """Return the names of the spaces that have a result."""
    with warehouse.catalogue.reading() as connection:
        rows = connection.execute("SELECT DISTINCT space FROM runs WHERE analyzer = 'hierarchy' ORDER BY 1").fetchall()
    return [str(space) for (space,) in rows]


def _link(row: dict[str, Any]) -> Link:
    evidence = {name: row[name] for name in EVIDENCE if row.get(name) is not None}
    return Link(row["feature_id"], row["parent_feature_id"], row["kind"], row["is_tree_edge"], evidence)


def _features(
    warehouse: WarehouseReads, space: str, ids: Sequence[int], names: dict[int, str], least: float
) -> dict[int, Feature]:
    """Return the features by id; those active on `least` images and more are nearly everywhere."""
    statistics = warehouse.feature_statistics(space)
    rows = statistics.filter(statistics["feature_id"].is_in(ids)).select("feature_id", "n_active", "n_tokens")
    return {
        feature: Feature(feature, names.get(feature), int(n_images), int(n_patches or 0), n_images >= least)
        for feature, n_images, n_patches in rows.iter_rows()
    }
