"""Cards as HTML for a notebook: everything inside one element, no script, pictures embedded."""

from __future__ import annotations

from collections.abc import Iterable

from glasshouse.warehouse.showing.cards import FeatureCard, ImageCard
from glasshouse.warehouse.showing.fragments import (
    STYLE,
    chips,
    correlation_table,
    heading,
    picture,
    table,
    top_pictures,
)
from glasshouse.warehouse.showing.plain import activation, escape
from glasshouse.warehouse.showing.text import fact_lines, rating_words
from glasshouse.warehouse.showing.thumbnails import Thumbnails

PICTURE_SIDE = 150
"""Longer side of a feature's images, in pixels."""

IMAGE_SIDE = 420


def feature_html(card: FeatureCard) -> str:
    """Return a feature's card as one element."""
    parts = [heading(card), f"<p>{chips(card)}</p>", _list(fact_lines(card))]
    parts.append(top_pictures(card, Thumbnails(card.warehouse, PICTURE_SIDE)))
    if card.correlations:
        parts.append(correlation_table(card.correlations))
    if card.similar:
        rows = [(f"{card.space}:{s.feature_id}", f"{s.similarity:.2f}", s.label or "") for s in card.similar]
        parts.append(table(("similar feature", "cosine", "label"), rows))
    return _element(parts)


def image_html(card: ImageCard) -> str:
    """Return an image's card as one element."""
    record = card.record
    caption = f"image {card.image_id} · {record['width']} × {record['height']}"
    parts = [f'<h3>{escape(card.path)} <span class="id">image {card.image_id}</span></h3>']
    parts.append(picture(Thumbnails(card.warehouse, IMAGE_SIDE).of(card.image_id), caption, card.path))
    parts.append(_list(card.captions))
    known = [f"{row['attribute']}: {row['value']}" for row in card.labels]
    known += [f"{row['n']} × {row['category']}" for row in card.objects]
    parts.append("".join(f'<span class="chip">{escape(word)}</span>' for word in known))
    parts.append(_list(rating_words(row) for row in card.ratings))
    for space, features in card.features.items():
        rows = [(f"{space}:{f.feature_id}", activation(f.value), f.label or "") for f in features]
        parts.append(table((f"strongest in {space}", "activation", "label"), rows))
    parts.append(_list(f"strongest in {space} not known: {why}" for space, why in card.not_known.items()))
    return _element(parts)


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _element(parts: list[str]) -> str:
    return f'<div class="gh"><style>{STYLE}</style>{"".join(parts)}</div>'
