"""Scores written from their definitions, one pair after the other; nothing here is shared with the package."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def usable_rows(vectors_ne: Array, *, centre: bool) -> dict[int, list[float]]:
    """Unit vectors by image; images whose vector is NaN throughout (none was given), has NaN or is zero have none."""
    plain = {i: [float(v) for v in row] for i, row in enumerate(vectors_ne)}
    plain = {i: row for i, row in plain.items() if all(math.isfinite(v) for v in row) and any(row)}
    if centre:
        means = [math.fsum(row[c] for row in plain.values()) / len(plain) for c in range(vectors_ne.shape[1])]
        plain = {i: [v - m for v, m in zip(row, means, strict=True)] for i, row in plain.items()}
    lengths = {i: math.sqrt(math.fsum(v * v for v in row)) for i, row in plain.items()}
    return {i: [v / lengths[i] for v in row] for i, row in plain.items() if lengths[i] > (1e-9 if centre else 0)}


def min_max(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [1.0] * len(values) if low == high else [(value - low) / (high - low) for value in values]


def pairwise_score(weights: list[float], units: list[list[float]]) -> float | None:
    above, below = [], []
    for i in range(len(weights)):
        for j in range(i + 1, len(weights)):
            cosine = math.fsum(a * b for a, b in zip(units[i], units[j], strict=True))
            above.append(weights[i] * weights[j] * cosine)
            below.append(weights[i] * weights[j])
    return math.fsum(above) / math.fsum(below) if math.fsum(below) > 0 else None


def top_weights(values_n: Array, units: dict[int, list[float]], k: int) -> tuple[list[int], list[float]]:
    """The k strongest of the active images that have a vector, ties by image, and their weights."""
    active = sorted((i for i in units if values_n[i] > 0), key=lambda i: (-float(values_n[i]), i))[:k]
    return active, min_max([float(values_n[i]) for i in active]) if active else []


def ms_top(values_n: Array, units: dict[int, list[float]], k: int, min_images: int) -> float | None:
    if sum(values_n[i] > 0 for i in units) < min_images:
        return None
    images, weights = top_weights(values_n, units, k)
    return pairwise_score(weights, [units[i] for i in images])


def ms_all(values_n: Array, units: dict[int, list[float]]) -> float | None:
    """Over every image with a vector; a feature that is active on one of them, or none, has no score."""
    if sum(values_n[i] > 0 for i in units) < 2:
        return None
    return pairwise_score(min_max([float(values_n[i]) for i in units]), list(units.values()))
