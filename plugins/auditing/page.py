"""An audit as one HTML page: the scatter, flagged components with heat maps, the images that lean on them, the table.

Rules: those of `warehouse/showing/frame.py`; every text has gone through `escape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from glasshouse.plugins.analyzers.attribution_maps import attribution_maps
from glasshouse.plugins.analyzers.example_vectors import Examples
from glasshouse.plugins.auditing.gather import audit_rows, leaning_images
from glasshouse.plugins.auditing.scatter import Dot, scatter
from glasshouse.plugins.view import AnalysisView
from glasshouse.schema.errors import GlasshouseError
from glasshouse.warehouse.atomic import replacing
from glasshouse.warehouse.showing.fragments import picture, table
from glasshouse.warehouse.showing.frame import page
from glasshouse.warehouse.showing.overlay import heat_overlay
from glasshouse.warehouse.showing.plain import activation, escape
from glasshouse.warehouse.showing.thumbnails import Thumbnail, Thumbnails

if TYPE_CHECKING:
    import numpy.typing as npt

    from glasshouse.warehouse.results.records import Run
    from glasshouse.warehouse.warehouse import Progress, Warehouse

SIDE: Final = 112
N_PICTURES: Final = 6
N_LEANING: Final = 12
AUDIT_STYLE: Final = """
.scatter{max-width:100%;height:auto;font-size:12px;fill:currentColor}
.scatter .frame{fill:none;stroke:var(--line)}.scatter .even{stroke:currentColor;stroke-dasharray:4 4;opacity:.5}
.scatter circle{fill:currentColor;fill-opacity:.25;stroke:currentColor;stroke-opacity:.55}
.scatter circle.flagged{fill:var(--accent);fill-opacity:.55;stroke:var(--accent)}
.scatter .name{fill:var(--accent);font-weight:600}
"""

Maps = dict[tuple[int, int], "npt.NDArray[np.float32]"]


def write_audit(
    warehouse: Warehouse, run: Run, output: Path, k: int = 8, progress: Progress = lambda done, total: None
) -> int:
    """Write the page of an audit in one step; return its size in bytes.

    Args:
        warehouse: opened with plugins, where heat maps are to be had.
        run: of `audit`.
        output: the file.
        k: components that are shown with pictures, of the flagged and of the others each.
        progress: told components done.

    Raises:
        OSError: the file cannot be written.
    """
    text = audit_html(warehouse, run, k, progress)
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return output.stat().st_size


def audit_html(warehouse: Warehouse, run: Run, k: int, progress: Progress = lambda done, total: None) -> str:
    """Return the page as text; as `write_audit`."""
    rows = audit_rows(warehouse, run)
    flagged, others = rows.filter("is_flagged").head(k), rows.filter(~pl.col("is_flagged")).head(k)
    shown = _Shown(warehouse, run, [*flagged["feature_id"], *others["feature_id"]])
    class_name = str(run.facets["class_name"])
    parts = [
        f"<header><h1>Audit of “{escape(class_name)}”</h1>{_introduction(warehouse, run)}</header>",
        f"<section><h2>Valid against spurious</h2>{_legend(run)}{scatter(_dots(rows, run.space))}</section>",
        f"<section><h2>Flagged components</h2>{_cards(shown, flagged, progress) or _nothing(class_name)}</section>",
        f"<section><h2>Images that lean on them</h2>{_leaning(warehouse, run, shown)}</section>"
        if flagged.height
        else "",
        f"<section><h2>Other components that count</h2>{_cards(shown, others, progress)}</section>",
        f"<section><h2>All components</h2>{_table(rows, run.space)}</section>",
        f"<section><h2>What was asked</h2>{_asked(run)}</section>",
    ]
    return page(f"Audit of {class_name} – glasshouse", "".join(parts), AUDIT_STYLE)


def _introduction(warehouse: Warehouse, run: Run) -> str:
    record = warehouse.spaces().filter(name=run.space).to_dicts()[0]
    return (
        f"<p>{escape(run.notes['summary'])}.</p>"
        f'<p class="soft">{escape(record["encoder_spec"])}, components of {escape(record["hook"])} '
        f"({escape(record['sae_spec'])}); {record['n_images']:,} images.</p>"
    )


def _legend(run: Run) -> str:
    return (
        "<p>Each dot is a component: to the right the more alike a valid concept, upwards the more alike a spurious "
        f"one (cosines in the embedding “{escape(run.notes['embedding'])}”), the larger the more it counts for the "
        f"class ({escape(run.notes['relevance'])}). Above the dashed line it is more alike something spurious; flagged "
        f"ones, in colour, also have at least {run.notes['min_share']:.2%} of the relevance.</p>"
    )


def _dots(rows: pl.DataFrame, space: str) -> list[Dot]:
    return [
        Dot(
            row["label"] or f"{space}:{row['feature_id']}",
            row["valid"],
            row["spurious"],
            row["share"],
            row["is_flagged"],
        )
        for row in rows.iter_rows(named=True)
    ]


class _Shown:
    """Pictures of components: their strongest images under the map of where they are active."""

    def __init__(self, warehouse: Warehouse, run: Run, features: Sequence[int]) -> None:
        self.space = run.space
        self.thumbnails = Thumbnails(warehouse, SIDE)
        self._view = AnalysisView(warehouse, run.space)
        self._framing = warehouse.space(run.space).framing
        top = self._view.top_images(N_PICTURES).filter(pl.col("feature_id").is_in(list(features)))
        self._top = {key[0]: frame.to_dicts() for key, frame in top.group_by("feature_id", maintain_order=True)}
        self.thumbnails.prepare(top["image_id"])
        self._maps = self._all_maps(top)

    def _all_maps(self, top: pl.DataFrame) -> Maps:
        """Return the maps; none where the space's encoder has none or cannot be loaded any more."""
        columns = ("feature_id", "image_id", "value")
        examples = Examples(*(top[name].to_numpy() for name in columns))
        found: Maps = {}
        try:
            for maps in attribution_maps(self._view, examples, "map", "cpu"):
                found |= {(one.feature_id, one.image_id): one.map_hw for one in maps}
        except GlasshouseError:
            return {}
        return found

    def strip(self, feature: int) -> str:
        """Return a component's strongest images, all under one scale."""
        rows = self._top.get(feature, [])
        maximum = max((float(self._maps[key].max()) for key in self._maps if key[0] == feature), default=None)
        parts = []
        for row in rows:
            made = self.thumbnails.of(row["image_id"])
            map_hw = self._maps.get((feature, row["image_id"]))
            if made.image is not None and map_hw is not None:
                heat = heat_overlay(
                    made.image, map_hw, self._framing, maximum=maximum, original_size=made.original_size
                )
                made = Thumbnail(heat, made.original_size)
            parts.append(picture(made, activation(row["value"]), f"image {row['image_id']}"))
        return f'<div class="pics">{"".join(parts)}</div>'


def _cards(shown: _Shown, rows: pl.DataFrame, progress: Progress) -> str:
    cards = []
    for number, row in enumerate(rows.iter_rows(named=True)):
        label = f"{escape(row['label'])} " if row["label"] else ""
        cards.append(
            f'<article><h3>{label}<span class="id">{escape(shown.space)}:{row["feature_id"]}</span></h3>'
            f"<p>{row['share']:.1%} of the relevance; most alike “{escape(row['spurious_concept'])}” "
            f"({row['spurious']:.3f}) of the spurious, “{escape(row['valid_concept'])}” ({row['valid']:.3f}) of the "
            f"valid concepts</p>{shown.strip(row['feature_id'])}</article>"
        )
        progress(number + 1, rows.height)
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _nothing(class_name: str) -> str:
    return f'<p class="note">Nothing that counts for “{escape(class_name)}” is more alike a spurious concept.</p>'


def _leaning(warehouse: Warehouse, run: Run, shown: _Shown) -> str:
    found = leaning_images(warehouse, run, N_LEANING)
    shown.thumbnails.prepare(image.image_id for image in found)
    pictures = [
        picture(shown.thumbnails.of(image.image_id), f"{image.relevance:+.2f}", f"image {image.image_id}")
        for image in found
    ]
    return (
        "<p>Images of the class on which the flagged components count most; below each, what they add to its logit "
        f'together.</p><div class="pics">{"".join(pictures)}</div>'
    )


def _table(rows: pl.DataFrame, space: str) -> str:
    columns = ("component", "label", "share", "valid", "valid concept", "spurious", "spurious concept", "flagged")
    listed: list[tuple[Any, ...]] = [
        (
            f"{space}:{row['feature_id']}", row["label"], row["share"], row["valid"], row["valid_concept"],
            row["spurious"], row["spurious_concept"], "flagged" if row["is_flagged"] else "",
        )
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip
    return table(columns, listed)


def _asked(run: Run) -> str:
    asked = {name: value for name, value in run.parameters.items() if value not in (None, "", [], False)}
    return table(("parameter", "value"), [(name, str(value)) for name, value in asked.items()])
