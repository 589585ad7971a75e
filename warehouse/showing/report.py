"""The report: one HTML page that says what a warehouse holds and what was found in it.

Rules: those of `frame.py`; every text has gone through `escape`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.atomic import replacing
from glasshouse.warehouse.showing import report_parts as parts
from glasshouse.warehouse.showing.findings import SpaceFindings, findings_of
from glasshouse.warehouse.showing.frame import page
from glasshouse.warehouse.showing.plain import escape
from glasshouse.warehouse.showing.report_parts import Pages
from glasshouse.warehouse.summary import summarise

if TYPE_CHECKING:
    from glasshouse.warehouse.reads import WarehouseReads
    from glasshouse.warehouse.showing.findings import Scored
    from glasshouse.warehouse.showing.thumbnails import Tally
    from glasshouse.warehouse.warehouse import Progress


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows.

    Attributes:
        spaces: names; all finished ones when empty.
        n: features in each list.
        k: pictures of each feature.
        hits: by space and word: the features that a search found, best first, with their similarity.
        remarks: sentences beside a rating, by its dimension; the demo quotes the world's truth there.
        introduction: a sentence under the title.
    """

    spaces: Sequence[str] = ()
    n: int = 12
    k: int = 6
    hits: Mapping[str, Mapping[str, Sequence[Scored]]] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)
    introduction: str = ""


def report_html(
    warehouse: WarehouseReads,
    options: ReportOptions,
    progress: Progress = lambda done, total: None,
    tally: Tally | None = None,
) -> str:
    """Return the report as the text of one HTML page; its pictures are counted in `tally`.

    Raises:
        UsageError: a space that does not exist or is not finished.
    """
    spaces = chosen_spaces(warehouse, options.spaces)
    pages = Pages(warehouse, options.k, tally)
    summary = summarise(warehouse.layout)
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    title = warehouse.root.resolve().name
    body = [f"<header><h1>{escape(title)}</h1>"]
    if options.introduction:
        body.append(f"<p>{escape(options.introduction)}</p>")
    links = [("holds", "What it holds"), *((f"space-{i}", space) for i, space in enumerate(spaces)), ("runs", "Runs")]
    body.append("<nav>" + "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name in links) + "</nav></header>")
    body.append(_section("holds", "What it holds", parts.holdings(summary)))
    progress(0, len(spaces))
    for i, space in enumerate(spaces):
        found = findings_of(warehouse, space, options.n)
        body.append(_section(f"space-{i}", f"Space {space}", _space(pages, found, options)))
        progress(i + 1, len(spaces))
    body.append(_section("runs", "Runs", parts.runs(summary.runs)))
    body.append(f'<footer class="soft"><p>Written by glasshouse, {now}.</p></footer>')
    return page(f"{title} – glasshouse report", "".join(body))


def write_report(
    warehouse: WarehouseReads,
    output: Path,
    options: ReportOptions,
    progress: Progress = lambda done, total: None,
    tally: Tally | None = None,
) -> int:
    """Write the report in one step, so that a reader never sees half of it; return its size in bytes.

    Its pictures are counted in `tally`.

    Raises:
        UsageError: as `report_html`.
        OSError: the file cannot be written.
    """
    text = report_html(warehouse, options, progress, tally)
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return output.stat().st_size


def chosen_spaces(warehouse: WarehouseReads, wanted: Sequence[str]) -> list[str]:
    """Return the spaces that are meant: those named, else every finished one; there may be none.

    Raises:
        UsageError: a space that does not exist or is not finished, or no image is there to report on.
    """
    if warehouse.images().height == 0:
        raise UsageError("There is nothing to report: the warehouse has no images. Add some with `glasshouse add`.")
    for name in wanted:
        warehouse.space(name)
    return list(dict.fromkeys(wanted)) or [str(name) for name in warehouse.spaces().filter(state="ready")["name"]]


def _space(pages: Pages, found: SpaceFindings, options: ReportOptions) -> str:
    hits = options.hits.get(found.space, {})
    wanted = [feature for feature, _ in found.best]
    wanted += [predictor.feature_id for rating in found.ratings for predictor in rating.predictors]
    wanted += [feature for scored in hits.values() for feature, _ in scored]
    pages.prepare(found.space, wanted)
    return "".join(
        [
            parts.space_facts(found),
            parts.best_features(pages, found),
            parts.predictions(pages, found, options.remarks),
            parts.search_hits(pages, found.space, hits),
        ]
    )


def _section(key: str, title: str, content: str) -> str:
    return f'<section id="{key}"><h2>{escape(title)}</h2>{content}</section>'
