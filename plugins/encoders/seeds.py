"""Random weights from a seed, named in a spec as `random:SEED`: for benchmarks and tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from glasshouse.schema.errors import ModelError


def seed_of(spec: str, name: str) -> int | None:
    """The seed in `random:SEED`, or None when `name` is something else.

    Raises:
        ModelError: `random` without a whole number.
    """
    word, colon, seed = name.partition(":")
    if word != "random":
        return None
    if not colon or not seed.isdecimal():
        raise ModelError(f"{spec}: random weights need a seed, a whole number: write random:0.")
    return int(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from `seed` and leave its generator as it was."""
    import torch  # late: it takes a second to import

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
