"""Which features are labelled, and what a labeler is shown of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from glasshouse.plugins.labelers.prompts import label_prompt
from glasshouse.plugins.labeling import FeatureExample, FeatureQuestion
from glasshouse.schema.errors import SourceError, UsageError
from glasshouse.warehouse.results.store import latest_run

if TYPE_CHECKING:
    import polars as pl
    from PIL import Image

    from glasshouse.plugins.view import AnalysisView


class Chosen(NamedTuple):
    """Features to label, most wanted first, and what they were chosen by."""

    features: list[int]
    by: str


def choose_features(view: AnalysisView, features: Sequence[int], n: int) -> Chosen:
    """Return the features that are named, else the n best: by tier, then by MS, then by how many images they are on.

    Raises:
        UsageError: a named feature does not exist.
    """
    if features:
        wrong = [feature for feature in features if not 0 <= feature < view.n_features]
        if wrong:
            raise UsageError(
                f"The space '{view.space}' has no feature {wrong[0]}: they run from 0 to {view.n_features - 1}."
            )
        return Chosen(list(dict.fromkeys(features)), "name")
    chosen: dict[int, str] = {}
    for by, ranked in _orders(view):
        for feature in ranked["feature_id"].to_list():
            if len(chosen) < n:
                chosen.setdefault(int(feature), by)
        if len(chosen) == n:
            break  # what was not needed is not read, and so no input of the run
    return Chosen(list(chosen), ", then ".join(dict.fromkeys(chosen.values())))


def _orders(view: AnalysisView) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield what features can be chosen by, best first, with the features in that order."""
    tiers = result_or_none(view, "tiers")
    if tiers is not None:
        yield "tier", tiers.sort("tier", "rank", "feature_id")
    scores = result_or_none(view, "monosemanticity")
    if scores is not None:
        scores = scores.drop_nulls("ms")
        ranked = scores.filter(~scores["ms"].is_nan()).sort(["ms", "feature_id"], descending=[True, False])
        yield "ms", ranked
    active = view.statistics()
    active = active.filter(active["n_active"] > 0)
    yield "activity", active.sort(["n_active", "feature_id"], descending=[True, False])


def result_or_none(view: AnalysisView, analyzer: str) -> pl.DataFrame | None:
    """Return the rows of an analyzer's newest result, or None where it was never run."""
    known = latest_run(view.warehouse.catalogue, analyzer, view.space)
    return None if known is None else view.result(analyzer)


@dataclass(frozen=True)
class Questioner:
    """Makes the questions about features; used by several threads.

    Attributes:
        view: of the space.
        image_values: the strongest images of each feature, with their activation.
        ratings: dimension and r of the rating that each feature goes with.
        with_pictures: whether pictures are opened.
    """

    view: AnalysisView
    image_values: Mapping[int, Sequence[tuple[int, float]]]
    ratings: Mapping[int, tuple[str, float]]
    with_pictures: bool

    def question(self, feature: int) -> FeatureQuestion:
        """Return the question about one feature. Images that cannot be opened are left out.

        Raises:
            SourceError: none of them can be opened.
        """
        examples = list(self._examples(feature)) if self.with_pictures else []
        dimension, r = self.ratings.get(feature, (None, None))
        has_overlays = any(example.overlay is not None for example in examples)
        prompt = label_prompt(len(examples), has_overlays=has_overlays, dimension=dimension, r=r)
        return FeatureQuestion(feature, prompt, examples, dimension, r)

    def _examples(self, feature: int) -> list[FeatureExample]:
        from glasshouse.warehouse.showing.pictures import pictures

        values = dict(self.image_values.get(feature, ()))
        if not values:
            raise SourceError("it is active on no image")
        found = dict(pictures(self.view.warehouse, list(values)))
        examples, reason = [], ""
        for image, value in values.items():
            picture = found[image]
            if isinstance(picture, SourceError):
                reason = reason or str(picture)
            else:
                examples.append(FeatureExample(image, value, picture, self._overlay(feature, image, picture)))
        if not examples:
            raise SourceError(reason)
        return examples

    def _overlay(self, feature: int, image: int, picture: Image.Image) -> Image.Image | None:
        if self.view.grid is None:
            return None
        from glasshouse.warehouse.showing.overlay import heat_overlay

        framing = self.view.warehouse.space(self.view.space).framing
        return heat_overlay(picture, self.view.token_map(feature, image), framing)


def questioner(view: AnalysisView, features: Sequence[int], n_images: int, *, with_pictures: bool) -> Questioner:
    """Gather what the questions about features are made of."""
    images: dict[int, list[tuple[int, float]]] = {feature: [] for feature in features}
    top = view.top_images(n_images)
    for feature, image, value in (
        top.filter(top["feature_id"].is_in(list(images))).select("feature_id", "image_id", "value").iter_rows()
    ):
        images[feature].append((int(image), float(value)))
    return Questioner(view, images, _ratings_of(view), with_pictures)


def _ratings_of(view: AnalysisView) -> dict[int, tuple[str, float]]:
    """Return the strongest correlation of each feature with a rating that is significant (q < .05), by feature."""
    found = result_or_none(view, "correlation")
    if found is None:
        return {}
    strong = found.drop_nulls(["r", "q"])
    strong = strong.filter(strong["q"] < 0.05)
    order = strong.with_columns(size=strong["r"].abs()).sort(["feature_id", "size"], descending=[False, True])
    first = order.unique("feature_id", keep="first", maintain_order=True)
    return {int(f): (str(d), float(r)) for f, d, r in first.select("feature_id", "dimension", "r").iter_rows()}
