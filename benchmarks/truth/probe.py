"""Probes: do concepts tell the world's attributes apart as well as the embedding that they come from?"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.truth.world import World
from glasshouse.plugins.starter.world.vocabulary import CORE_ATTRIBUTES

ATTRIBUTES = tuple(CORE_ATTRIBUTES)
WITHIN = 0.05
"""How far below the embedding's probe that of the concepts may be."""


class Probed(NamedTuple):
    """Accuracy on test images of one attribute: of the concepts, their encoder's embedding, the controls."""

    accuracy: float
    embedding: float
    majority: float
    shuffled: float
    n_concepts: int

    @property
    def holds(self) -> bool:
        """Whether the concepts are within reach of the embedding."""
        return self.accuracy >= self.embedding - WITHIN


def probed(world: World, space: str) -> dict[str, Probed]:
    """Probe every attribute; the embedding is that of the starter's CLIP, for controls too."""
    found = {}
    for attribute in ATTRIBUTES:
        run = world.warehouse.analyze("probe", space, attribute=attribute, raw=False, embeddings=("clip",))[-1].run
        notes = run.notes
        found[attribute] = Probed(
            notes["accuracy"],
            notes["embeddings"]["clip"]["accuracy"],
            notes["accuracy_majority"],
            notes["accuracy_shuffled"],
            notes["n_concepts"],
        )
    return found
