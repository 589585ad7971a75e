"""The concepts tell every attribute of the starter world apart nearly as well as the embedding; controls do not."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.truth.probe import probed

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")]


@pytest.mark.parametrize("space", ["cls", "patches"])
def test_concepts_are_within_reach_of_the_embedding(world: Any, space: str) -> None:
    for attribute, one in probed(world, space).items():
        print(space, attribute, one)
        assert one.embedding > 0.95 and one.holds, (attribute, one)
        assert one.shuffled <= one.majority + 0.1 < one.accuracy, (attribute, one)


def test_the_untrained_encoder_does_not_see_shapes(world: Any) -> None:
    found = {space: probed(world, f"untrained_{space}") for space in ("cls", "patches")}
    print(found)
    for figures in found.values():
        assert not figures["shape"].holds and not figures["texture"].holds
