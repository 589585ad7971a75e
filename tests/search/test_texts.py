"""Texts as vectors: the same as the model's, once through the model, and never from a damaged file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.search.encoders import embedding_records
from glasshouse.warehouse.search.text_cache import TextCache
from glasshouse.warehouse.search.texts import embed_texts, text_capable_embeddings
from glasshouse.warehouse.warehouse import Warehouse

WORDS = ["striped", "a red star", "", "it's; DROP TABLE images", "ünïcödé ☂", "striped"]


def forget_models(warehouse: Any) -> Any:
    """Open the same warehouse anew, without plugins: it can load no model at all."""
    return Warehouse(warehouse.root)


def test_vectors_are_those_of_the_model_in_the_order_of_the_texts(demo: Any) -> None:
    vectors_ne = embed_texts(demo, "clip", WORDS)
    encoder = demo.load_encoder(embedding_records(demo)["clip"].encoder_spec)
    for text, vector_e in zip(WORDS, vectors_ne, strict=True):
        np.testing.assert_allclose(vector_e, encoder.embed_text([text])[0].numpy(), atol=1e-5)
    assert vectors_ne.dtype == np.float32
    assert not np.allclose(np.linalg.norm(vectors_ne, axis=1), 1)


def test_a_text_goes_through_the_model_once_in_the_life_of_a_warehouse(demo: Any) -> None:
    first_ne = embed_texts(demo, "clip", WORDS)
    again = forget_models(demo)
    np.testing.assert_array_equal(embed_texts(again, "clip", WORDS[::-1]), first_ne[::-1])
    with pytest.raises(UsageError, match="plugins"):
        embed_texts(again, "clip", ["a word that nobody asked for"])


def test_no_texts_need_no_model(demo: Any) -> None:
    assert embed_texts(forget_models(demo), "clip", []).shape == (0, 128)


def test_embeddings_with_a_text_tower_are_found_and_remembered(demo: Any) -> None:
    assert text_capable_embeddings(demo) == ["clip"]
    again = forget_models(demo)
    assert text_capable_embeddings(again) == ["clip"]
    with pytest.raises(UsageError, match="no text tower"):
        embed_texts(again, "dinov2", ["striped"])


def test_what_cannot_embed_texts_says_why(demo: Any) -> None:
    demo.import_embeddings("imported", np.eye(4, 3, dtype=np.float32), [0, 1, 2, 3])
    with pytest.raises(UsageError, match="imported"):
        embed_texts(demo, "imported", ["striped"])
    with pytest.raises(UsageError, match="Did you mean 'clip'"):
        embed_texts(demo, "clipp", ["striped"])
    assert "imported" not in text_capable_embeddings(demo)


def test_other_weights_behind_the_same_spec_are_refused(demo: Any) -> None:
    with demo.catalogue.writing() as connection:
        connection.execute("UPDATE embeddings SET encoder_fingerprint = 'of other weights' WHERE name = 'clip'")
    with pytest.raises(ModelError, match="other weights"):
        embed_texts(demo, "clip", ["striped"])


def test_a_warehouse_that_cannot_be_written_still_answers(demo: Any) -> None:
    (demo.root / "cache").write_text("in the way of the folder")
    assert embed_texts(demo, "clip", ["striped"]).shape == (1, 128)


@pytest.fixture
def cache(tmp_path: Path) -> TextCache:
    return TextCache(tmp_path / "cache" / "a.vectors", 3)


def vector(*numbers: float) -> Any:
    return np.array(numbers, dtype=np.float32)


def test_a_record_cut_short_is_gone_and_the_next_ones_are_right(cache: TextCache) -> None:
    cache.put({"a": vector(1, 2, 3), "b": vector(4, 5, 6)})
    whole = cache.file.read_bytes()
    for n_left in range(len(whole)):
        cache.file.write_bytes(whole[:n_left])
        TextCache(cache.file, 3).put({"c": vector(7, 8, 9)})
        found = TextCache(cache.file, 3).get(["a", "b", "c"])
        assert (found[0] is not None) == (n_left >= len(whole) // 2)
        assert found[1] is None
        np.testing.assert_array_equal(found[2], vector(7, 8, 9))  # type: ignore[arg-type]


def test_a_damaged_byte_is_never_served(cache: TextCache) -> None:
    cache.put({"a": vector(1, 2, 3)})
    whole = cache.file.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x40
        cache.file.write_bytes(damaged)
        assert TextCache(cache.file, 3).get(["a"]) == [None]


def test_what_another_process_wrote_is_taken_up(cache: TextCache) -> None:
    other = TextCache(cache.file, 3)
    assert cache.get(["a"]) == [None]
    other.put({"a": vector(1, 2, 3)})
    assert cache.get(["a"])[0] is not None
    cache.put({"b": vector(4, 5, 6)})
    assert other.get(["b"])[0] is not None
