"""Concept examples: which images, in which order, which part of each, and the embeddings of these parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from glasshouse.plugins.analyzer import Analyzer
from glasshouse.plugins.analyzers.crops import crop_box
from glasshouse.plugins.conforming import conforming
from glasshouse.schema.errors import PluginError, UsageError
from glasshouse.warehouse.checking.check import check

PATCHES = ("patch", "blocks.0.resid_post", "patches", "neurons")
POOLED = ("pooled", "blocks.0.resid_post", "max", "neurons")


def test_whole_examples_are_the_strongest_images_in_their_order(warehouse: Any) -> None:
    rng = np.random.default_rng(0)
    acts_nf = rng.integers(0, 5, (30, 9)).astype(np.float32) * (rng.random((30, 9)) < 0.4)
    acts_nf[:, 3] = 0
    warehouse.import_features("s", acts_nf, list(range(30)))
    warehouse.import_embeddings("e", rng.normal(size=(30, 4)).astype(np.float32), list(range(30)))
    (report,) = warehouse.analyze("examples", embedding="e", n=4)
    rows = warehouse.result_rows(report.run).sort("feature_id", "rank")
    expected = [
        (feature, rank, image, float(acts_nf[image, feature]))
        for feature in range(9)
        for rank, image in enumerate(
            [i for i in sorted(range(30), key=lambda i: (-acts_nf[i, feature], i)) if acts_nf[i, feature] > 0][:4]
        )
    ]
    assert rows.select("feature_id", "rank", "image_id", "value").rows() == expected
    assert rows["left"].null_count() == rows.height
    assert report.run.vectors is None, "whole images have their embeddings already"


def test_cut_outs_are_stored_once_and_all_that_reads_examples_uses_them(warehouse: Any) -> None:
    """Boxes and vectors against a loop; `concepts` then finds the examples there."""
    import torch

    warehouse.extract("toy:0", [PATCHES], "toy")
    (report,) = warehouse.analyze("examples", embedding="toy", crop=True, n=3, crop_threshold=0.5)
    rows = warehouse.result_rows(report.run).sort("feature_id", "rank")
    places, vectors_pe = warehouse.result_vectors(report.run)
    assert places.tolist() == list(range(rows.height))
    encoder = warehouse.load_encoder("toy:0")
    for place in range(0, rows.height, 7):
        row = rows.row(place, named=True)
        picture = warehouse.picture(row["image_id"])
        map_hw = warehouse.token_map("patch", row["feature_id"], row["image_id"])
        box = crop_box(map_hw, warehouse.space("patch").framing, picture.size, 0.5, 0.0)
        assert tuple(row[side] for side in ("left", "top", "right", "bottom")) == box
        expected_e = encoder.forward(torch.stack([encoder.preprocess(picture.crop(box))]), []).embedding_be[0]
        np.testing.assert_allclose(vectors_pe[place], expected_e.numpy(), atol=1e-5)
    assert check(warehouse.layout, hashes=True).remaining == []
    (concepts,) = warehouse.analyze("concepts", embedding="toy", crop=True, n=3, crop_threshold=0.5)
    ids, means_fe = warehouse.result_vectors(concepts.run)
    of_first = rows["feature_id"].to_numpy() == ids[0]
    np.testing.assert_allclose(means_fe[0], vectors_pe[of_first].mean(axis=0), atol=1e-6)
    again = warehouse.analyze("concepts", embedding="toy", crop=True, n=2, crop_threshold=0.5)
    assert [(one.analyzer, one.is_new) for one in again] == [("examples", True), ("concepts", True)]


def test_neurons_that_were_pooled_are_cut_as_their_patches_say(warehouse: Any) -> None:
    """The pooled space keeps no maps; computed anew they are those that the space of patches has stored."""
    warehouse.extract("toy:0", [PATCHES, POOLED], "toy")
    found = {}
    for space in ("patch", "pooled"):
        (report,) = warehouse.plugins.analyze(
            warehouse, "examples", [space], {"embedding": "toy", "crop": True, "n": 5}
        )
        columns = ("feature_id", "rank", "image_id", "left", "top", "right", "bottom")
        found[space] = (
            warehouse.result_rows(report.run).sort("feature_id", "rank").select(columns).rows(),
            warehouse.result_vectors(report.run).vectors_ke,
        )
    assert found["patch"][0] == found["pooled"][0]
    np.testing.assert_allclose(found["patch"][1], found["pooled"][1], atol=1e-5)


def test_examples_whose_picture_is_gone_leave_no_gap_in_the_ranks(warehouse: Any, pictures: Path) -> None:
    warehouse.extract("toy:0", [PATCHES], "toy")
    first, second = warehouse.top_images("patch", 0, 2)["image_id"]
    Path(warehouse.images()["path"][first]).unlink()
    (report,) = warehouse.analyze("examples", embedding="toy", crop=True, n=3)
    rows = warehouse.result_rows(report.run).filter(feature_id=0).sort("rank")
    assert rows["rank"].to_list() == [0, 1]
    assert rows["image_id"][0] == second
    assert "could not be read" in report.run.notes["incomplete"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"crop": True}, "no token maps to crop to"),
        ({"attribution": "crp", "crop": True}, "CRP finds the pixels of neurons"),
        ({"class_name": "cat"}, "--by relevance only"),
        ({"crop_margin": 0.5}, "count with --crop only"),
        ({"embedding": "f"}, "no embedding 'f'"),
    ],
)
def test_what_is_not_possible_says_why(warehouse: Any, given: dict[str, Any], words: str) -> None:
    warehouse.import_features("s", np.eye(30, 3, dtype=np.float32), list(range(30)))
    warehouse.import_embeddings("e", np.ones((30, 4), np.float32), list(range(30)))
    with pytest.raises(UsageError, match=words):
        warehouse.analyze("examples", **{"embedding": "e", **given})


class Ranked(Analyzer[Any]):
    """Vectors, several of a feature."""

    schema = pa.schema([("feature_id", pa.int32()), ("rank", pa.int32()), ("vector", pa.list_(pa.float32()))])


@pytest.mark.parametrize(
    ("features", "ranks", "is_good"),
    [
        ([0, 0, 2], [0, 1, 0], True),
        ([0, 0, 2], [0, 2, 0], False),
        ([0, 0, 2], [1, 2, 0], False),
        ([2, 0, 0], [0, 0, 1], False),
        ([0, 2, 0], [0, 0, 1], False),
        ([0, 0, 2], [0, 1, 1], False),
    ],
)
def test_rows_with_several_vectors_come_in_the_order_of_their_ranks(
    features: list[int], ranks: list[int], is_good: bool
) -> None:
    table = pa.table({"feature_id": features, "rank": ranks, "vector": [[1.0]] * 3}).cast(Ranked.schema)
    if is_good:
        assert conforming("ranked", Ranked(), table, 3).num_rows == 3
    else:
        with pytest.raises(PluginError, match="by rank from 0 on"):
            conforming("ranked", Ranked(), table, 3)
