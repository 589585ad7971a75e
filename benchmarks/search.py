"""Search by words over concept vectors, in Python and in SQL, and by pictures over image embeddings.

The words' vectors are in the cache, as after their first use, so no model takes part. Vectors are random: the time of
an exact search does not depend on them. Peers, measured in turn: the bare numpy product with its 20 best, and a flat
search in LanceDB, both over the same vectors.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import cycle
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.rows import latency_row
from benchmarks.synthetic import EMBEDDING, EMBEDDING_WIDTH, Setting
from benchmarks.table import Row
from benchmarks.timing import interleaved, ratio, say
from glasshouse.plugins.analyzers.concepts import Concepts
from glasshouse.warehouse.results.records import Request, ResultTable
from glasshouse.warehouse.results.store import Outcome, commit_run
from glasshouse.warehouse.results.vectors import result_vector_store
from glasshouse.warehouse.search.encoders import embedding_record
from glasshouse.warehouse.search.questions import Question
from glasshouse.warehouse.search.search import search_features, search_images
from glasshouse.warehouse.search.texts import text_cache
from glasshouse.warehouse.warehouse import Warehouse

WIDTH = 512
WORDS = [f"word {i}" for i in range(20)]
TEXTS = "texts"
"""Name of a small image embedding whose encoder seems to have a text tower: its cache knows `WORDS`."""
K = 20
SQL = "FROM concept_search($q, space := 'cls', k := 20)"
JOINED = (
    "SELECT space, feature_id, score, n_active FROM concept_search($q, space := 'cls', k := 20) "
    "JOIN features USING (space, feature_id) ORDER BY score DESC"
)


def run(setting: Setting) -> Iterator[Row]:
    """Yield the search by words, the same in SQL, and the search by pictures."""
    warehouse, n_features = setting.embedded, setting.shapes[0].n_features
    prepare(warehouse, n_features)
    yield from _by_words(warehouse, n_features, setting.repeats)
    words = cycle(WORDS)
    what = f"concept_search over {n_features:,} vectors in SQL, connection opened and closed"
    yield latency_row("search", what, lambda: warehouse.sql(SQL, {"q": next(words)}), 60)
    yield latency_row("search", "the same joined with features", lambda: warehouse.sql(JOINED, {"q": next(words)}), 60)
    yield latency_row("search", "a reading connection alone", lambda: warehouse.sql("SELECT 1"))
    yield from _by_picture(warehouse, setting.repeats)


def prepare(warehouse: Warehouse, n_features: int) -> None:
    """Give the warehouse concept vectors of the space `cls`, and the vectors of `WORDS`."""
    say(f"  writing {n_features:,} concept vectors")
    rng = np.random.default_rng(2)
    warehouse.import_embeddings(TEXTS, rng.normal(size=(10, WIDTH)).astype(np.float32), list(range(10)))
    with warehouse.catalogue.writing() as connection:
        connection.execute("UPDATE embeddings SET encoder_fingerprint = 'none' WHERE name = $name", {"name": TEXTS})
    cache = text_cache(warehouse, embedding_record(warehouse, TEXTS))
    if cache is not None:
        cache.put({word: rng.normal(size=WIDTH).astype(np.float32) for word in ["", *WORDS]})
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(rng.normal(1, 1, n_features * WIDTH).astype(np.float32)), WIDTH
    )
    rows = pa.table(
        {
            "feature_id": pa.array(np.arange(n_features, dtype=np.int32)),
            "embedding": [TEXTS] * n_features,
            "crop": [False] * n_features,
            "n_images": pa.array(np.full(n_features, 30, np.int32)),
            "by": ["activation"] * n_features,
            "class_name": [""] * n_features,
            "vector": vectors.cast(pa.list_(pa.float32())),
        },
        schema=Concepts.schema,
    )
    request = Request("concepts", "1", "cls", {}, {"embedding": TEXTS, "crop": False, "by": "activation"})
    outcome = Outcome(rows, [], datetime.now(UTC).replace(tzinfo=None), 0.0)
    commit_run(warehouse.layout, request, ResultTable("concepts", Concepts.schema), outcome)


def _by_words(warehouse: Warehouse, n_features: int, repeats: int) -> Iterator[Row]:
    words = cycle(WORDS)
    run_ = next(run for run in warehouse.runs() if run.analyzer == "concepts")
    vectors_ke = warehouse.result_vectors(run_).vectors_ke
    unit_ke = vectors_ke / np.linalg.norm(vectors_ke, axis=1, keepdims=True)
    query_e = np.random.default_rng(3).normal(size=WIDTH).astype(np.float32)
    table = result_vector_store(warehouse.layout)._open(str(run_.vectors))
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: search_features(warehouse, Question((next(words),)), ["cls"], K),
        "numpy": lambda: _numpy(unit_ke, query_e),
        "lance": lambda: table.search(query_e).distance_type("cosine").limit(K).select(["feature_id"]).to_arrow(),
    }
    yield from _against(f"text search over {n_features:,} vectors of width {WIDTH}", ways, repeats, 15)


def _by_picture(warehouse: Warehouse, repeats: int) -> Iterator[Row]:
    vectors_ne = warehouse.embeddings(EMBEDDING).vectors_ne
    unit_ne = vectors_ne / np.linalg.norm(vectors_ne, axis=1, keepdims=True)
    table = warehouse.vectors._open(EMBEDDING)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: search_images(warehouse, Question(images=(7,), embedding=EMBEDDING), K),
        "numpy": lambda: _numpy(unit_ne, vectors_ne[7]),
        "lance": lambda: table.search(vectors_ne[7]).distance_type("cosine").limit(K).select(["image_id"]).to_arrow(),
    }
    yield from _against(f"image search over {len(unit_ne):,} vectors of width {EMBEDDING_WIDTH}", ways, repeats, None)


def _numpy(unit_ke: Any, query_e: Any) -> Any:
    scores_k = unit_ke @ query_e
    best_k = np.argpartition(-scores_k, K)[:K]
    return best_k[np.argsort(-scores_k[best_k])]


def _against(what: str, ways: dict[str, Callable[[], object]], repeats: int, target_ms: float | None) -> Iterator[Row]:
    """Yield the median against each peer, the ways in turn; the target stands in the first row."""
    for action in ways.values():
        action()
    times = interleaved(ways, 5 * repeats)
    median = {name: 1000 * statistics.median(times[name]) for name in ways}
    for name, peer in (("numpy", "bare numpy product"), ("lance", "LanceDB, flat")):
        target = target_ms if name == "numpy" else None
        yield Row(
            "search",
            what,
            f"{median['ours']:.1f} ms",
            f"{peer}: {median[name]:.1f} ms",
            ratio(times, "ours", name),
            "" if target is None else f"<= {target:g} ms",
            None if target is None else median["ours"] <= target,
        )
