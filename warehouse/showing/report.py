"""The report: one HTML page that says what a warehouse holds and what was found in it.

Rules: the page needs nothing else, neither files nor a network nor scripts, and says so in its Content-Security-Policy;
every text has gone through `escape`; it reads on a phone, on light and on dark.
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
from glasshouse.warehouse.showing.fragments import STYLE
from glasshouse.warehouse.showing.plain import escape
from glasshouse.warehouse.showing.report_parts import Pages
from glasshouse.warehouse.summary import summarise

if TYPE_CHECKING:
    from glasshouse.warehouse.reads import WarehouseReads
    from glasshouse.warehouse.showing.findings import Scored
    from glasshouse.warehouse.showing.thumbnails import Tally
    from glasshouse.warehouse.warehouse import Progress

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What a browser may do with the page: show it."""

PAGE_STYLE = """
:root{color-scheme:light dark;--paper:#fbfbfa;--ink:#1c1c22;--line:#d9d9dd;--card:#fff;--accent:#8a1170}
@media(prefers-color-scheme:dark){:root{--paper:#16161a;--ink:#e6e6ea;--line:#37373f;--card:#1e1e24;--accent:#f08fc7}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.2em 1em 4em;max-width:70em;background:var(--paper);color:var(--ink);
overflow-wrap:anywhere}
h1{font:600 1.7em/1.2 system-ui,sans-serif;margin:.3em 0}
h2{font:600 1.3em/1.2 system-ui,sans-serif;margin:2em 0 .5em;padding-top:.6em;border-top:1px solid var(--line)}
.gh h4{margin:1.4em 0 .4em;font-size:1.05em}
nav{margin:.6em 0}nav a{margin-right:1em}a{color:var(--accent)}
article{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.7em .9em;margin:.6em 0}
article h3{margin-top:0}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,29em),1fr));gap:.7em}
.cards article{margin:0}
.up{font-weight:600}.note{border-left:3px solid var(--accent);padding-left:.8em;margin:.7em 0}
.gh td{white-space:nowrap}.gh td:last-child{white-space:normal;min-width:12em}
.gh table{overflow-wrap:normal}
details summary{cursor:pointer;opacity:.75;font-size:.88em}
"""


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
    return _page(title, "".join(body))


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


def _page(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)} – glasshouse report</title><style>{STYLE}{PAGE_STYLE}</style></head>"
        f'<body class="gh">{body}</body></html>\n'
    )
