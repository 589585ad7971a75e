"""What is known of one feature and of one image, as plain data that shows itself in a notebook and on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from glasshouse.schema.plain import plain

if TYPE_CHECKING:
    from glasshouse.warehouse.reads import WarehouseReads

Row = dict[str, Any]


@dataclass(frozen=True)
class TopImage:
    """An image on which a feature is strong; `token` is the place of the maximum in patch spaces."""

    image_id: int
    path: str
    value: float
    token: int | None = None


@dataclass(frozen=True)
class SimilarFeature:
    """A feature of the same space, by the cosine of concept vectors."""

    feature_id: int
    similarity: float
    label: str | None = None


@dataclass(frozen=True)
class _Card:
    """What both cards can do."""

    warehouse: WarehouseReads = field(repr=False, compare=False)

    def as_dict(self) -> Row:
        """Return the card as plain data that JSON can hold."""
        return {f.name: _plain_data(getattr(self, f.name)) for f in fields(self) if f.name != "warehouse"}


def _plain_data(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain_data(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain_data(item) for name, item in value.items()}
    return asdict(value) if isinstance(value, TopImage | SimilarFeature | StrongFeature) else value


@dataclass(frozen=True)
class FeatureCard(_Card):
    """One feature of a space.

    Attributes:
        space: its name.
        feature_id: of the feature.
        n_images: images that the space covers.
        statistics: n_active, frequency, mean_active, std_active, max_value, n_tokens, …
        results: rows of every analysis that speaks of the feature, by the analyzer's name: its columns, the facets of
            its run, `run_id` and `stale`. Analyzers of plugins are among them.
        top_images: strongest first.
        similar: closest first; empty without concept vectors.
    """

    space: str
    feature_id: int
    n_images: int
    statistics: Row
    results: dict[str, list[Row]]
    top_images: list[TopImage]
    similar: list[SimilarFeature]

    def rows(self, analyzer: str) -> Sequence[Mapping[str, Any]]:
        """Return the rows of one analysis; none where it was never run."""
        return self.results.get(analyzer, [])

    @property
    def name(self) -> str:
        """The feature as commands take it, e.g. `cls:69`."""
        return f"{self.space}:{self.feature_id}"

    @property
    def label(self) -> str | None:
        """What the newest labeler that answered calls it; else its newest name."""
        for analyzer, column in (("labels", "label"), ("names", "name")):
            named = [row for row in self.rows(analyzer) if row.get(column)]
            if named:
                return str(max(named, key=lambda row: row["run_id"])[column])
        return None

    @property
    def correlations(self) -> list[Mapping[str, Any]]:
        """Rows of `correlation`, strongest first; those that were not tested (no variance) come last."""
        return sorted(self.rows("correlation"), key=lambda row: -abs(row.get("r") or 0.0))

    @property
    def is_stale(self) -> bool:
        """Whether any result is."""
        return any(row.get("stale") for rows in self.results.values() for row in rows)

    def __repr__(self) -> str:
        return f"FeatureCard({plain(self.name)!r}, label={plain(self.label or '')!r})"

    def __str__(self) -> str:
        from glasshouse.warehouse.showing.text import feature_text

        return feature_text(self)

    def _repr_html_(self) -> str:
        from glasshouse.warehouse.showing.notebook import feature_html

        return feature_html(self)


@dataclass(frozen=True)
class StrongFeature:
    """A feature that is strong on an image; `rank` counts from 1 among the image's features."""

    feature_id: int
    value: float
    rank: int
    label: str | None = None


@dataclass(frozen=True)
class ImageCard(_Card):
    """One image.

    Attributes:
        image_id: of the image.
        record: its row of `images`: path, width, height (pixels), format, brightness, …
        paths: every place where it was seen.
        captions: texts that speak of it.
        ratings: per dimension: mean, n (ratings), low, high.
        labels: (attribute, value) pairs.
        objects: how many annotated objects of each category it has.
        features: its strongest features, by space.
        not_known: why a space does not know them, by space: one that keeps the strongest images of each feature only.
    """

    image_id: int
    record: Row
    paths: list[str]
    captions: list[str]
    ratings: list[Row]
    labels: list[Row]
    objects: list[Row]
    features: dict[str, list[StrongFeature]]
    not_known: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The path under which it was first seen."""
        return str(self.record["path"])

    def __repr__(self) -> str:
        return f"ImageCard({self.image_id}, {plain(self.path)!r})"

    def __str__(self) -> str:
        from glasshouse.warehouse.showing.text import image_text

        return image_text(self)

    def _repr_html_(self) -> str:
        from glasshouse.warehouse.showing.notebook import image_html

        return image_html(self)
