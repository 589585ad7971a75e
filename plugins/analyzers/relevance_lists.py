"""The images on which features count most, as `relevance` remembered them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView


def relevant_images(view: AnalysisView, class_name: str, n: int) -> pl.DataFrame:
    """Return the n images on which each feature counts most: feature_id, image_id, value; best first.

    Args:
        view: of the space; the newest result of `relevance` is read.
        class_name: for which it counts; '' takes every image for its own class.
        n: images of each feature.

    Raises:
        UsageError: `relevance` was never run, not for this class, or remembered fewer images.
    """
    rows = view.result("relevance")
    if class_name:
        known = sorted(rows["class_name"].unique())
        rows = rows.filter(class_name=class_name)
        if rows.is_empty():
            raise UsageError(
                f"The newest `relevance` of '{view.space}' has no class '{class_name}'. It has: "
                f"{', '.join(known[:30])}."
            )
    frame = (
        rows.select("feature_id", image_id="image_ids", value="image_relevance")
        .explode("image_id", "value")
        .drop_nulls("image_id")
        .sort("feature_id", "value", "image_id", descending=[False, True, False])
    )
    return frame.group_by("feature_id", maintain_order=True).head(n)
