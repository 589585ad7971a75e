"""A hierarchy as one HTML page: a tree that folds, with pictures. It needs no network and no script, and says so.

Pictures are bounded: a page with some of each of thousands of features is too large for a browser. Those nearest to the
roots get them, and the page says how many did.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from glasshouse.warehouse.atomic import replacing
from glasshouse.warehouse.showing.frame import page
from glasshouse.warehouse.showing.hierarchy_text import images_words, link_words, loose_words, summary
from glasshouse.warehouse.showing.plain import activation, escape
from glasshouse.warehouse.showing.thumbnails import Tally, Thumbnails, data_uri

if TYPE_CHECKING:
    from glasshouse.warehouse.showing.hierarchy import FeatureHierarchy, Step
    from glasshouse.warehouse.warehouse import Progress

SIDE = 72
"""Longer side of a picture, in pixels."""

N_OPEN = 2
"""Levels that are unfolded when the page opens."""

TREE_STYLE = """
.tree details,.tree .leaf{margin:.15em 0 .15em .3em;padding-left:.9em;border-left:1px solid var(--line)}
.tree summary,.tree .leaf{font-size:1em;opacity:1}
.tree summary:hover{color:var(--accent)}
.tree .row{display:inline-flex;flex-wrap:wrap;gap:.5em;align-items:center;vertical-align:middle;max-width:96%}
.tree img{display:block;border-radius:3px}
.tree .how{font-size:.78em;border:1px solid var(--line);border-radius:1em;padding:0 .6em;white-space:nowrap}
.tree .kind_of{border-color:#2a8f5b}.tree .part_of{border-color:#b3661b}
.tree .implied{border-style:dashed}
"""


def hierarchy_html(
    hierarchy: FeatureHierarchy,
    k: int = 3,
    n_pictures: int = 600,
    progress: Progress = lambda done, total: None,
    tally: Tally | None = None,
) -> str:
    """Return the forest as the text of one page.

    Args:
        hierarchy: what is shown.
        k: pictures of each feature.
        n_pictures: pictures in all; features near the roots come first.
        progress: told (features with pictures done, of how many).
        tally: where pictures are counted.
    """
    shown = _with_pictures(hierarchy, k, n_pictures)
    pictures = Thumbnails(hierarchy.warehouse, SIDE, tally)
    strips: dict[int, str] = {}
    for number, feature in enumerate(shown, start=1):
        strips[feature] = _strip(hierarchy, pictures, feature, k)
        progress(number, len(shown))
    title = f"{hierarchy.space}: hierarchy"
    lines = [f"<header><h1>{escape(title)}</h1><p>{escape(summary(hierarchy))}.</p>"]
    if hierarchy.is_stale:
        lines.append('<p class="note">Stale: what it read has changed since.</p>')
    if len(shown) < len(hierarchy.shown) and k:
        counted = f"Pictures of {len(shown):,} of {len(hierarchy.shown):,} features, those nearest to the roots."
        lines.append(f'<p class="note">{counted}</p>')
    lines.append(f'<p class="soft">{escape(_legend(hierarchy))}</p></header><section class="tree">')
    lines += _tree(hierarchy, strips)
    if hierarchy.loose:
        words = "Duplicates that are in no tree: " + ", ".join(loose_words(hierarchy)) + "."
        lines.append(f'<p class="soft">{escape(words)}</p>')
    lines.append('</section><footer class="soft"><p>Written by glasshouse.</p></footer>')
    return page(f"{title} – glasshouse", "\n".join(lines), TREE_STYLE)


def write_hierarchy(
    hierarchy: FeatureHierarchy,
    output: Path,
    k: int = 3,
    n_pictures: int = 600,
    progress: Progress = lambda done, total: None,
    tally: Tally | None = None,
) -> int:
    """Write the page in one step; return its size in bytes. As `hierarchy_html` otherwise.

    Raises:
        OSError: the file cannot be written.
    """
    text = hierarchy_html(hierarchy, k, n_pictures, progress, tally)
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return output.stat().st_size


def _with_pictures(hierarchy: FeatureHierarchy, k: int, n_pictures: int) -> list[int]:
    steps = sorted(hierarchy.steps(), key=lambda step: step.depth)
    return [step.feature.feature_id for step in steps[: n_pictures // k]] if k else []


def _strip(hierarchy: FeatureHierarchy, pictures: Thumbnails, feature: int, k: int) -> str:
    """Return a feature's strongest images under its map; those whose picture is gone are counted, not shown."""
    top = hierarchy.warehouse.top_images(hierarchy.space, feature, k).to_dicts()
    pictures.prepare(row["image_id"] for row in top)
    parts = []
    for row in top:
        made = pictures.heat(hierarchy.space, feature, row["image_id"], None)
        if made.image is not None:
            width, height = made.image.size
            title = escape(f"image {row['image_id']}: {row['path']}, {activation(row['value'])}")
            parts.append(f'<img src="{data_uri(made.image)}" width="{width}" height="{height}" alt="" title="{title}">')
    return "".join(parts)


def _tree(hierarchy: FeatureHierarchy, strips: dict[int, str]) -> Iterator[str]:
    """Yield the lines of the tree; elements are closed when a feature of the same or a lesser depth comes."""
    open_depths: list[int] = []
    for step in hierarchy.steps():
        while open_depths and open_depths[-1] >= step.depth:
            yield "</details>"
            open_depths.pop()
        is_cut = hierarchy.depth is not None and step.depth >= hierarchy.depth
        row = _row(hierarchy, step, strips)
        if is_cut or step.feature.feature_id not in hierarchy.children:
            yield f'<div class="leaf">{row}</div>'
        else:
            yield f"<details{' open' if step.depth < N_OPEN else ''}><summary>{row}</summary>"
            open_depths.append(step.depth)
    yield from ("</details>" for _ in open_depths)


def _row(hierarchy: FeatureHierarchy, step: Step, strips: dict[int, str]) -> str:
    feature = step.feature
    how = ""
    if step.link is not None:
        how = f'<span class="how {escape(step.link.kind or "published")}">{escape(link_words(step.link))}</span>'
    name = f"<b>{escape(feature.name)}</b>" if feature.name else ""
    ids = " = ".join(
        f"{hierarchy.space}:{n}" for n in (feature.feature_id, *hierarchy.twins.get(feature.feature_id, ()))
    )
    n_below = hierarchy.n_below.get(feature.feature_id, 0)
    facts = images_words(feature) + (f", {n_below:,} below" if n_below else "")
    return (
        f'<span class="row">{how}{name}<span class="id">{escape(ids)}</span><span class="soft">{escape(facts)}</span>'
        f"{strips.get(feature.feature_id, '')}</span>"
    )


def _legend(hierarchy: FeatureHierarchy) -> str:
    if hierarchy.rule == "published":
        return "D̂ is the share of the feature's activation that falls on patches where its parent is active too."
    return (
        "kind: it fills what its parent covers, in some pictures; part: it has its place within it; implied: where it "
        "is, its parent is, and no more is known. The figure: the share of its strong patches that the parent reaches."
    )
