"""The ranks of a shard's rows against a reference written from their definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.warehouse.extraction.rows import BEYOND_TOP, NOT_POOLED, TOP_FEATURES, shard_rows


def naive_ranks(rows: list[tuple[int, int, int, float]]) -> dict[tuple[int, int, int], int]:
    """Rank (image, token, feature, value) rows by sorting each image's maxima."""
    ranks = {(image, token, feature): NOT_POOLED for image, token, feature, _ in rows}
    for image in {row[0] for row in rows}:
        best: dict[int, tuple[float, int]] = {}
        for row_image, token, feature, value in rows:
            if row_image == image and (feature not in best or value > best[feature][0]):
                best[feature] = (value, token)
        order = sorted(best, key=lambda feature: (-best[feature][0], feature))
        for rank, feature in enumerate(order):
            ranks[image, best[feature][1], feature] = min(rank, BEYOND_TOP)
    return ranks


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_images=st.integers(1, 4),
    n_tokens=st.one_of(st.none(), st.integers(1, 5)),
    n_features=st.sampled_from([1, 3, 70, 200]),
    density=st.floats(0, 1),
    levels=st.sampled_from([1, 3, 1000]),
)
def test_ranks_equal_the_definition(
    seed: int, n_images: int, n_tokens: int | None, n_features: int, density: float, levels: int
) -> None:
    # Few levels make ties; 200 features and full density make images with more than 64 features.
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, levels + 1, (n_images * (n_tokens or 1), n_features)).astype(np.float32)
    dense[rng.random(dense.shape) > density] = 0
    row, feature = np.nonzero(dense)
    ids = np.arange(100, 100 + n_images)
    table = shard_rows(row, feature, dense[row, feature], ids, n_tokens, n_features)
    got = list(
        zip(*(table[name].to_pylist() for name in ("image_id", "token", "feature_id", "value", "rank")), strict=True)
    )
    plain = [(image, token or 0, feature, value) for image, token, feature, value, _ in got]
    assert {(i, t, f): r for (i, t, f, _), (*_, r) in zip(plain, got, strict=True)} == naive_ranks(plain)
    assert sorted(got, key=lambda r: (r[0], r[1] or 0, r[2])) == got
    assert {token for _, token, *_ in got} <= ({None} if n_tokens is None else set(range(n_tokens)))
    expected = {(ids[r // (n_tokens or 1)], f): dense[r, f] for r, f in zip(row, feature, strict=True)}
    assert len(got) == len(row) and {(i, f) for i, _, f, _, _ in got} == set(expected)


def test_more_than_the_top_is_marked_as_pooled_only() -> None:
    n = TOP_FEATURES + 10
    table = shard_rows(
        np.zeros(n, np.int64), np.arange(n), np.arange(1, n + 1, dtype=np.float32), np.array([7]), None, n
    )
    ranks = table["rank"].to_pylist()
    assert ranks[-1] == 0 and ranks[10] == TOP_FEATURES - 1
    assert ranks[:10] == [BEYOND_TOP] * 10
