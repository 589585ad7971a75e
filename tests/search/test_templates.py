"""Templates against the definition, written out prompt by prompt; the reference code mixes concepts up here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.search.templates import query_vectors

WIDTH = 5
TEXT = st.text(st.sampled_from("ab{} '%"), min_size=1, max_size=6).filter(lambda text: text.strip())
TEMPLATE = st.tuples(st.text("ab ", max_size=4), st.text("ab {", max_size=4)).map("{}".join)


def embed(texts: Sequence[str]) -> Any:
    """A vector of its own for every text."""
    rows = [np.random.default_rng([len(text), *map(ord, text)]).normal(size=WIDTH) for text in texts]
    return np.array(rows, dtype=np.float32)


def by_definition(query: str, templates: Sequence[str]) -> Any:
    if not templates:
        return embed([query])[0]
    total = np.zeros(WIDTH)
    for template in templates:
        head, _, tail = template.partition("{}")
        total += embed([head + query + tail])[0].astype(float) - embed([head + tail])[0]
    return total / len(templates)


@given(st.lists(TEXT, min_size=1, max_size=5), st.lists(TEMPLATE, max_size=4))
def test_each_query_is_the_mean_over_its_own_prompts_less_the_empty_ones(queries: Any, templates: Any) -> None:
    templates = [template for template in templates if template.count("{}") == 1]
    vectors_qe = query_vectors(embed, queries, templates)
    assert vectors_qe.shape == (len(queries), WIDTH)
    for query, vector_e in zip(queries, vectors_qe, strict=True):
        np.testing.assert_allclose(vector_e, by_definition(query, templates), atol=1e-5)


@given(st.lists(TEXT, min_size=2, max_size=6, unique=True), st.lists(TEMPLATE, min_size=2, max_size=4, unique=True))
def test_a_query_does_not_depend_on_those_beside_it(queries: Any, templates: Any) -> None:
    together_qe = query_vectors(embed, queries, templates)
    alone_qe = np.concatenate([query_vectors(embed, [query], templates) for query in queries])
    np.testing.assert_array_equal(together_qe, alone_qe)


def test_as_many_queries_as_the_width_and_as_many_templates_as_queries() -> None:
    queries, templates = list("vwxyz"), [f"{i} {{}}" for i in range(WIDTH)]
    expected_qe = np.array([by_definition(query, templates) for query in queries])
    np.testing.assert_allclose(query_vectors(embed, queries, templates), expected_qe, atol=1e-5)


def test_every_prompt_is_embedded_once_in_one_call() -> None:
    calls: list[list[str]] = []

    def counting(texts: Sequence[str]) -> Any:
        calls.append(list(texts))
        return embed(texts)

    query_vectors(counting, ["a", "b", "a"], ["x {}", "y {}"])
    assert [sorted(call) for call in calls] == [["x ", "x a", "x b", "y ", "y a", "y b"]]


@pytest.mark.parametrize(("queries", "templates"), [([], []), ([" "], []), (["a", ""], ["x {}"]), (["a"], ["x"])])
def test_what_says_nothing_is_refused(queries: list[str], templates: list[str]) -> None:
    with pytest.raises(UsageError):
        query_vectors(embed, queries, templates)
