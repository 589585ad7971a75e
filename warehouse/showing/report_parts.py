"""The sections of the report as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from glasshouse.warehouse.showing.cards import FeatureCard
from glasshouse.warehouse.showing.findings import SIGNIFICANT, Predictor, RatingFindings, Scored, SpaceFindings
from glasshouse.warehouse.showing.fragments import chips, heading, table, top_pictures
from glasshouse.warehouse.showing.gather import feature_cards
from glasshouse.warehouse.showing.plain import escape, figure
from glasshouse.warehouse.showing.text import fact_lines
from glasshouse.warehouse.showing.thumbnails import Tally, Thumbnails
from glasshouse.warehouse.summary import RunSummary, Summary

if TYPE_CHECKING:
    from glasshouse.warehouse.reads import WarehouseReads

PICTURE_SIDE = 128
"""Longer side of a feature's pictures, in pixels; twice the starter world's."""

N_SHOWN_PREDICTORS = 6
_CHANCE = "Of all that is found at q < 0.05, over all ratings together, about one in twenty is expected to be chance."


class Pages:
    """Feature cards and thumbnails of one report, each read once.

    Args:
        warehouse: that is read.
        k: pictures of each feature.
        tally: where pictures are counted.
    """

    def __init__(self, warehouse: WarehouseReads, k: int, tally: Tally | None = None) -> None:
        self.k = k
        self.thumbnails = Thumbnails(warehouse, PICTURE_SIDE, tally)
        self._warehouse = warehouse
        self._cards: dict[tuple[str, int], FeatureCard] = {}

    def prepare(self, space: str, features: Iterable[int]) -> None:
        """Read the cards and make the thumbnails of many features at once."""
        missing = sorted({feature for feature in features if (space, feature) not in self._cards})
        for card in feature_cards(self._warehouse, space, missing, self.k) if missing else ():
            self._cards[space, card.feature_id] = card
        cards = (self._cards[space, feature] for feature in missing)
        self.thumbnails.prepare(top.image_id for card in cards for top in card.top_images)

    def card(self, space: str, feature: int) -> FeatureCard:
        """Return the card of a feature."""
        self.prepare(space, [feature])
        return self._cards[space, feature]

    def article(self, space: str, feature: int, line: str = "", k: int | None = None) -> str:
        """Return a feature's name, scores and pictures; `line` is HTML that says why it is shown."""
        card = self.card(space, feature)
        facts = "".join(f"<li>{escape(fact)}</li>" for fact in fact_lines(card))
        return (
            f"<article>{heading(card)}{line}<p>{chips(card)}</p>{top_pictures(card, self.thumbnails, k)}"
            f"<details><summary>more</summary><ul>{facts}</ul></details></article>"
        )


def holdings(summary: Summary) -> str:
    """Return what the warehouse holds: rows by table, spaces, embeddings."""
    counted = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in summary.tables.items() if n)
    out = [f"<p>{escape(counted)}; {summary.size_mb:,.1f} MB.</p>"]
    if summary.spaces:
        out.append(
            table(
                ("space", "encoder", "hook", "tokens", "SAE", "features", "images", "activations", "state"),
                [
                    (s.name, s.encoder, s.hook, s.tokens, s.sae, s.n_features, s.n_images, s.n_activations, s.state)
                    for s in summary.spaces
                ],
            )
        )
    if summary.embeddings:
        rows = [(e.name, e.encoder, e.width, e.n_images, e.state) for e in summary.embeddings]
        out.append(table(("embedding", "encoder", "width", "images", "state"), rows))
    return "".join(out)


def runs(listed: Sequence[RunSummary]) -> str:
    """Return the runs that count, with their parameters; stale ones say so."""
    shown = [run for run in listed if run.state != "replaced"]
    if not shown:
        return "<p>No analysis was run yet: <code>glasshouse analyze --all</code>.</p>"
    rows = [
        (r.run_id, r.analyzer, r.space, r.state, r.n_rows, f"{r.started_at:%Y-%m-%d %H:%M}", f"{r.duration_s:.1f} s",
         ", ".join(f"{name} {figure(value)}" for name, value in r.parameters.items() if value not in (None, "", [])))
        for r in shown
    ]  # fmt: skip
    stale = sorted({run.analyzer for run in shown if run.state == "stale"})
    note = f'<p class="note">Stale, what they read has changed since: {escape(", ".join(stale))}.</p>' if stale else ""
    return note + table(("run", "analysis", "space", "state", "rows", "computed (UTC)", "took", "parameters"), rows)


def space_facts(found: SpaceFindings) -> str:
    """Return tiers, labels and thresholds of a space in sentences."""
    lines = []
    if found.tiers:
        lines.append("Tiers: " + ", ".join(f"{n:,} {name}" for _, name, n in found.tiers) + ".")
    if found.n_labels:
        has = "feature has" if found.n_labels == 1 else "features have"
        lines.append(f"{found.n_labels:,} {has} a label.")
    given = found.thresholds
    if given.get("moderate_from") is not None and given.get("monosemantic_from") is not None:
        lines.append(
            f"Monosemanticity (MS, embedding {given.get('embedding')}): two random images of this warehouse have a "
            f"mean cosine of {figure(given.get('mu'))} with a standard deviation of {figure(given.get('sigma'))} "
            f"({figure(given.get('n_pairs'))} pairs, seed {given.get('seed')}); so a feature is moderate from "
            f"{figure(given['moderate_from'])} and monosemantic from {figure(given['monosemantic_from'])}."
        )
    if given.get("no_classes_because"):
        lines.append(f"Monosemanticity has no classes here: {given['no_classes_because']}.")
    stale = sorted({run.analyzer for run in found.runs if run.is_stale})
    if stale:
        lines.append(f"Stale, what they read has changed since: {', '.join(stale)}.")
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def best_features(pages: Pages, found: SpaceFindings) -> str:
    """Return the best-scored features with pictures."""
    if not found.best:
        return "<p>No feature of this space is ever active.</p>"
    title = "Best-scored features" if found.best_by == "ms" else "Most active features (none is scored yet)"
    return f"<h4>{title}</h4>" + _cards(pages.article(found.space, scored.feature_id) for scored in found.best)


def predictions(pages: Pages, found: SpaceFindings, remarks: Mapping[str, str]) -> str:
    """Return what predicts each rating, and how far simple properties of the pictures explain it."""
    if not found.ratings:
        return ""
    out = ["<h4>What predicts each rating</h4>", f"<p>{escape(_caveat(found))}</p>"]
    for rating in found.ratings:
        out.append(f"<h4>{escape(rating.dimension)}</h4>")
        if rating.dimension in remarks:
            out.append(f'<p class="note">{escape(remarks[rating.dimension])}</p>')
        out.append(f"<p>{escape(significance(rating))}</p>")
        shown = rating.predictors[:N_SHOWN_PREDICTORS]
        out.append(_cards(pages.article(found.space, p.feature_id, _sign(p)) for p in shown))
        rest = rating.predictors[N_SHOWN_PREDICTORS:]
        if rest:
            rows = [
                (f"{found.space}:{p.feature_id}", pages.card(found.space, p.feature_id).label or "", f"{p.r:+.3f}",
                 figure(p.q, 2)) for p in rest
            ]  # fmt: skip
            out.append(table(("further features", "label", "r", "q"), rows))
    return "".join(out)


def _caveat(found: SpaceFindings) -> str:
    if found.covariates:
        given = "; ".join(found.covariates)
        return (
            f"r given {given} says what is left of a correlation when these are held constant: where little is left, "
            f"the feature may be no more than colour or light. A correlation is no cause either way. {_CHANCE}"
        )
    return (
        "A correlation is no cause, and a feature may be no more than colour or light: `glasshouse analyze correlation "
        "--covariates brightness --covariates saturation --covariates edge_energy` says what is left without these. "
        + _CHANCE
    )


def significance(rating: RatingFindings) -> str:
    """Say in a sentence whether anything predicts a rating."""
    if not rating.n_significant:
        return (
            f"Nothing found: none of {rating.n_tested:,} features has q < {SIGNIFICANT:g}. The strongest all the same:"
        )
    return f"{rating.n_significant:,} of {rating.n_tested:,} features have q < {SIGNIFICANT:g}. The strongest:"


def _sign(predictor: Predictor) -> str:
    rises = "more of it, higher rating" if predictor.r > 0 else "more of it, lower rating"
    q = "" if predictor.q is None else f", q {figure(predictor.q, 2)}"
    partial = "".join(
        f"; r {'not defined' if r is None else f'{r:+.3f}'} given {given}" for given, r in predictor.partial_r.items()
    )
    rest = f"{q}, n {figure(predictor.n)}{partial}; {rises}"
    return f'<p><span class="up">r {predictor.r:+.3f}</span>{escape(rest)}</p>'


def search_hits(pages: Pages, space: str, hits: Mapping[str, Sequence[Scored]]) -> str:
    """Return what text search finds for some words."""
    if not hits:
        return ""
    out = ["<h4>Search</h4>"]
    for word, found in hits.items():
        out.append(f"<h4>“{escape(word)}”</h4>")
        lines = (f"<p>similarity {scored.value:.3f}</p>" for scored in found)
        pairs = zip(found, lines, strict=True)
        out.append(_cards(pages.article(space, s.feature_id, line) for s, line in pairs))
    return "".join(out)


def _cards(articles: Iterable[str]) -> str:
    return f'<div class="cards">{"".join(articles)}</div>'
