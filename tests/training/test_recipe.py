"""Prefixes as sizes and as shares, the learning rate's course."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glasshouse.plugins.training.recipe import Recipe, default_learning_rate, parse_prefixes, sizes_of
from glasshouse.schema.errors import UsageError

CFM = ".008,.03,.06,.12,.24,.542"


def test_shares_as_published_give_the_published_dictionary() -> None:
    assert parse_prefixes(CFM, 8_192) == (66, 311, 803, 1786, 3752, 8192)


def test_without_prefixes_each_is_twice_the_one_before() -> None:
    assert parse_prefixes(None, 512) == (32, 64, 128, 256, 512)
    assert parse_prefixes(None, 8) == (8,)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=12, unique=True))
def test_sizes_are_read_as_they_are_written(numbers: list[int]) -> None:
    sizes = tuple(sorted(numbers))
    text = " , ".join(map(str, sizes))
    assert parse_prefixes(text, sizes[-1]) == sizes
    with pytest.raises(UsageError, match="the last prefix must be all"):
        parse_prefixes(text, sizes[-1] + 1)
    if len(sizes) > 1:
        backwards = ",".join(map(str, [*sizes[:-1][::-1], sizes[-1], sizes[-1]]))
        with pytest.raises(UsageError, match="must rise"):
            parse_prefixes(backwards, sizes[-1])


@given(st.lists(st.floats(0.02, 1), min_size=1, max_size=12), st.integers(200, 20_000))
def test_groups_of_shares_have_their_shares(weights: list[float], n_features: int) -> None:
    total = sum(weights)
    sizes = sizes_of([weight / total for weight in weights], n_features)
    assert sizes[-1] == n_features and sorted(sizes) == list(sizes)
    groups = [b - a for a, b in zip((0, *sizes), sizes, strict=False)]
    for group, weight in zip(groups, weights, strict=True):
        assert abs(group - n_features * weight / total) <= 1


@given(st.text(max_size=20))
def test_anything_else_is_one_clear_error_or_a_dictionary(text: str) -> None:
    try:
        sizes = parse_prefixes(text, 64)
    except UsageError as error:
        assert str(error).startswith("--prefixes")
    else:
        assert sizes[-1] == 64 and list(sizes) == sorted(set(sizes)) and sizes[0] >= 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (".1,.3", "must sum to 1, these sum to 0.4"),
        ("0,64", "above zero"),
        ("1e400,64", "above zero"),
        ("a,b", "numbers with commas"),
        (".001,.999", "each group with a feature"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_prefixes(text, 64)


def test_the_rate_rises_stays_and_falls() -> None:
    recipe = Recipe("topk", 64, 4, (64,), steps=100, batch=8, learning_rate=2.0, warm_up=0.1, decay=0.2)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0)
    assert set(rates[10:81]) == {2.0}
    assert rates[90] == pytest.approx(1.0) and rates[99] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10]) and rates[80:] == sorted(rates[80:], reverse=True)


def test_dead_after_a_tenth_of_the_training_but_ten_million_vectors_at_most() -> None:
    short = Recipe("topk", 64, 4, (64,), steps=1_500, batch=1_024, learning_rate=1.0)
    assert short.idle_limit == 153_600
    assert Recipe("topk", 64, 4, (64,), 10**6, 4_096, 1.0).idle_limit == 10_000_000
    assert Recipe("topk", 64, 4, (64,), 10**6, 4_096, 1.0, dead_after=7).idle_limit == 7


def test_the_default_rate_falls_with_the_root_of_the_features() -> None:
    assert default_learning_rate(16_384) == pytest.approx(2e-4)
    assert default_learning_rate(4_096) == pytest.approx(4e-4)
