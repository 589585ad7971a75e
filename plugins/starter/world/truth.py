"""Whether a caption is true of a picture, decided from bit sets.

A caption requires bits of at most two different objects and of the scene. A picture has for each object, and for
the scene, bits that certainly hold and bits that may hold. For a whole scene the two are the same; for a crop, size
and position may be anything and an object that is cut off may have any value. So truth has three values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.starter.world.scene import Scene

BitArray = npt.NDArray[np.uint64]

TRUE: Final = 1
FALSE: Final = 0
UNKNOWN: Final = -1


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims: required bits of one or two distinct objects, and of the scene."""

    text: str
    objects: tuple[int, ...] = ()
    scene: int = 0


@dataclass(frozen=True)
class Facts:
    """What is known of a picture, as (certain, possible) bit sets per object and for the scene."""

    objects: tuple[tuple[int, int], ...]
    scene: tuple[int, int]


def facts_of(scene: Scene) -> Facts:
    """The facts of a whole scene, where everything is certain."""
    return Facts(tuple((o.facts, o.facts) for o in scene.objects), (scene.facts, scene.facts))


def pack_captions(captions: Sequence[Caption]) -> BitArray:
    """Required bits [n_captions, 3]: first object, second object, scene."""
    rows = [(*c.objects, *(0,) * (2 - len(c.objects)), c.scene) for c in captions]
    return np.array(rows, dtype=np.uint64).reshape(-1, 3)


def pack_facts(pictures: Sequence[Facts]) -> BitArray:
    """Facts [n_pictures, 3, 2]: first object, second object, scene; certain and possible."""
    rows = [[*f.objects, *((0, 0),) * (2 - len(f.objects)), f.scene] for f in pictures]
    return np.array(rows, dtype=np.uint64).reshape(-1, 3, 2)


def _holds(required_c3: BitArray, given_n3: BitArray) -> npt.NDArray[np.bool_]:
    """[n_captions, n_pictures]: every requirement is met, by two different objects where two are required."""

    def met(requirement: int, fact: int) -> npt.NDArray[np.bool_]:
        needed = required_c3[:, requirement, None]
        return np.asarray((needed & given_n3[None, :, fact]) == needed)

    straight = met(0, 0) & met(1, 1)
    crossed = met(0, 1) & met(1, 0)
    return (straight | crossed) & met(2, 2)


def truth_matrix(required_c3: BitArray, facts_n32: BitArray) -> npt.NDArray[np.int8]:
    """Truth [n_captions, n_pictures] of packed captions: TRUE, FALSE or UNKNOWN."""
    certain = _holds(required_c3, facts_n32[:, :, 0])
    possible = _holds(required_c3, facts_n32[:, :, 1])
    return np.where(certain, TRUE, np.where(possible, UNKNOWN, FALSE)).astype(np.int8)


def truth(caption: Caption, picture: Scene | Facts) -> bool | None:
    """Whether the caption is true of the picture; None when the picture (a crop) does not tell."""
    facts = facts_of(picture) if isinstance(picture, Scene) else picture
    value = int(truth_matrix(pack_captions([caption]), pack_facts([facts]))[0, 0])
    return None if value == UNKNOWN else value == TRUE
