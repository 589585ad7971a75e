"""Texts as vectors: the text tower of the encoder that made an image embedding, behind a cache on disk."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.search.encoders import EmbeddingRecord, embedding_record, embedding_records, encoder_of
from glasshouse.warehouse.search.text_cache import TextCache

if TYPE_CHECKING:
    from glasshouse.warehouse.search.door import WarehouseSearch

BATCH = 256
"""Texts that go through the text tower at once."""


def embed_texts(warehouse: WarehouseSearch, embedding: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Embed texts beside the images of an embedding.

    Each distinct text goes through the model once in the warehouse's life; after that no model is loaded for it.

    Args:
        warehouse: opened with plugins.
        embedding: name of an image embedding whose encoder has a text tower.
        texts: any.

    Returns:
        float32 [n, E] in the order of the texts, as the text tower gives them (not normalised).

    Raises:
        UsageError: no such embedding, an imported one, or one of an encoder without a text tower.
        ModelError: the encoder cannot be loaded, or has other weights now.
    """
    return embed_beside(warehouse, embedding_record(warehouse, embedding), texts)


def embed_beside(warehouse: WarehouseSearch, record: EmbeddingRecord, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Embed texts in the space of an encoder's image embeddings, whether any are stored or not; as `embed_texts`."""
    cache = text_cache(warehouse, record)
    found = cache.get(texts) if cache else [None] * len(texts)
    missing = list(dict.fromkeys(text for text, vector in zip(texts, found, strict=True) if vector is None))
    fresh = _fresh(warehouse, record, cache, missing) if missing else {}
    vectors = [fresh[text] if vector is None else vector for text, vector in zip(texts, found, strict=True)]
    return np.array(vectors, dtype=np.float32).reshape(len(texts), record.width)


def text_capable_embeddings(warehouse: WarehouseSearch) -> list[str]:
    """Return the names of the embeddings beside which texts can be embedded, in alphabetical order.

    An encoder is loaded once to find out; the answer is kept. One that cannot be loaded now is left out.
    """
    return [name for name in embedding_records(warehouse) if is_text_capable(warehouse, name)]


def text_embedding(warehouse: WarehouseSearch) -> str:
    """Return the embedding that texts are compared with when none is named: the first that is capable of it.

    Raises:
        UsageError: there is none.
    """
    capable = text_capable_embeddings(warehouse)
    if not capable:
        raise UsageError(
            "No embedding here can be compared with texts. Make one with `glasshouse embed --encoder open_clip:… "
            "--name clip`."
        )
    return capable[0]


def is_text_capable(warehouse: WarehouseSearch, embedding: str) -> bool:
    """Say whether texts can be embedded beside an embedding; false for one that does not exist."""
    record = embedding_records(warehouse).get(embedding)
    if record is None or record.encoder_fingerprint is None or _marker(warehouse, record).exists():
        return False
    try:
        # The empty text: templates need its vector anyway, and the cache then knows that there is a tower.
        embed_texts(warehouse, record.name, [""])
    except (UsageError, ModelError):
        return False
    return True


def _fresh(
    warehouse: WarehouseSearch, record: EmbeddingRecord, cache: TextCache | None, texts: Sequence[str]
) -> dict[str, npt.NDArray[np.float32]]:
    """Embed texts that the cache did not know, and tell it. One thread at a time: another may ask for the same."""
    with warehouse.searching.lock:
        by_now = cache.get(texts) if cache else [None] * len(texts)
        known = {text: vector for text, vector in zip(texts, by_now, strict=True) if vector is not None}
        fresh = _through_the_model(warehouse, record, [text for text in texts if text not in known])
        if cache and fresh:
            cache.put(fresh)
    return known | fresh


def _through_the_model(
    warehouse: WarehouseSearch, record: EmbeddingRecord, texts: Sequence[str]
) -> dict[str, npt.NDArray[np.float32]]:
    """Embed distinct texts; returns the vector [E] of each."""
    if not texts:
        return {}
    if _marker(warehouse, record).exists():
        raise _no_text_tower(record)
    encoder = encoder_of(warehouse, record)
    fresh: dict[str, npt.NDArray[np.float32]] = {}
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        vectors_ne = encoder.embed_text(batch)
        if vectors_ne is None:
            _remember_no_text_tower(warehouse, record)
            raise _no_text_tower(record)
        if tuple(vectors_ne.shape) != (len(batch), record.width):
            raise ModelError(
                f"The text tower of {record.encoder_spec} gives vectors of shape {list(vectors_ne.shape)}; its images "
                f"have width {record.width}. The two cannot be compared."
            )
        fresh.update(zip(batch, vectors_ne.float().cpu().numpy(), strict=True))
    return fresh


def _no_text_tower(record: EmbeddingRecord) -> UsageError:
    return UsageError(
        f"The embedding '{record.name}' is of {record.encoder_spec}, which has no text tower. Name the embedding of a "
        "CLIP or SigLIP model; `glasshouse embed --encoder open_clip:… --name clip` makes one."
    )


def text_cache(warehouse: WarehouseSearch, record: EmbeddingRecord) -> TextCache | None:
    """Return the cache of the texts of an embedding's encoder; none where the encoder is not known."""
    if record.encoder_fingerprint is None:
        return None
    caches = warehouse.searching.texts
    file = _folder(warehouse) / f"{_stem(record)}.vectors"
    return caches.setdefault(record.encoder_fingerprint, TextCache(file, record.width))


def _folder(warehouse: WarehouseSearch) -> Path:
    return warehouse.root / "cache" / "texts"


def _stem(record: EmbeddingRecord) -> str:
    """Return a file name for an encoder. A hash of the fingerprint: a plugin's may hold anything."""
    return hashlib.sha256(str(record.encoder_fingerprint).encode()).hexdigest()[:32]


def _marker(warehouse: WarehouseSearch, record: EmbeddingRecord) -> Path:
    """Return the file whose being there says that an encoder has no text tower."""
    return _folder(warehouse) / f"{_stem(record)}.no-text"


def _remember_no_text_tower(warehouse: WarehouseSearch, record: EmbeddingRecord) -> None:
    if record.encoder_fingerprint is not None:
        with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
            _folder(warehouse).mkdir(parents=True, exist_ok=True)
            _marker(warehouse, record).touch()
