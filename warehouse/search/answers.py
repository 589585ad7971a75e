"""A question together with its answer: the hits as a frame, and what was asked of what, to be kept with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glasshouse.warehouse.search.frames import feature_frame, image_frame
from glasshouse.warehouse.search.questions import MIN_IMAGES, Question
from glasshouse.warehouse.search.search import search_features, search_images

if TYPE_CHECKING:
    import polars as pl

    from glasshouse.warehouse.results.records import Run
    from glasshouse.warehouse.search.door import WarehouseSearch


@dataclass(frozen=True)
class Answer:
    """What was found, and how.

    Attributes:
        question: what was looked for.
        frame: the hits, best first: query, space, feature_id or image_id, score, and what is known of each.
        runs: the runs of `concepts` that were asked; none for images.
        embedding: the one that images were compared in; None for features, whose runs say it.
    """

    question: Question
    frame: pl.DataFrame
    runs: Sequence[Run] = ()
    embedding: str | None = None

    def about(self) -> dict[str, Any]:
        """Return everything that it takes to ask the same again, as JSON can hold it."""
        question = self.question
        asked: dict[str, Any] = {
            "queries": list(question.texts),
            "templates": list(question.templates),
            "images": [str(image) for image in question.images],
            "like": None if question.like is None else f"{question.like[0]}:{question.like[1]}",
            "centre": question.centre,
        }
        if self.embedding is not None:
            return {**asked, "embedding": self.embedding}
        return {**asked, "concepts": [{"space": run.space, "run_id": run.run_id, **run.facets} for run in self.runs]}

    def with_question(self) -> pl.DataFrame:
        """Return the frame with the question in every row: templates, centre, embedding, run_id."""
        import polars as pl

        frame = self.frame.with_columns(
            pl.lit("; ".join(self.question.templates)).alias("templates"), pl.lit(self.question.centre).alias("centre")
        )
        if self.embedding is not None:
            return frame.with_columns(pl.lit(self.embedding).alias("embedding"))
        runs = pl.DataFrame(
            {
                "space": [run.space for run in self.runs],
                "embedding": [str(run.facets["embedding"]) for run in self.runs],
                "run_id": [run.run_id for run in self.runs],
            },
            schema={"space": pl.String, "embedding": pl.String, "run_id": pl.Int32},
        )
        return frame.join(runs, on="space", how="left", maintain_order="left")


def answer(
    warehouse: WarehouseSearch,
    question: Question,
    spaces: Sequence[str] = (),
    k: int = 20,
    *,
    images: bool = False,
    min_images: int = MIN_IMAGES,
) -> Answer:
    """Search features, or images, and say what was asked; as `search_features` and `search_images`."""
    if images:
        found = search_images(warehouse, question, k)
        return Answer(question, image_frame(warehouse, question, found), embedding=found.embedding)
    features = search_features(warehouse, question, spaces, k, min_images)
    return Answer(question, feature_frame(warehouse, question, features), features.runs)
