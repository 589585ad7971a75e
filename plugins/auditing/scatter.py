"""The picture of an audit: every component by its alignment with valid and with spurious concepts, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from glasshouse.warehouse.showing.plain import escape

WIDTH: Final = 640
HEIGHT: Final = 520
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 48
SMALLEST, LARGEST = 2.5, 24.0
"""Radii in pixels; the area of a dot grows with the share of relevance."""
TICKS: Final = 5


class Dot(NamedTuple):
    """A component: `x` alignment with valid, `y` with spurious concepts (cosines), its share of relevance."""

    name: str
    x: float
    y: float
    share: float
    is_flagged: bool


def scatter(dots: Sequence[Dot]) -> str:
    """Return the SVG; dots above the diagonal are more alike something spurious. Names of flagged ones stand beside."""
    if not dots:
        return ""
    low = min(min(dot.x, dot.y) for dot in dots)
    high = max(max(dot.x, dot.y) for dot in dots)
    pad = 0.06 * (high - low) or 0.05
    scale = _Scale(low - pad, high + pad)
    largest = max(dot.share for dot in dots) or 1.0
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        'aria-label="Components by alignment with valid and spurious concepts" class="scatter">',
        *_axes(scale),
    ]
    for dot in sorted(dots, key=lambda dot: (dot.is_flagged, -dot.share)):
        radius = max(SMALLEST, LARGEST * (dot.share / largest) ** 0.5)
        kind = "flagged" if dot.is_flagged else "plain"
        title = f"{dot.name}: valid {dot.x:.3f}, spurious {dot.y:.3f}, {dot.share:.1%} of the relevance"
        parts.append(
            f'<circle class="{kind}" cx="{scale.x(dot.x):.1f}" cy="{scale.y(dot.y):.1f}" r="{radius:.1f}">'
            f"<title>{escape(title)}</title></circle>"
        )
    parts += [_named(dot, scale, LARGEST * (dot.share / largest) ** 0.5) for dot in dots if dot.is_flagged]
    return "".join([*parts, "</svg>"])


class _Scale(NamedTuple):
    """From cosines to pixels, the same on both axes, so that the diagonal is where both are equal."""

    low: float
    high: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def _axes(scale: _Scale) -> list[str]:
    low, high = scale
    parts = [
        f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/>',
        f'<line class="even" x1="{scale.x(low):.1f}" y1="{scale.y(low):.1f}" x2="{scale.x(high):.1f}" '
        f'y2="{scale.y(high):.1f}"/>',
    ]
    for step in range(TICKS):
        value = low + (step + 0.5) / TICKS * (high - low)
        x, y = scale.x(value), scale.y(value)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:.2f}</text>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{middle_x}" y="{HEIGHT - 10}" text-anchor="middle">alignment with valid concepts</text>')
    parts.append(
        f'<text x="14" y="{middle_y}" text-anchor="middle" transform="rotate(-90 14 {middle_y})">'
        "alignment with spurious concepts</text>"
    )
    return parts


def _named(dot: Dot, scale: _Scale, radius: float) -> str:
    """Return the name of a dot, to its right, or to its left near the right edge."""
    is_right = scale.x(dot.x) < WIDTH - 150
    x = scale.x(dot.x) + (radius + 4 if is_right else -radius - 4)
    anchor = "start" if is_right else "end"
    return (
        f'<text class="name" x="{x:.1f}" y="{scale.y(dot.y) + 4:.1f}" text-anchor="{anchor}">{escape(dot.name)}</text>'
    )
