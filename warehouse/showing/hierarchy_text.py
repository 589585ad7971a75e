"""A hierarchy as a tree of text for a terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from glasshouse.schema.plain import plain

if TYPE_CHECKING:
    from glasshouse.warehouse.showing.hierarchy import Feature, FeatureHierarchy, Link, Step

WORDS = {"kind_of": "kind", "part_of": "part", "implied": "implied", None: ""}
"""What stands before a child: how it belongs to its parent."""


def hierarchy_text(hierarchy: FeatureHierarchy) -> str:
    """Return a summary, a line, and the forest with one feature a line; without one, why, and the duplicates."""
    if hierarchy.is_empty:
        return "\n".join([nothing_words(hierarchy), *loose_words(hierarchy)])
    lines = [summary(hierarchy)]
    if hierarchy.is_stale:
        lines.append("stale: what it read has changed since")
    lines.append("")
    trunk: list[str] = []
    for step in hierarchy.steps():
        if step.depth == 0:
            trunk = []
            lines.append(_words(hierarchy, step))
            continue
        trunk = trunk[: step.depth - 1]
        lines.append("".join(trunk) + ("└─ " if step.is_last else "├─ ") + _words(hierarchy, step))
        trunk.append("   " if step.is_last else "│  ")
    if hierarchy.loose:
        lines += ["", *loose_words(hierarchy)]
    return "\n".join(lines).rstrip()


def nothing_words(hierarchy: FeatureHierarchy) -> str:
    """Say that there are no edges, and where there are some."""
    start = f"{plain(hierarchy.space)}, rule {hierarchy.rule}: no edges"
    other = "published" if hierarchy.rule == "tested" else "tested"
    if hierarchy.n_other_kinds:
        return f"{start} of this kind. Of other kinds there are {hierarchy.n_other_kinds:,}: leave --kind away."
    if hierarchy.n_other_rule:
        return f"{start}. The other rule has {_count(hierarchy.n_other_rule, 'edge')}: --rule {other}."
    return f"{start}, and none by the other rule: no feature's patches lie within another's often enough."


def images_words(feature: Feature) -> str:
    """Say on how many images a feature is active, and where that is nearly all."""
    return _count(feature.n_images, "image") + (": nearly everywhere" if feature.nearly_everywhere else "")


def loose_words(hierarchy: FeatureHierarchy) -> list[str]:
    """Name the duplicates that are in no tree, a pair a line."""
    space = plain(hierarchy.space)
    return [f"{space}:{one} = {space}:{other}" for one, other in hierarchy.loose]


def summary(hierarchy: FeatureHierarchy) -> str:
    """Say how many edges and trees there are, on one line."""
    kinds = Counter(link.kind for link in hierarchy.links)
    named = {"kind_of": "kind of", "part_of": "part of", "implied": "implied"}
    told = ", ".join(f"{kinds[kind]:,} {words}" for kind, words in named.items() if kinds[kind])
    same = f"; {_count(len(hierarchy.same), 'pair')} of duplicates" if hierarchy.same else ""
    edges = f"{_count(len(hierarchy.links), 'edge')}{f' ({told})' if told else ''}"
    trees = f"{_count(len(hierarchy.shown), 'feature')} in {_count(len(hierarchy.roots), 'tree')}"
    return f"{plain(hierarchy.space)}, rule {hierarchy.rule}: {edges}; shown: {trees}{same}"


def link_words(link: Link) -> str:
    """Say how a child belongs to its parent, and the figure that says how surely."""
    share = link.evidence.get("implied", link.evidence.get("d_hat"))
    figure = "" if share is None else f" {'D̂ ' if link.kind is None else ''}{share:.2f}"
    return f"{WORDS.get(link.kind, plain(link.kind))}{figure}".strip()


def _words(hierarchy: FeatureHierarchy, step: Step) -> str:
    feature = step.feature
    parts = [f"{link_words(step.link)} "] if step.link is not None else []
    parts.append(f"{plain(hierarchy.space)}:{feature.feature_id}")
    if feature.name:
        parts.append(f"“{plain(feature.name)}”")
    parts.append(f"({images_words(feature)})")
    twins = hierarchy.twins.get(feature.feature_id)
    if twins:
        parts.append("= " + ", ".join(f"{plain(hierarchy.space)}:{twin}" for twin in twins))
    is_cut = hierarchy.depth is not None and step.depth >= hierarchy.depth
    n_below = hierarchy.n_below.get(feature.feature_id, 0) if is_cut else 0
    if n_below:
        parts.append(f"… {n_below:,} below")
    return " ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
