"""Cards as text for a terminal: one fact a line, every text from the warehouse without control characters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from glasshouse.schema.plain import plain
from glasshouse.warehouse.showing.cards import FeatureCard, ImageCard
from glasshouse.warehouse.showing.plain import activation, figure, shortened

KNOWN = (
    "labels", "label_score", "tiers", "monosemanticity", "uniqueness", "soft_wpmi", "correlation", "concepts",
    "examples", "relevance",
)  # fmt: skip
"""Analyses that have lines of their own; all others are shown as their columns say."""

N_ROWS_SHOWN = 3
"""Rows that are shown of each of the others: the strongest, where the analysis says what that is."""

N_LISTED = 3
"""Numbers that are shown of a list, e.g. of a feature's most relevant images."""

_NOT_SHOWN = {"run_id", "stale"}
_PATH_LENGTH = 70


def feature_text(card: FeatureCard) -> str:
    """Return a feature's card as lines of text."""
    title = plain(card.name) + (f"  “{plain(card.label)}”" if card.label else "")
    blocks = [
        [title, *(f"  {line}" for line in fact_lines(card))],
        _block("correlation with ratings", (_correlation(row) for row in card.correlations)),
        _block("strongest images", (_top_image(card, i) for i in range(len(card.top_images)))),
        _block(
            "similar features",
            (f"{card.space}:{s.feature_id}  {s.similarity:.2f}  {plain(s.label or '')}".rstrip() for s in card.similar),
        ),
    ]
    return "\n\n".join("\n".join(map(plain, block)) for block in blocks if block)


def fact_lines(card: FeatureCard) -> list[str]:
    """Return what is known of a feature besides correlations and images, one fact a line."""
    lines = [activity(card), *_label_lines(card)]
    lines += [f"tier {row.get('tier')} ({row.get('tier_name')})" for row in card.rows("tiers")]
    lines += [_ms(row) for row in card.rows("monosemanticity")]
    for row in card.rows("uniqueness"):
        lines.append(f"uniqueness {figure(row.get('uniqueness'))}, nearest feature {row.get('nearest_feature_id')}")
    lines += _relevance_lines(card)
    words = sorted(card.rows("soft_wpmi"), key=lambda row: row.get("rank") or 0)
    if words:
        lines.append("soft-WPMI words: " + ", ".join(str(row.get("word")) for row in words))
    for analyzer, rows in card.results.items():
        if analyzer not in KNOWN:
            lines += [f"{analyzer}: {columns_of(row)}" for row in rows[:N_ROWS_SHOWN]]
            if len(rows) > N_ROWS_SHOWN:
                more = len(rows) - N_ROWS_SHOWN
                lines.append(f"{analyzer}: {more} more row{'' if more == 1 else 's'}, in SQL: FROM {analyzer}")
    if card.is_stale:
        stale = sorted(name for name, rows in card.results.items() if any(row.get("stale") for row in rows))
        lines.append(f"stale, what they read has changed since: {', '.join(stale)}")
    return [plain(line) for line in lines]


def activity(card: FeatureCard) -> str:
    """Say how often and how strongly a feature is active."""
    n_active = card.statistics["n_active"]
    if not n_active:
        return f"never active on {card.n_images:,} images"
    share = n_active / max(card.n_images, 1)
    return (
        f"active on {n_active:,} of {card.n_images:,} images ({share:.1%}), "
        f"mean {activation(card.statistics['mean_active'])}, maximum {activation(card.statistics['max_value'])}"
    )


def columns_of(row: Mapping[str, Any]) -> str:
    """Return the columns of a row of an analysis that nothing is known about; empty ones are left out."""
    return ", ".join(
        f"{name} {_brief(value)}" for name, value in row.items() if name not in _NOT_SHOWN and value is not None
    )


def _brief(value: Any) -> str:
    """Return a value; of a long list of numbers its start and its length."""
    if isinstance(value, list) and len(value) > N_LISTED and not any(isinstance(part, str) for part in value):
        return f"{', '.join(figure(part) for part in value[:N_LISTED])}, … ({len(value)})"
    return figure(value)


def _label_lines(card: FeatureCard) -> Iterator[str]:
    for row in card.rows("labels"):
        who = " ".join(str(part) for part in (row.get("labeler"), row.get("model")) if part)
        if not row.get("label"):
            yield f"no label from {who}: {row.get('failure') or 'no answer'}"
            continue
        sure = "" if row.get("confidence") is None else f", confidence {figure(row['confidence'])}"
        yield f"label “{row['label']}” ({who}{sure})"
        for name in ("description", "visual_elements", "rating_effect"):
            if row.get(name):
                yield f"  {name.replace('_', ' ')}: {figure(row[name])}"
    for row in card.rows("label_score"):
        auc, accuracy = ("–" if row.get(name) is None else f"{row[name]:.2f}" for name in ("auc", "balanced_accuracy"))
        yield f"label “{row.get('label')}” judged by {row.get('scorer')}: AUC {auc}, balanced accuracy {accuracy}"


def _relevance_lines(card: FeatureCard) -> Iterator[str]:
    """Yield the classes that a feature counts most for, of the newest run of `relevance`."""
    rows = card.rows("relevance")
    newest = max((row["run_id"] for row in rows), default=None)
    own = sorted((row for row in rows if row["run_id"] == newest), key=lambda row: -(row.get("share") or 0.0))
    for row in own[:N_ROWS_SHOWN]:
        where = "" if row.get("x") is None else f", looks at x {row['x']:.2f}, y {row['y']:.2f}"
        yield (
            f"counts for {row.get('class_name')}: {row['share']:.1%} of its relevance, rank {row.get('rank')}{where} "
            f"({row.get('method')})"
        )


def _ms(row: Mapping[str, Any]) -> str:
    how = ", ".join(str(row[name]) for name in ("variant", "embedding") if row.get(name))
    if row.get("ms") is None:
        return f"monosemanticity not scored; images with a vector that count: {figure(row.get('n_images'))} ({how})"
    interval = f" [{row['ms_low']:.3f}, {row['ms_high']:.3f}]" if row.get("ms_low") is not None else ""
    return f"monosemanticity {row['ms']:.3f}{interval} {row.get('ms_class') or ''} ({how})"


def how_correlated(row: Mapping[str, Any]) -> str:
    """Say the method of a correlation and what was held constant."""
    covariates = row.get("covariates")
    given = f", given {figure(covariates).replace(',', ', ')}" if covariates else ""
    return f"{row.get('method') or 'pearson'}{given}"


def _correlation(row: Mapping[str, Any]) -> str:
    if row.get("r") is None:
        return f"{row.get('dimension')}  not tested: no variance ({how_correlated(row)})"
    interval = f" [{row['r_low']:+.2f}, {row['r_high']:+.2f}]" if row.get("r_low") is not None else ""
    q = f"  q {row['q']:.2g}" if row.get("q") is not None else ""
    return f"{row.get('dimension')}  r {row['r']:+.3f}{interval}{q}  n {figure(row.get('n'))}  ({how_correlated(row)})"


def _top_image(card: FeatureCard, position: int) -> str:
    top = card.top_images[position]
    grid = card.warehouse.space(card.space).grid
    where = ""
    if grid is not None and top.token is not None:
        where = f"  row {top.token // grid[1] + 1}, column {top.token % grid[1] + 1} of {grid[0]}×{grid[1]}"
    return f"{activation(top.value):>8}  image {top.image_id}  {shortened(plain(top.path), _PATH_LENGTH)}{where}"


def image_text(card: ImageCard) -> str:
    """Return an image's card as lines of text."""
    record = card.record
    head = [
        f"image {card.image_id}  {plain(card.path)}",
        f"  {record['width']} × {record['height']} pixels, {record['format']}, brightness "
        f"{figure(record['brightness'])}, saturation {figure(record['saturation'])}",
    ]
    head += [f"  also at {plain(path)}" for path in card.paths if path != card.path]
    if card.labels:
        head.append("  " + ", ".join(f"{row['attribute']} {row['value']}" for row in card.labels))
    if card.objects:
        head.append("  objects: " + ", ".join(f"{row['n']} × {row['category']}" for row in card.objects))
    blocks: list[Sequence[str]] = [head, _block("captions", card.captions)]
    blocks.append(_block("ratings", (rating_words(row) for row in card.ratings)))
    for space, features in card.features.items():
        lines = (f"{activation(f.value):>8}  {space}:{f.feature_id}  {f.label or ''}".rstrip() for f in features)
        blocks.append(_block(f"strongest features of {space}", lines))
    for space, why in card.not_known.items():
        blocks.append(_block(f"strongest features of {space}", [f"not known: {why}"]))
    return "\n\n".join("\n".join(map(plain, block)) for block in blocks if block)


def rating_words(row: Mapping[str, Any]) -> str:
    """Say what an image was rated in one dimension."""
    if row["n"] == 1:
        return f"{row['dimension']}  {row['mean']:g}"
    return f"{row['dimension']}  mean {row['mean']:.2f} of {row['n']} ratings ({row['low']:g} to {row['high']:g})"


def _block(title: str, lines: Iterable[str]) -> list[str]:
    found = [f"  {line}" for line in lines]
    return [title, *found] if found else []
