"""Small copies of pictures, and their heat maps, for pages and contact sheets.

Rules: large pictures are shrunk, small ones are enlarged by a whole factor without smoothing, so that single pixels
stay what they are. One picture is opened once, however many features it belongs to.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.showing.overlay import heat_overlay
from glasshouse.warehouse.showing.pictures import pictures

if TYPE_CHECKING:
    from glasshouse.warehouse.reads import WarehouseReads

JPEG_QUALITY = 85


class Thumbnail(NamedTuple):
    """A small copy, or the reason why there is none; `original_size` is the picture's width and height in pixels."""

    image: Image.Image | None
    original_size: tuple[int, int]
    failure: str | None = None


@dataclass(frozen=True)
class Tally:
    """The images whose pictures were wanted, and those of them whose picture could not be opened."""

    wanted: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)

    def __str__(self) -> str:
        n, of = len(self.missing), len(self.wanted)
        wanted = f"{of:,} picture{'' if of == 1 else 's'}"
        return f"{n:,} of {wanted} could not be opened and {'is' if n == 1 else 'are'} missing"


def fit(picture: Image.Image, side: int) -> Image.Image:
    """Return a copy whose longer side is at most `side` pixels."""
    width, height = picture.size
    longest = max(width, height)
    if longest > side:
        small = (max(1, round(width * side / longest)), max(1, round(height * side / longest)))
        return picture.resize(small, Image.Resampling.LANCZOS, reducing_gap=3.0)
    factor = side // longest
    return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST) if factor > 1 else picture.copy()


class Thumbnails:
    """Thumbnails of one warehouse's images, kept once they are made.

    Args:
        warehouse: that is read.
        side: the longer side of a thumbnail, in pixels.
        tally: where pictures are counted.
    """

    def __init__(self, warehouse: WarehouseReads, side: int, tally: Tally | None = None) -> None:
        self.side = side
        self.tally = Tally() if tally is None else tally
        self._warehouse = warehouse
        self._made: dict[int, Thumbnail] = {}

    def prepare(self, image_ids: Iterable[int]) -> None:
        """Make the thumbnails of many images with one look into the catalogue."""
        missing = sorted(set(image_ids) - self._made.keys())
        for image_id, found in pictures(self._warehouse, missing) if missing else ():
            self.tally.wanted.add(image_id)
            if isinstance(found, SourceError):
                self.tally.missing.add(image_id)
                self._made[image_id] = Thumbnail(None, (1, 1), str(found))
            else:
                self._made[image_id] = Thumbnail(fit(found, self.side), found.size)

    def of(self, image_id: int) -> Thumbnail:
        """Return the thumbnail of one image."""
        self.prepare([image_id])
        return self._made[image_id]

    def heat(self, space: str, feature: int, image_id: int, maximum: float | None) -> Thumbnail:
        """Return the thumbnail under a feature's heat map; plain in spaces without maps.

        Args:
            space: its name.
            feature: of the space.
            image_id: of the image.
            maximum: the activation that is drawn hottest; None: the largest on this image.
        """
        made, reader = self.of(image_id), self._warehouse.space(space)
        if made.image is None or reader.grid is None:
            return made
        map_hw = reader.token_map(feature, image_id)
        shown = heat_overlay(made.image, map_hw, reader.framing, maximum=maximum, original_size=made.original_size)
        return Thumbnail(shown, made.original_size)


def data_uri(image: Image.Image) -> str:
    """Return a picture as a JPEG inside a URL, for HTML without other files."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
