"""Texts against images, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from glasshouse.warehouse.search.encoders import embedding_record
from glasshouse.warehouse.search.index import image_index
from glasshouse.warehouse.search.texts import embed_texts, text_embedding

if TYPE_CHECKING:
    from glasshouse.warehouse.search.door import WarehouseSearch

PAIRS = 65536
"""Pairs whose vectors are gathered at once."""


def text_image_cosines(
    warehouse: WarehouseSearch,
    texts: Sequence[str],
    text_of_n: npt.NDArray[np.integer],
    image_of_n: npt.NDArray[np.integer],
    embedding: str | None = None,
) -> npt.NDArray[np.float32]:
    """Return the cosine of each pair of a text and an image [n]; NaN where there is no text, or no vector.

    Args:
        warehouse: whose images are compared.
        texts: distinct ones; each is embedded once.
        text_of_n: row in `texts` of each pair, -1 for none.
        image_of_n: image_id of each pair; ids that do not exist have no vector.
        embedding: in which to compare; the first that texts can be compared with when None.

    Raises:
        UsageError: no embedding that texts can be compared with.
    """
    record = embedding_record(warehouse, embedding or text_embedding(warehouse))
    index = image_index(warehouse, record)
    texts_te = embed_texts(warehouse, record.name, texts)
    with np.errstate(invalid="ignore", divide="ignore"):
        texts_te = texts_te / np.linalg.norm(texts_te, axis=1, keepdims=True)
    rows_n = np.searchsorted(index.ids, image_of_n)
    rows_n = np.where(rows_n < len(index.ids), rows_n, 0)
    cosines_n = np.full(len(image_of_n), np.nan, np.float32)
    if not len(index.ids) or not len(texts):
        return cosines_n
    pairs = np.flatnonzero((index.ids[rows_n] == image_of_n) & (text_of_n >= 0))
    for start in range(0, len(pairs), PAIRS):
        some = pairs[start : start + PAIRS]
        gathered_pe = index.vectors_ke[rows_n[some]]
        with np.errstate(invalid="ignore", divide="ignore"):
            products_p = np.einsum("pe,pe->p", gathered_pe, texts_te[text_of_n[some]])
            cosines_n[some] = products_p / index.norms_k[rows_n[some]]
    return cosines_n
