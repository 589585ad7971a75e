"""The searching half of the Python door: features and images by words, by pictures and by features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.contracts import Encoder, PluginSet, SparseAutoencoder
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.search.memory import SearchMemory
from glasshouse.warehouse.search.questions import MIN_IMAGES, ImageName, Question
from glasshouse.warehouse.showing.door import WarehouseShowing

if TYPE_CHECKING:
    import polars as pl


class WarehouseSearch(WarehouseShowing):
    """Reads that may need a model: an encoder is loaded when a text or a picture has no vector yet.

    Args:
        layout: of the warehouse.
        plugins: what loads encoders by their specs; None where nothing is to be loaded.
    """

    def __init__(self, layout: Layout, plugins: PluginSet | None = None) -> None:
        super().__init__(layout)
        self.plugins = plugins

    @cached_property
    def searching(self) -> SearchMemory:
        """What searching keeps in memory: encoders, vectors of texts, matrices of vectors."""
        return SearchMemory()

    def _need_plugins(self, what: str) -> PluginSet:
        if self.plugins is None:
            raise UsageError(
                f"This warehouse was opened without plugins, which {what} needs. Open it with "
                "Warehouse.open(…, plugins=Plugins()), from glasshouse.plugins.manager."
            )
        return self.plugins

    def load_encoder(self, spec: str, device: str = "cpu") -> Encoder:
        """Load an encoder from its spec.

        Raises:
            ModelError: it cannot be loaded.
        """
        return self._need_plugins("an encoder by its spec").load_encoder(spec, device)

    def kept_encoder(self, spec: str, device: str = "cpu") -> Encoder:
        """Load an encoder by the spec that is stored here, or return the one that was loaded before.

        It is kept as long as this `Warehouse`.

        Raises:
            ModelError: it cannot be loaded, or would run code that the user has not named.
        """
        memory, key = self.searching, (spec, device)
        with memory.lock:
            if key not in memory.encoders:
                plugins = self._need_plugins("an encoder by its spec")
                memory.encoders[key] = plugins.load_stored_encoder(spec, device)
            return memory.encoders[key]

    def load_sae(self, spec: str, device: str = "cpu") -> SparseAutoencoder:
        """Load a sparse autoencoder from its spec.

        Raises:
            ModelError: it cannot be loaded.
        """
        return self._need_plugins("an SAE by its spec").load_sae(spec, device)

    def search(
        self,
        queries: str | Sequence[str] = (),
        *,
        image: ImageName | Sequence[ImageName] = (),
        like: tuple[str, int] | None = None,
        space: str | Sequence[str] = (),
        k: int = 20,
        images: bool = False,
        templates: Sequence[str] = (),
        embedding: str | None = None,
        crop: bool | None = None,
        centre: bool = False,
        min_images: int = MIN_IMAGES,
    ) -> pl.DataFrame:
        """Find features, or images, with words, with pictures, or with a feature: `warehouse.search("striped")`.

        Args:
            queries: words; several are asked one by one.
            image: one or several pictures that are one query together: ids, paths, or files of anywhere.
            like: (space, feature_id).
            space: name or names; every space that has concept vectors when none is given.
            k: hits of each query.
            images: look for images instead of features.
            templates: texts with `{}` for the words, e.g. "a photo of {}"; each without the words is subtracted.
            embedding: in which to compare.
            crop: ask concept vectors of cropped images, or of whole ones; None: the newest.
            centre: subtract the mean image embedding; recommended with templates.
            min_images: features whose concept vector is of fewer images are left out.

        Returns:
            query, space, feature_id, score (cosine) and label, ms, tier, … where analyses have made them; of images
            query, image_id, score, path. Best first.

        Raises:
            UsageError: unknown names, an empty query, or no concept vectors; says what to run.
        """
        from glasshouse.warehouse.search.answers import answer  # late: it brings what only a search needs

        question = Question(
            _several(queries), tuple(templates), _several(image), like, embedding=embedding, crop=crop, centre=centre
        )
        return answer(self, question, _several(space), k, images=images, min_images=min_images).frame

    def similar_features(self, space: str, feature: int, k: int = 20, *, within: str | None = None) -> pl.DataFrame:
        """Return the features of a space, or of another one (`within`), that are most like a feature.

        Returns:
            As `search`.
        """
        return self.search(like=(space, feature), space=within or space, k=k)


def _several(given: Any) -> tuple[Any, ...]:
    """Return one thing, or several, as a tuple."""
    return (given,) if isinstance(given, (str, int, Path)) else tuple(given)
