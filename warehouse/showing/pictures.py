"""The pictures of images, opened as extraction opens them: files, members of tars, cached downloads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from glasshouse.schema.errors import GlasshouseError, SourceError
from glasshouse.warehouse.extraction.loading import read_image, stored_images

if TYPE_CHECKING:
    from PIL import Image

    from glasshouse.warehouse.reads import WarehouseReads


def picture(warehouse: WarehouseReads, image_id: int) -> Image.Image:
    """Return the picture of one image: RGB, upright, full size.

    Raises:
        SourceError: no file holds it any more.
    """
    ((_, found),) = pictures(warehouse, [image_id])
    if isinstance(found, SourceError):
        raise found
    return found


def pictures(warehouse: WarehouseReads, image_ids: Sequence[int]) -> Iterator[tuple[int, Image.Image | SourceError]]:
    """Yield (image_id, its picture, or the error that says why there is none) for each image once, by image_id."""
    with warehouse.catalogue.reading() as connection:
        images = stored_images(connection, image_ids)
    for image in images:
        try:
            yield image.image_id, read_image(image, warehouse.root)
        except GlasshouseError as error:
            place = image.paths[0].path if image.paths else f"SHA-256 {image.sha256}"
            yield image.image_id, SourceError(f"The picture of image {image.image_id} ({place}) is not there: {error}.")
