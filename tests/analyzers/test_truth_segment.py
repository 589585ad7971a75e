"""Segmentation on the starter world: concepts find shapes, colours and textures as the features do; controls do not."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")]

N = 100


@pytest.fixture(scope="module")
def segmented_world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return scenes with masks, and the spaces `dinoised` and `untrained`."""
    from benchmarks.truth.segment import segment_world

    warehouse = segment_world(tmp_path_factory.mktemp("segment"), N)
    yield warehouse
    warehouse.close()


@pytest.mark.parametrize(("attribute", "at_least"), [("shape", 0.85), ("colour", 0.65), ("texture", 0.8)])
def test_concepts_segment_what_masks_show(segmented_world: Any, attribute: str, at_least: float) -> None:
    """Bounds a little below what 2,000 scenes gave, docs/analyses.md."""
    from benchmarks.truth.segment import segmentation

    found = segmentation(segmented_world, attribute)
    assert found.concepts >= at_least
    # The concepts keep what the features know.
    assert abs(found.concepts - found.features) < 0.05
    assert found.shuffled < 0.05
    assert found.untrained < 0.25
    assert found.shuffled < found.with_background < found.concepts


def test_a_word_segments_by_the_concepts_that_stand_for_it(segmented_world: Any) -> None:
    """Of each shape the concept of the largest share: where it is active, the shape is annotated."""
    from benchmarks.truth.segment import SPACE, notes

    notes(segmented_world, SPACE, "shape")
    best = segmented_world.sql(
        "SELECT class_name, arg_max(feature_id, share) AS feature_id FROM segment "
        "WHERE space = $space AND class_name IN ('star', 'heart', 'ring', 'cross') GROUP BY class_name",
        {"space": SPACE},
    )
    segmented_world.analyze("locality", SPACE)
    located = segmented_world.sql(
        "SELECT feature_id, category, pointing FROM locality WHERE space = $space", {"space": SPACE}
    )
    joined = best.join(located, on="feature_id")
    own = joined.filter(joined["class_name"] == joined["category"])
    assert best.height == own.height == 4
    assert own["pointing"].mean() > 0.85
