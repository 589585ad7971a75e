"""What is trained and how: sizes, kind, schedule; and how prefixes are written down.

A recipe with the same activations and seed gives the same dictionary. Defaults follow published recipes where there is
one; each says which.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from glasshouse.schema.errors import UsageError

Kind = Literal["topk", "batchtopk", "matryoshka"]
KINDS: tuple[str, ...] = get_args(Kind)

DEFAULT_SHARES = (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Groups of a Matryoshka dictionary, each prefix twice the one before."""

MOST_IDLE_VECTORS = 10_000_000
"""Vectors without activity after which a feature counts as dead, at most (Gao et al. 2024, arXiv 2406.04093)."""

IDLE_SHARE = 0.1
"""The same as a share of all vectors of the training, for short ones."""


@dataclass(frozen=True)
class Recipe:
    """Everything beside the activations that the result depends on.

    Attributes:
        kind: `topk`, k features of each vector (arXiv 2406.04093); `batchtopk`, k for each vector on average over the
            batch (arXiv 2412.06410); `matryoshka`, the same and every prefix reconstructs by itself (2503.17547).
        n_features: F.
        k: active features for each vector.
        prefixes: sizes of the nested prefixes, rising, the last one F; only F where the kind has none.
        steps: optimizer steps.
        batch: vectors in a step.
        learning_rate: the highest, between warm-up and decay.
        seed: of initial weights and of every order.
        warm_up: share of the steps over which the learning rate rises.
        decay: share of the steps at the end over which it falls to zero.
        clip: the gradient's norm is cut to it; the inputs have unit mean squared norm.
        auxiliary_weight: α of the auxiliary loss of dead features.
        auxiliary_k: dead features for each vector in it; 0 means half the width, at most 256.
        dead_after: vectors without activity after which a feature counts as dead; 0 means a tenth of the training's
            vectors, at most 10 million.
    """

    kind: Kind
    n_features: int
    k: int
    prefixes: tuple[int, ...]
    steps: int
    batch: int
    learning_rate: float
    seed: int = 0
    warm_up: float = 0.05
    decay: float = 0.2
    clip: float = 1.0
    auxiliary_weight: float = 1 / 32
    auxiliary_k: int = 0
    dead_after: int = 0

    @property
    def idle_limit(self) -> int:
        """Vectors without activity after which a feature is dead."""
        return self.dead_after or min(MOST_IDLE_VECTORS, int(IDLE_SHARE * self.steps * self.batch))

    def rate(self, step: int) -> float:
        """Learning rate of a step (from 0): linear up, flat, linear down to nearly zero."""
        up, down = self.warm_up * self.steps, self.decay * self.steps
        share = min(1.0, (step + 1) / max(up, 1), (self.steps - step) / max(down, 1))
        return self.learning_rate * share

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"prefixes": list(self.prefixes)}


def default_learning_rate(n_features: int) -> float:
    """2e-4 at 16,384 features, and with the inverse square root of their number (arXiv 2406.04093, section 2.1)."""
    return 2e-4 * math.sqrt(16_384 / n_features)


def parse_prefixes(text: str | None, n_features: int) -> tuple[int, ...]:
    """Read prefixes: `32,64,128` are their sizes, `.1,.3,.6` the shares of the groups between them.

    Args:
        text: numbers with commas; None gives five groups of which each prefix is twice the one before.
        n_features: F, which the last size must be; shares must sum to 1.

    Raises:
        UsageError: what is wrong with them.
    """
    if text is None:
        return sizes_of(DEFAULT_SHARES, n_features) if n_features >= 16 else (n_features,)
    parts = [part.strip() for part in text.split(",")]
    try:
        numbers = [float(part) for part in parts]
    except ValueError as error:
        raise UsageError(f"--prefixes takes numbers with commas, as 32,64,128 or .2,.3,.5, not '{text}'.") from error
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise UsageError(f"--prefixes {text}: every number must be above zero.")
    if all(part.isdigit() for part in parts):
        return _checked(tuple(int(part) for part in parts), n_features, text)
    if abs(sum(numbers) - 1) > 0.005:
        raise UsageError(
            f"--prefixes {text}: shares of the groups must sum to 1, these sum to {sum(numbers):.4g}. "
            "Sizes of prefixes are whole numbers."
        )
    return _checked(sizes_of(numbers, n_features), n_features, text)


def sizes_of(shares: Sequence[float], n_features: int) -> tuple[int, ...]:
    """Sizes of the prefixes whose groups have these shares of F features."""
    total, sizes, sum_so_far = sum(shares), [], 0.0
    for share in shares[:-1]:
        sum_so_far += share
        sizes.append(round(n_features * sum_so_far / total))
    return (*sizes, n_features)


def _checked(sizes: tuple[int, ...], n_features: int, text: str) -> tuple[int, ...]:
    if sizes[-1] != n_features:
        raise UsageError(f"--prefixes {text}: the last prefix must be all {n_features} features, not {sizes[-1]}.")
    if sizes[0] < 1 or any(a >= b for a, b in itertools.pairwise(sizes)):
        listing = ", ".join(map(str, sizes))
        raise UsageError(f"--prefixes {text}: the sizes must rise, each group with a feature at least; got {listing}.")
    return sizes
