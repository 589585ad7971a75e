"""What can be asked: words, pictures or a feature, and how they are compared. Light: the command line imports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glasshouse.schema.errors import UsageError

ImageName = int | str | Path
"""An image of the warehouse (id, path, end of a path, SHA-256), or a picture file of anywhere."""

GAP = "{}"
"""Where a template takes the query."""

MIN_IMAGES = 10
"""Features whose concept vector is of fewer images are left out: the mean of a few is near whatever they show."""


@dataclass(frozen=True)
class Question:
    """What is looked for; exactly one of texts, pictures and a feature.

    Attributes:
        texts: each is a query of its own, with its own hits.
        templates: for texts; `{}` is where the text goes, and the template without it is subtracted.
        images: pictures that are one query together.
        like: (space, feature_id).
        embedding: in which to compare; None: what the newest concept vectors are of.
        crop: whether concept vectors of cropped images are asked, or of whole ones; None: the newest.
        centre: subtract the mean image embedding from the vectors (and from a picture's or feature's query), so that
            what all images share does not count. Default off, as in the definition; with templates it finds more.
    """

    texts: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    images: tuple[ImageName, ...] = ()
    like: tuple[str, int] | None = None
    embedding: str | None = None
    crop: bool | None = None
    centre: bool = False

    def __post_init__(self) -> None:
        if (len(self.texts) > 0) + (len(self.images) > 0) + (self.like is not None) != 1:
            raise UsageError('Search with words ("striped"), with pictures, or with a feature: one of the three.')
        if self.templates and not self.texts:
            raise UsageError("Templates are for words; pictures and features have none.")
        if self.texts:
            check_queries(self.texts)
        check_templates(self.templates)

    @property
    def names(self) -> list[str]:
        """What each query is called in results."""
        if self.like is not None:
            return [f"{self.like[0]}:{self.like[1]}"]
        return list(self.texts) or [", ".join(str(image) for image in self.images)]


def check_queries(queries: Sequence[str]) -> None:
    """See that there is a query and that none is empty.

    Raises:
        UsageError: otherwise.
    """
    if not queries or any(not query.strip() for query in queries):
        raise UsageError('The query is empty. Say what to look for, e.g. "striped".')


def check_templates(templates: Sequence[str]) -> None:
    """See that every template has a place for the query.

    Raises:
        UsageError: one has none.
    """
    for template in templates:
        if GAP not in template:
            raise UsageError(f'The template "{template}" has no {GAP} for the query; write e.g. "a photo of {GAP}".')
