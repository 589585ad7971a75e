"""Taking a value's pure feature out of the pass moves that value's score most; controls do nothing of the kind."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.truth.ablate import KNOWN_TO_CLS, ablated, without_patches
from glasshouse.plugins.starter.world.vocabulary import CORE_ATTRIBUTES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")]

REST = tuple(attribute for attribute in CORE_ATTRIBUTES if attribute not in KNOWN_TO_CLS)


def test_features_of_the_cls_token_cause_what_they_stand_for(world: Any) -> None:
    found = ablated(world, "cls")
    print({name: found.share(name) for name in found._fields}, [v for v, moved in found.moved.items() if not moved])
    assert len(found.moved) >= 32
    assert found.share() >= 0.85 and found.share("also") >= 0.9
    assert found.share("feature") <= 0.15 and found.share("direction") <= 0.15


def test_features_of_patches_cause_what_the_cls_token_does_not_know_yet(world: Any) -> None:
    found = ablated(world, "patches")
    print({name: found.share(name) for name in found._fields}, [v for v, moved in found.moved.items() if not moved])
    assert found.share("moved", REST) >= 0.8 and found.share("also", REST) >= 0.85
    assert found.share("moved", KNOWN_TO_CLS) < found.share("moved", REST)
    assert found.share("feature") <= 0.15 and found.share("direction") <= 0.15


def test_why_patches_cannot_move_positions_and_backgrounds(world: Any) -> None:
    left = without_patches(world)
    print(left)
    assert all(plain >= 0.95 for plain, _ in left.values())
    assert all(left[attribute][1] >= 0.95 for attribute in KNOWN_TO_CLS)
    assert all(left[attribute][1] < 0.85 for attribute in REST)
