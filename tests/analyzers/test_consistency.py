"""Consistency against pairs of cut-outs, one after the other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import write_pictures
from kit.patch_space import make_patch_space

from glasshouse.plugins.analyzers.consistency import UnitSums, headline
from glasshouse.plugins.analyzers.crops import crop_box
from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.warehouse import Warehouse

Array = np.ndarray[Any, Any]
N, GRID, F = 10, (2, 3), 6


def values() -> Array:
    """Activations [10, 6, 6]: random, ties, 3 never, 4 on one image, 5 on two."""
    rng = np.random.default_rng(7)
    values_ntf = rng.exponential(size=(N, 6, F)) * (rng.random((N, 6, F)) < 0.5)
    values_ntf[:, :, 2] = 1
    values_ntf[:, :, 3:] = 0
    values_ntf[4, 1, 4] = 1
    values_ntf[[2, 3], [5, 0], 5] = 2
    return values_ntf.astype(np.float32)


@pytest.fixture
def pictured(tmp_path: Path, plugins: Any) -> Any:
    """Ten pictures with the embedding `toy`, and the space `p`."""
    write_pictures(tmp_path / "pictures", N)
    opened = Warehouse.create(tmp_path / "w.glasshouse", plugins)
    opened.add([tmp_path / "pictures"])
    opened.extract("toy:0", embedding="toy")
    make_patch_space(opened, "p", values(), GRID)
    yield opened
    opened.close()


def naive_vector(warehouse: Any, encoder: Any, image: int, token: int, context: float, centre_e: Array) -> Array:
    map_rc = np.zeros(6, dtype=np.float32)
    map_rc[token] = 1
    picture = warehouse.picture(image)
    cut = picture.crop(crop_box(map_rc.reshape(GRID), None, picture.size, 0.5, context))
    found = encoder.forward(torch.stack([encoder.preprocess(cut)]), []).embedding_be[0].numpy().astype(float) - centre_e
    return found / math.sqrt(math.fsum(v * v for v in found))


def naive_rows(
    warehouse: Any, *, n: int = 20, context: float = 0.1, centre: bool = True, seed: int = 0
) -> dict[int, Any]:
    encoder = warehouse.load_encoder("toy:0")
    vectors_ne = warehouse.embeddings("toy").vectors_ne.astype(float)
    centre_e = vectors_ne.mean(axis=0) if centre else np.zeros(vectors_ne.shape[1])
    rows = {}
    for feature in range(F):
        strength = values()[:, :, feature].max(axis=1)
        top = sorted((i for i in range(N) if strength[i] > 0), key=lambda i: (-strength[i], i))[:n]
        rng = np.random.default_rng((seed, feature))
        places = {image: int(values()[image, :, feature].argmax()) for image in sorted(top)}
        mixed = [(int(rng.integers(N)), token) for token in places.values()]
        means = []
        for cuts in (list(places.items()), mixed):
            units = [naive_vector(warehouse, encoder, image, token, context, centre_e) for image, token in cuts]
            pairs = [float(a @ b) for i, a in enumerate(units) for b in units[i + 1 :]]
            means.append(sum(pairs) / len(pairs) if pairs else None)
        if means[0] is not None:
            rows[feature] = (*means, len(top))
    return rows


def stored(warehouse: Any, **parameters: Any) -> dict[int, Any]:
    (report,) = warehouse.analyze("consistency", "p", **parameters)
    rows = warehouse.result_rows(report.run)
    return {
        row[0]: row[1:] for row in rows.select("feature_id", "consistency", "consistency_random", "n_patches").rows()
    }


@pytest.mark.parametrize("given", [{}, {"n": 4, "context": 0.3, "centre": False, "seed": 5}], ids=["default", "other"])
def test_equals_all_pairs(pictured: Any, given: dict[str, Any]) -> None:
    expected = naive_rows(pictured, **given)
    found = stored(pictured, **given)
    assert set(expected) == set(found) == {0, 1, 2, 5}
    for feature, row in expected.items():
        assert found[feature] == pytest.approx(row, abs=1e-5), feature
    assert pictured.runs()[-1].facets == {"embedding": "toy"}


def test_equal_vectors_are_consistent_and_opposite_ones_are_not() -> None:
    sums = UnitSums(np.array([[3.0, 0], [0, 0], [1, 0], [0, 0]]), np.array([3, 2, 1, 0]))
    np.testing.assert_allclose(sums.mean_cosine(), [1, -1, np.nan, np.nan])


def test_pictures_that_are_gone_leave_the_run_open_and_too_many_fail_it(pictured: Any, tmp_path: Path) -> None:
    (tmp_path / "pictures" / "00002.png").unlink()
    (report,) = pictured.analyze("consistency", "p")
    assert "1 of 10 pictures could not be read" in report.run.notes["incomplete"]
    assert 5 not in {row["feature_id"] for row in pictured.result_rows(report.run).to_dicts()}
    for place in range(3, 9):
        (tmp_path / "pictures" / f"{place:05d}.png").unlink()
    with pytest.raises(ModelError, match="7 of 10 pictures could not be read: too many"):
        pictured.analyze("consistency", "p", force=True)


def test_what_is_refused(pictured: Any) -> None:
    pictured.import_features("flat", np.ones((N, 2)), list(range(N)))
    with pytest.raises(UsageError, match="'consistency' needs patches"):
        pictured.analyze("consistency", "flat")
    with pytest.raises(UsageError, match="There is no embedding 'x'"):
        pictured.analyze("consistency", "p", embedding="x")
    pictured.import_embeddings("mine", np.ones((N, 3)), list(range(N)))
    with pytest.raises(UsageError, match="'mine' was imported: its encoder is not known"):
        pictured.analyze("consistency", "p", embedding="mine")


def test_the_headline_has_the_control_beside_it() -> None:
    table = pa.table({"consistency": [0.25, 0.75], "consistency_random": [0.1, 0.2]})
    assert headline(table) == "2 features, mean consistency 0.500 (the same places of random images 0.150)"
    assert headline(table.slice(0, 1)).startswith("1 feature, ")
