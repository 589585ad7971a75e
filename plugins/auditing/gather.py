"""What an audit says, gathered for a table or a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.results.store import latest_run
from glasshouse.warehouse.showing.gather import labels_of

if TYPE_CHECKING:
    from glasshouse.warehouse.results.records import Run
    from glasshouse.warehouse.warehouse import Warehouse


class Leaning(NamedTuple):
    """An image of the class, and what flagged components count for on it, together."""

    image_id: int
    relevance: float


def audit_rows(warehouse: Warehouse, run: Run) -> pl.DataFrame:
    """Return the rows of an audit with a column `label`: flagged ones first, then those that count most."""
    rows = warehouse.result_rows(run)
    with warehouse.reading() as connection:
        labels = labels_of(connection, run.space, rows["feature_id"].to_list())
    named = pl.Series("label", [labels.get(feature, "") for feature in rows["feature_id"]], dtype=pl.String)
    return rows.with_columns(named).sort("is_flagged", "share", "feature_id", descending=[True, True, False])


def newest_audit(warehouse: Warehouse, space: str, class_name: str | None) -> Run:
    """Return the newest audit of a space.

    Raises:
        UsageError: there is none of this class.
    """
    facets = {} if class_name is None else {"class_name": class_name}
    run = latest_run(warehouse.catalogue, "audit", space, facets)
    if run is None:
        of = "" if class_name is None else f" of '{class_name}'"
        raise UsageError(
            f"There is no audit{of} of the space '{space}'. Run `glasshouse audit --space {space} --class "
            f"{class_name or 'NAME'} --valid FILE --spurious FILE`."
        )
    return run


def leaning_images(warehouse: Warehouse, run: Run, k: int) -> list[Leaning]:
    """Return the images of the class on which the flagged components count most, together.

    Of each component the images count that `relevance` remembered (its `--n`), so the sums are from below.
    """
    flagged = warehouse.result_rows(run).filter("is_flagged")["feature_id"].to_list()
    relevance = latest_run(warehouse.catalogue, "relevance", run.space, {"method": run.notes["relevance"]})
    if relevance is None or not flagged:
        return []
    rows = warehouse.result_rows(relevance).filter(
        pl.col("feature_id").is_in(flagged), class_name=str(run.facets["class_name"])
    )
    sums = (
        rows.explode("image_ids", "image_relevance")
        .drop_nulls("image_ids")
        .group_by("image_ids")
        .agg(pl.col("image_relevance").sum())
        .sort("image_relevance", "image_ids", descending=[True, False])
    )
    return [
        Leaning(int(image), float(value))
        for image, value in sums.select("image_ids", "image_relevance").head(k).iter_rows()
    ]
