"""Pictures that one searches with: those of the warehouse by their stored vectors, others through the encoder."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.schema.errors import GlasshouseError, ModelError, SourceError, UsageError
from glasshouse.warehouse.search.encoders import EmbeddingRecord, encoder_of
from glasshouse.warehouse.search.index import image_index
from glasshouse.warehouse.search.questions import ImageName

if TYPE_CHECKING:
    from PIL import Image

    from glasshouse.warehouse.search.door import WarehouseSearch


class QueryPicture(NamedTuple):
    """A picture that is asked about: its `image_id` if the warehouse has it, else its file."""

    image_id: int | None
    file: Path | None


def find_picture(warehouse: WarehouseSearch, name: ImageName) -> QueryPicture:
    """Say what a name stands for: an existing file first, known to the warehouse or not, then an image by its name.

    Raises:
        UsageError: neither a file nor an image.
    """
    if isinstance(name, int):
        return QueryPicture(warehouse.image_id(name), None)
    file = Path(name)
    if file.is_file():
        with contextlib.suppress(UsageError):
            return QueryPicture(warehouse.image_id(hashlib.sha256(file.read_bytes()).hexdigest()), file)
        return QueryPicture(None, file)
    if str(name).isdecimal():
        return QueryPicture(warehouse.image_id(int(str(name))), None)
    try:
        return QueryPicture(warehouse.image_id(str(name)), None)
    except UsageError as error:
        raise UsageError(f"There is no file '{name}', and in the warehouse: {error}") from None


def picture_vectors(
    warehouse: WarehouseSearch, record: EmbeddingRecord, pictures: Sequence[QueryPicture]
) -> npt.NDArray[np.float32]:
    """Return the embedding of each picture, float32 [n, E], not normalised.

    Raises:
        UsageError: a picture without a vector, and the embedding was imported, so that it cannot get one.
        SourceError: a file is no picture.
    """
    index = image_index(warehouse, record)
    rows = [None if picture.image_id is None else index.row_of(picture.image_id) for picture in pictures]
    vectors_ne = np.empty((len(pictures), record.width), np.float32)
    for i, (picture, row) in enumerate(zip(pictures, rows, strict=True)):
        vectors_ne[i] = _embed(warehouse, record, picture) if row is None else index.vectors_ke[row]
    return vectors_ne


def _embed(warehouse: WarehouseSearch, record: EmbeddingRecord, picture: QueryPicture) -> npt.NDArray[np.float32]:
    """Return the embedding [E] of a picture without a stored vector."""
    import torch  # late: searching by stored vectors needs none

    encoder = encoder_of(warehouse, record)
    tensor_chw = encoder.preprocess(opened(warehouse, picture))
    embedded_be = encoder.forward(torch.stack([tensor_chw]), []).embedding_be
    if embedded_be is None:
        raise ModelError(f"{record.encoder_spec} gives no image embedding, so pictures cannot be compared with it.")
    vector_e: npt.NDArray[np.float32] = embedded_be[0].float().cpu().numpy()
    return vector_e


def opened(warehouse: WarehouseSearch, picture: QueryPicture) -> Image.Image:
    """Return the pixels of a picture, RGB and upright.

    Raises:
        SourceError: its file is gone, or is no picture.
    """
    if picture.image_id is not None:
        return warehouse.picture(picture.image_id)
    if picture.file is None:
        raise UsageError("A picture is needed: a file, or an image of the warehouse.")
    from glasshouse.warehouse.intake.pictures import decode  # late: it brings Pillow

    try:
        return decode(picture.file.read_bytes())
    except (OSError, GlasshouseError) as error:
        raise SourceError(f"{picture.file} is no picture that can be read: {error}") from error
