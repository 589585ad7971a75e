"""The SQL functions: the same hits as in Python, joined with everything else, on read-only connections."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.search.texts import embed_texts
from glasshouse.warehouse.warehouse import Warehouse


def test_hits_are_those_of_python_and_join_like_a_table(searchable: Any) -> None:
    found = searchable.sql(
        "SELECT space, feature_id, score, n_active FROM concept_search($q, k := 7) JOIN features "
        "USING (space, feature_id) WHERE n_active > 12 ORDER BY score DESC",
        {"q": "red"},
    )
    expected = searchable.search("red", k=7).select("space", "feature_id", "score", "n_active")
    assert found.rows() == [row for row in expected.rows() if row[3] > 12]


def test_space_embedding_and_least_images_can_be_said(searchable: Any) -> None:
    found = searchable.sql("FROM concept_search('red', space := 'cls', k := 400, min_images := 1, embedding := 'clip')")
    expected = searchable.search("red", space="cls", k=400, min_images=1)
    assert found["feature_id"].to_list() == expected["feature_id"].to_list()


def test_pictures_and_features(searchable: Any) -> None:
    images = searchable.sql("SELECT image_id FROM image_search(3, k := 4)")["image_id"].to_list()
    assert images == searchable.search(image=3, images=True, k=4)["image_id"].to_list()
    path = searchable.images()["path"][3]
    assert searchable.sql("FROM image_search($p, k := 4)", {"p": path})["image_id"].to_list() == images
    features = searchable.sql("FROM concept_search_by_image(3, space := 'cls', k := 4)")["feature_id"].to_list()
    assert features == searchable.search(image=3, space="cls", k=4)["feature_id"].to_list()
    like = searchable.search("red", space="cls", k=1)["feature_id"][0]
    alike = searchable.sql("FROM similar_features('cls', $f, k := 4)", {"f": int(like)})["feature_id"].to_list()
    assert alike == searchable.similar_features("cls", like, 4)["feature_id"].to_list()
    within = searchable.sql("FROM similar_features('cls', $f, k := 4, within := 'patches')", {"f": int(like)})
    assert set(within["space"]) == {"patches"}


def test_similarity_row_by_row(searchable: Any) -> None:
    found = searchable.sql(
        "SELECT image_id, word, clip_similarity(word, image_id) AS s FROM images, (VALUES ('red'), ('a star'), (NULL)) "
        "AS words(word)"
    )
    images, vectors_ne = searchable.embeddings("clip")
    for row in found.to_dicts():
        if row["word"] is None:
            assert row["s"] is None
            continue
        text_e = embed_texts(searchable, "clip", [row["word"]])[0]
        image_e = vectors_ne[np.searchsorted(images, row["image_id"])]
        cosine = text_e @ image_e / np.linalg.norm(text_e) / np.linalg.norm(image_e)
        assert row["s"] == pytest.approx(cosine, abs=1e-5)
    odd = searchable.sql("SELECT clip_similarity('red', i) AS s FROM (VALUES (-1), (999999), (NULL)) AS t(i)")
    assert odd["s"].to_list() == [None, None, None]


def test_a_text_is_only_ever_a_text(searchable: Any) -> None:
    text = "it's; DROP TABLE images --"
    quoted = text.replace("'", "''")
    bound = searchable.sql("FROM concept_search($q)", {"q": text})
    assert searchable.sql(f"FROM concept_search('{quoted}')").rows() == bound.rows()
    assert bound.height == 20
    assert searchable.sql("SELECT count(*) AS n FROM images")["n"][0] == searchable.images().height


def test_a_query_that_only_names_a_function_runs_no_model(searchable: Any) -> None:
    """Without plugins nothing can be embedded: what runs without an error has not called the model."""
    from glasshouse.plugins.sql_functions import prepare_connection

    bare = Warehouse(searchable.root)
    with bare.reading() as connection:
        prepare_connection(connection, bare)
        connection.sql("EXPLAIN FROM concept_search('never embedded')").fetchall()
        connection.sql("FROM concept_search('never embedded')")
        connection.sql("EXPLAIN SELECT clip_similarity('never embedded', image_id) FROM images").fetchall()
        with pytest.raises(Exception, match="plugins"):
            connection.sql("FROM concept_search('never embedded')").fetchall()
        assert len(connection.sql("FROM concept_search('red')").fetchall()) == 20


def test_explain_and_planning_call_no_function(searchable: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from glasshouse.plugins.sql_functions import SqlFunctions

    calls: list[str] = []
    for name in ("_features", "image_search", "clip_similarity"):
        real = getattr(SqlFunctions, name)

        def counted(self: Any, *values: Any, name: str = name, real: Any = real) -> Any:
            calls.append(name)
            return real(self, *values)

        # DuckDB counts a function's parameters, so those that it sees itself keep theirs.
        wrapped = functools.wraps(real)(counted)
        monkeypatch.setattr(SqlFunctions, name, wrapped)
    queries = (
        "FROM concept_search('red')",
        "FROM concept_search_by_image(3)",
        "FROM similar_features('cls', 3)",
        "FROM image_search(3)",
        "SELECT clip_similarity('red', 3)",
    )
    with searchable.reading() as connection:
        for query in queries:
            connection.sql(f"EXPLAIN {query}").fetchall()
            connection.sql(query)
        assert calls == []
        connection.sql("FROM concept_search('red')").fetchall()
        assert calls == ["_features"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("FROM concept_search('red', space := 'nope')", "The query failed. There is no space 'nope'"),
        ("FROM concept_search('')", "The query is empty"),
        ("FROM concept_search(NULL)", "The query is empty"),
        ("FROM concept_search('red', k := 0)", "at least 1"),
        ("FROM concept_search('red', k := NULL)", "NULL"),
        ("FROM image_search('not there.png')", "no file 'not there.png'"),
        ("FROM image_search(99999)", "no image 99999"),
        ("FROM image_search(NULL)", "NULL"),
        ("FROM similar_features('cls', 99999)", "no feature 99999"),
    ],
)
def test_errors_are_one_clean_line(searchable: Any, query: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        searchable.sql(query)
    assert words in str(caught.value)
    assert "UDF" not in str(caught.value) and "\n" not in str(caught.value)


def test_missing_concept_vectors_name_the_command(demo: Any) -> None:
    with pytest.raises(UsageError, match="`glasshouse analyze concepts --space cls --embedding clip`"):
        demo.sql("FROM concept_search('red', space := 'cls')")


def test_the_command_line_searches_without_loading_a_model(searchable: Any) -> None:
    searchable.search("red")
    program = (
        "import sys\nfrom glasshouse.cli.main import exit_code\n"
        f"sys.argv = ['glasshouse', 'sql', '-w', {str(searchable.root)!r}, '--format', 'csv', "
        "\"FROM concept_search('red', k := 2)\"]\ncode = exit_code()\n"
        "print(code, sorted({'torch', 'lancedb', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
