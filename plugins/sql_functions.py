"""Searching inside SQL: `concept_search`, `concept_search_by_image`, `image_search`, `similar_features`, and
`clip_similarity`.

The first four are table macros over Python functions that return a list of hits; they join like any table. All of them
are marked as having side effects, so that planning and EXPLAIN never run them. Nothing is imported or read before a
query really calls one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasshouse.plugins import hookimpl
from glasshouse.schema.errors import UsageError
from glasshouse.schema.texts import read_sql

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from glasshouse.warehouse.search.questions import Question
    from glasshouse.warehouse.search.search import Hits
    from glasshouse.warehouse.warehouse import Warehouse

HITS = "STRUCT(hit_space VARCHAR, id INTEGER, score FLOAT)[]"

HitList = list[dict[str, Any]]


@hookimpl
def prepare_connection(connection: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> None:
    """Register the functions and the macros over them."""
    # Late: plugins are loaded by commands that open no connection, too.
    from duckdb.func import FunctionNullHandling, PythonUDFType

    functions = SqlFunctions(warehouse)
    text, number = "VARCHAR", "BIGINT"

    def register(name: str, function: Callable[..., Any], arguments: list[Any]) -> None:
        connection.create_function(
            name, function, arguments, HITS, null_handling=FunctionNullHandling.SPECIAL, side_effects=True
        )

    register("_concept_search", functions.concept_search, [text, text, number, number, text])
    register("_concept_search_by_image", functions.by_image, [text, text, number, number, text])
    register("_similar_features", functions.similar_features, [text, number, number, text, number])
    register("_image_search", functions.image_search, [text, number, text])
    connection.create_function(
        "clip_similarity",
        # A lambda: DuckDB evaluates a function's annotations, and pyarrow is not imported here.
        lambda texts, image_ids: functions.clip_similarity(texts, image_ids),
        [text, number],
        "FLOAT",
        type=PythonUDFType.ARROW,
        null_handling=FunctionNullHandling.SPECIAL,
        side_effects=True,
    )
    connection.execute(read_sql("queries/search_macros.sql"))


class SqlFunctions:
    """The Python side of the functions, on one warehouse."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse

    def concept_search(
        self, text: str | None, space: str | None, k: int | None, min_images: int | None, embedding: str | None
    ) -> HitList:
        """Features that fit words."""
        from glasshouse.warehouse.search.questions import Question

        return self._features(Question((text or "",), embedding=embedding), space, k, min_images)

    def by_image(
        self, image: str | None, space: str | None, k: int | None, min_images: int | None, embedding: str | None
    ) -> HitList:
        """Features that fit a picture."""
        from glasshouse.warehouse.search.questions import Question

        return self._features(Question(images=(_given(image, "an image"),), embedding=embedding), space, k, min_images)

    def similar_features(
        self, space: str | None, feature: int | None, k: int | None, within: str | None, min_images: int | None
    ) -> HitList:
        """Features of the same space, or of another one, that are most like a feature."""
        from glasshouse.warehouse.search.questions import Question

        like = (_given(space, "a space"), int(_given(feature, "a feature")))
        return self._features(Question(like=like), within or space, k, min_images)

    def image_search(self, image: str | None, k: int | None, embedding: str | None) -> HitList:
        """Images most like a picture, which is not among them."""
        from glasshouse.warehouse.search.questions import Question
        from glasshouse.warehouse.search.search import search_images

        question = Question(images=(_given(image, "an image"),), embedding=embedding)
        return _rows(search_images(self.warehouse, question, _number(k, "k")).hits)

    def clip_similarity(self, texts: pa.ChunkedArray, image_ids: pa.ChunkedArray) -> pa.Array:
        """Cosine of a text and an image, row by row; NULL where either is NULL or the image has no vector."""
        import numpy as np
        import pyarrow as pa

        from glasshouse.warehouse.search.similarity import text_image_cosines

        distinct = texts.combine_chunks().dictionary_encode()
        if isinstance(distinct, pa.ChunkedArray):
            distinct = distinct.combine_chunks()
        rows_n = distinct.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        images_n = image_ids.combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False)
        cosines_n = text_image_cosines(self.warehouse, distinct.dictionary.to_pylist(), rows_n, images_n)
        return pa.array(cosines_n, pa.float32(), mask=np.isnan(cosines_n))

    def _features(self, question: Question, space: str | None, k: int | None, min_images: int | None) -> HitList:
        from glasshouse.warehouse.search.search import search_features

        spaces = () if space is None else (space,)
        least = _number(min_images, "min_images")
        return _rows(search_features(self.warehouse, question, spaces, _number(k, "k"), least).hits)


def _rows(hits: Hits) -> HitList:
    return [
        {"hit_space": space, "id": int(identity), "score": float(score)}
        for space, identity, score in zip(hits.space_h, hits.id_h, hits.score_h, strict=True)
    ]


def _given(value: Any, what: str) -> Any:
    if value is None:
        raise UsageError(f"Say {what} to search with; it is NULL.")
    return value


def _number(value: int | None, name: str) -> int:
    return int(_given(value, f"a number for {name}"))
