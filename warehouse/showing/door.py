"""The showing half of the Python door: features, images, hierarchies and captions, as objects that show themselves."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.reads import WarehouseReads

if TYPE_CHECKING:
    from glasshouse.warehouse.showing.caption import ImageCaption
    from glasshouse.warehouse.showing.cards import FeatureCard, ImageCard
    from glasshouse.warehouse.showing.hierarchy import FeatureHierarchy


class WarehouseShowing(WarehouseReads):
    """Reads that give something to look at: in a notebook it draws itself, `print` gives text."""

    def feature(self, space: str, feature: int | None = None, k: int = 12) -> FeatureCard:
        """Return what is known of a feature, with its k strongest images; displays itself in a notebook.

        Raises:
            UsageError: no such space or feature, or no number.
        """
        if not isinstance(feature, Integral):
            raise UsageError("A feature is named by its space and its number, e.g. warehouse.feature('patches', 2).")
        from glasshouse.warehouse.showing.gather import feature_card

        return feature_card(self, space, int(feature), k)

    def image(self, image: int | str | Path, k: int = 10) -> ImageCard:
        """Return what is known of an image, with its k strongest features in each space; displays itself in a notebook.

        Raises:
            UsageError: no such image.
        """
        from glasshouse.warehouse.showing.gather import image_card

        return image_card(self, self.image_id(image), k)

    def hierarchy(
        self,
        space: str,
        rule: str = "tested",
        *,
        kinds: Collection[str] = (),
        root: int | None = None,
        depth: int | None = None,
    ) -> FeatureHierarchy:
        """Return what `hierarchy` found on a space, by the rule `tested` or `published`; `print` shows it as a tree.

        Args:
            space: its name.
            rule: see docs/analyses.md.
            kinds: only edges of these kinds: `kind_of`, `part_of`, `implied`.
            root: only what lies below this feature.
            depth: only so many levels below the roots.

        Raises:
            UsageError: no such space, rule, kind or root, or there is no result.
        """
        from glasshouse.warehouse.showing.hierarchy import hierarchy_of

        return hierarchy_of(self, space, rule, kinds, root, depth)

    def caption(self, image: int | str | Path, space: str | None = None, k: int = 6) -> ImageCaption:
        """Return an image in words: its named concepts, each with where it is; `print` it for the sentence.

        Args:
            image: by id, path, end of a path, or SHA-256.
            space: a patch space whose features have names or labels; None where there is only one.
            k: how many concepts at most.

        Raises:
            UsageError: no such image or space, or nothing has a name; says what to run.
        """
        from glasshouse.warehouse.showing.caption import caption_of

        return caption_of(self, self.image_id(image), space, k)
