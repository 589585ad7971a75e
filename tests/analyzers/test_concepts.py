"""Concept vectors against a loop over the definition, whole and cropped, and on nasty data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from glasshouse.plugins.analyzers.crops import crop_box
from glasshouse.schema.errors import ModelError, UsageError


def vectors(warehouse: Any, **parameters: Any) -> tuple[dict[int, Any], dict[int, int], Any]:
    """Return vectors and numbers of images by feature, and the run."""
    *_, report = warehouse.analyze("concepts", **parameters)
    rows = warehouse.result_rows(report.run)
    if report.run.vectors is None:
        return {}, {}, report.run
    ids, vectors_ke = warehouse.result_vectors(report.run)
    assert sorted(rows["feature_id"]) == ids.tolist()
    counts = dict(zip(rows["feature_id"], rows["n_images"], strict=True))
    return dict(zip(ids.tolist(), vectors_ke, strict=True)), counts, report.run


@pytest.mark.parametrize("seed", range(3))
def test_means_are_those_of_a_loop(warehouse: Any, seed: int) -> None:
    """Features active on none, one and all images, with ties; some images without an embedding, one not finite."""
    rng = np.random.default_rng(seed)
    acts_nf = rng.integers(0, 4, (30, 12)).astype(np.float32) * (rng.random((30, 12)) < 0.5)
    acts_nf[:, 0], acts_nf[:, 1], acts_nf[:, 2] = 0, 1, 0
    acts_nf[7, 2] = 3
    embedded = sorted(rng.choice(30, 22, replace=False).tolist())
    vectors_ne = rng.normal(size=(22, 5)).astype(np.float32) * 1000
    warehouse.import_features("s", acts_nf, list(range(30)))
    warehouse.import_embeddings("e", vectors_ne, embedded)
    found, counts, run = vectors(warehouse, embedding="e", n=4)
    of_image = dict(zip(embedded, vectors_ne.astype(float), strict=True))
    n_without = 0
    for feature in range(12):
        order = [i for i in sorted(range(30), key=lambda i: (-acts_nf[i, feature], i)) if acts_nf[i, feature] > 0][:4]
        examples = [of_image[i] for i in order if i in of_image]
        n_without += len(order) - len(examples)
        assert (feature in found) == bool(examples)
        if examples:
            np.testing.assert_allclose(found[feature], np.mean(examples, axis=0), rtol=1e-6, atol=1e-3)
            assert counts[feature] == len(examples)
    assert run.notes["n_examples_without_embedding"] == n_without


def test_no_embedding_for_any_image_gives_no_rows(warehouse: Any) -> None:
    warehouse.import_features("s", np.eye(30, 3, dtype=np.float32)[:2], [0, 1])
    warehouse.import_embeddings("e", np.ones((1, 4), np.float32), [29])
    assert vectors(warehouse, embedding="e")[0] == {}


def test_what_is_not_possible_says_why(warehouse: Any) -> None:
    warehouse.import_features("s", np.eye(30, 3, dtype=np.float32), list(range(30)))
    with pytest.raises(UsageError, match="compared with texts"):
        warehouse.analyze("concepts")
    with pytest.raises(UsageError, match="no embedding 'e'"):
        warehouse.analyze("concepts", embedding="e")
    warehouse.import_embeddings("e", np.ones((30, 4), np.float32), list(range(30)))
    with pytest.raises(UsageError, match="no token maps"):
        warehouse.analyze("concepts", embedding="e", crop=True)


def test_crops_are_embedded_as_a_loop_does(warehouse: Any) -> None:
    """The map of each example over its picture, cut at the threshold, through the encoder one by one."""
    import torch

    spaces = [("patch", "blocks.0.resid_post", "patches", "neurons")]
    warehouse.extract("toy:0", spaces, "toy")
    found, counts, run = vectors(warehouse, embedding="toy", crop=True, n=3, crop_threshold=0.5, crop_margin=0.1)
    whole, _, other = vectors(warehouse, embedding="toy", n=3)
    assert run.facets != other.facets
    encoder = warehouse.load_encoder("toy:0")
    for feature in list(found)[:6]:
        examples = []
        for image in warehouse.top_images("patch", feature, 3)["image_id"]:
            picture, map_hw = warehouse.picture(image), warehouse.token_map("patch", feature, image)
            box = crop_box(map_hw, warehouse.space("patch").framing, picture.size, 0.5, 0.1)
            tensor = encoder.preprocess(picture.crop(box))
            examples.append(encoder.forward(torch.stack([tensor]), []).embedding_be[0].numpy())
        np.testing.assert_allclose(found[feature], np.mean(examples, axis=0), atol=1e-5)
        assert counts[feature] == len(examples)
    assert any(not np.allclose(found[feature], whole[feature], atol=1e-3) for feature in found)


def test_pictures_that_are_gone_are_left_out_and_counted(warehouse: Any, pictures: Path) -> None:
    warehouse.extract("toy:0", [("patch", "blocks.0.resid_post", "patches", "neurons")], "toy")
    gone = warehouse.top_images("patch", 0, 3)["image_id"][0]
    Path(warehouse.images()["path"][gone]).unlink()
    _, counts, run = vectors(warehouse, embedding="toy", crop=True, n=3)
    assert counts[0] == 2
    assert run.notes["n_examples_unreadable"] == 3 * len(counts) - sum(counts.values())
    assert run.notes["incomplete"].startswith("1 of ") and run.notes["incomplete"].endswith("could not be read")


def test_vectors_stay_when_most_pictures_are_gone(warehouse: Any, pictures: Path) -> None:
    """Crops of few examples would replace vectors that were computed from all of them."""
    warehouse.extract("toy:0", [("patch", "blocks.0.resid_post", "patches", "neurons")], "toy")
    before, _, run = vectors(warehouse, embedding="toy", crop=True, n=3)
    assert "incomplete" not in run.notes
    paths = sorted(pictures.iterdir())
    for n_gone in (25, 30):
        for path in paths[:n_gone]:
            path.unlink(missing_ok=True)
        with pytest.raises(ModelError, match=r"of \d+ pictures could not be read.*nothing was stored"):
            warehouse.analyze("concepts", embedding="toy", crop=True, n=4)
    assert [kept.run_id for kept in warehouse.runs() if kept.analyzer == "concepts"] == [run.run_id]
    assert len(warehouse.runs()) == 2, "that of the examples, and that of the concepts"
    assert len(warehouse.result_vectors(run)[0]) == len(before)


MAPS = hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(0, 9, width=16))


@given(MAPS, st.integers(1, 60), st.integers(1, 60), st.sampled_from([0.0, 0.01, 0.3, 0.9]))
def test_a_crop_holds_what_is_above_the_threshold_and_no_row_more(
    map_hw: Any, width: int, height: int, threshold: float
) -> None:
    """Against each pixel's value, interpolated by hand between the centres of the tokens."""
    left, top, right, bottom = crop_box(map_hw, None, (width, height), threshold, 0.0)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height

    def value(x: int, y: int) -> float:
        total = 0.0
        row = min(max((y + 0.5) / height * map_hw.shape[0] - 0.5, 0), map_hw.shape[0] - 1)
        column = min(max((x + 0.5) / width * map_hw.shape[1] - 0.5, 0), map_hw.shape[1] - 1)
        for r in range(map_hw.shape[0]):
            for c in range(map_hw.shape[1]):
                total += max(0, 1 - abs(row - r)) * max(0, 1 - abs(column - c)) * float(map_hw[r, c])
        return total

    values_hw = np.array([[value(x, y) for x in range(width)] for y in range(height)])
    largest = values_hw.max()
    if largest <= 1e-6:
        return
    slack = 1e-5 * largest
    surely_hw = values_hw >= threshold * largest + slack
    maybe_hw = values_hw >= max(threshold * largest - slack, 0)
    inside_hw = np.zeros_like(surely_hw)
    inside_hw[top:bottom, left:right] = True
    assert not (surely_hw & ~inside_hw).any()
    for edge in (maybe_hw[top, :], maybe_hw[bottom - 1, :], maybe_hw[:, left], maybe_hw[:, right - 1]):
        assert edge.any()
