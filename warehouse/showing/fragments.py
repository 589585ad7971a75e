"""Pieces of HTML that notebooks and the report share. Every text in them has gone through `escape`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glasshouse.warehouse.showing.cards import FeatureCard
from glasshouse.warehouse.showing.plain import activation, escape, figure
from glasshouse.warehouse.showing.text import how_correlated
from glasshouse.warehouse.showing.thumbnails import Thumbnail, Thumbnails, data_uri

STYLE = """
.gh{font:14px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;max-width:72em}
.gh h3{margin:.2em 0 .3em;font-size:1.15em;font-weight:600}
.gh .id{opacity:.65;font-weight:400;font-family:ui-monospace,Consolas,monospace;font-size:.9em}
.gh p,.gh ul{margin:.25em 0}.gh ul{padding-left:1.2em}
.gh .soft{opacity:.7}
.gh .chip{display:inline-block;border:1px solid currentColor;border-radius:1em;padding:0 .6em;margin:0 .2em .2em 0;
font-size:.86em;opacity:.85}
.gh .pics{display:flex;flex-wrap:wrap;gap:.6em;margin:.5em 0;padding:0;align-items:flex-end}
.gh figure{margin:0;max-width:100%}
.gh figure img{display:block;max-width:100%;height:auto;border-radius:3px}
.gh figcaption{font-size:.78em;opacity:.75;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.gh .gone{display:grid;place-items:center;width:9em;height:6em;border:1px dashed currentColor;font-size:.78em;
text-align:center;opacity:.7}
.gh .wide{overflow-x:auto}
.gh table{border-collapse:collapse;margin:.4em 0;font-size:.92em}
.gh th,.gh td{padding:.15em .8em .15em 0;text-align:left;vertical-align:top;background:none}
.gh th{font-weight:600;border-bottom:1px solid currentColor}
.gh td.n,.gh th.n{text-align:right;font-variant-numeric:tabular-nums}
"""
"""Colours are the page's own (`currentColor`), so that it reads on light and on dark."""

_CAPTION_LENGTH = 40


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table; numbers stand to the right, everything is escaped."""
    body, numeric = [], set()
    for row in rows:
        numeric |= {i for i, value in enumerate(row) if isinstance(value, int | float) and not isinstance(value, bool)}
        body.append([escape(figure(value)) for value in row])
    kind = [' class="n"' if i in numeric else "" for i in range(len(columns))]
    head = "".join(f"<th{kind[i]}>{escape(name)}</th>" for i, name in enumerate(columns))
    lines = ["".join(f"<td{kind[i]}>{value}</td>" for i, value in enumerate(row)) for row in body]
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def picture(thumbnail: Thumbnail, caption: str, title: str, gone: str = "picture not there") -> str:
    """Return one picture with its caption; a dashed box with the reason as its title where there is none."""
    if thumbnail.image is None:
        inner = f'<div class="gone" title="{escape(thumbnail.failure or "")}">{escape(gone)}</div>'
        return f"<figure>{inner}<figcaption>{escape(caption)}</figcaption></figure>"
    width, height = thumbnail.image.size
    return (
        f'<figure style="width:{width}px"><img src="{data_uri(thumbnail.image)}" width="{width}" height="{height}" '
        f'alt="{escape(title)}" title="{escape(title)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def top_pictures(card: FeatureCard, thumbnails: Thumbnails, k: int | None = None) -> str:
    """Return a feature's strongest images, under their heat maps in patch spaces, all on one scale."""
    shown = card.top_images[:k]
    thumbnails.prepare(top.image_id for top in shown)
    maximum = card.statistics["max_value"]
    parts = []
    for top in shown:
        thumbnail = thumbnails.heat(card.space, card.feature_id, top.image_id, maximum)
        title = f"image {top.image_id}: {top.path}"
        parts.append(picture(thumbnail, activation(top.value), title))
    return f'<div class="pics">{"".join(parts)}</div>'


def heading(card: FeatureCard, level: str = "h3") -> str:
    """Return a feature's label and name as a heading."""
    label = f"{escape(card.label)} " if card.label else ""
    return f'<{level}>{label}<span class="id">{escape(card.name)}</span></{level}>'


def chips(card: FeatureCard) -> str:
    """Return the scores of a feature in a row."""
    words = []
    for row in card.rows("tiers"):
        words.append(f"tier {figure(row.get('tier'))} {row.get('tier_name') or ''}".strip())
    for row in card.rows("monosemanticity"):
        if row.get("ms") is not None:
            words.append(f"MS {row['ms']:.2f} {row.get('ms_class') or ''} ({row.get('variant') or 'top'})")
    for row in card.rows("label_score"):
        if row.get("auc") is not None:
            words.append(f"label AUC {row['auc']:.2f} ({row.get('scorer') or ''})")
    if card.is_stale:
        words.append("stale")
    return "".join(f'<span class="chip">{escape(word)}</span>' for word in words)


def correlation_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return correlations with ratings, one a line."""
    return table(
        ("rating", "r", "95 %", "q", "n", "method"),
        [
            (
                row.get("dimension"),
                None if row.get("r") is None else f"{row['r']:+.3f}",
                "" if row.get("r_low") is None else f"{row['r_low']:+.2f} to {row['r_high']:+.2f}",
                row.get("q"),
                row.get("n"),
                how_correlated(row),
            )
            for row in rows
        ],
    )
