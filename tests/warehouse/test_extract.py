"""Extraction and finalising against the encoder run by hand, picture by picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from conftest import write_pictures
from PIL import Image

from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.extraction import run as run_module
from glasshouse.warehouse.warehouse import Warehouse

SPACES = [
    ("cls", "blocks.1.resid_post", "cls", "neurons"),
    ("patches", "blocks.0.resid_post", "patches", "neurons"),
]


def by_hand(warehouse: Warehouse, encoder: Any, hook: str) -> np.ndarray[Any, Any]:
    """Return activations [images, tokens, width] of every picture, each run alone."""
    rows = []
    for path in warehouse.images()["path"]:
        tensor = encoder.preprocess(Image.open(warehouse.root / path).convert("RGB"))
        rows.append(encoder.forward(tensor[None], [hook]).activations[hook][0].numpy())
    return np.stack(rows)


def test_both_kinds_of_space_equal_the_encoder_by_hand(warehouse: Warehouse, toy_encoder_class: Any) -> None:
    encoder = toy_encoder_class("0")
    report = warehouse.extract(
        encoder, [(*s[:3], warehouse.plugins.load_sae(s[3])) for s in SPACES], "toy", batch_size=8
    )
    assert report.new_images == {"cls": 30, "patches": 30, "toy": 30}
    assert encoder.n_forward == 4  # blocks of 8 images, one pass for two spaces and the embedding

    cls_bd = np.maximum(by_hand(warehouse, encoder, "blocks.1.resid_post")[:, 0], 0)
    np.testing.assert_allclose(warehouse.sparse_matrix("cls").toarray(), cls_bd, atol=1e-6)

    tokens_btd = np.maximum(by_hand(warehouse, encoder, "blocks.0.resid_post")[:, 1:], 0)
    np.testing.assert_allclose(warehouse.sparse_matrix("patches").toarray(), tokens_btd.max(1), atol=1e-6)
    for image, feature in [(0, 0), (7, 3), (29, 23)]:
        np.testing.assert_allclose(
            warehouse.token_map("patches", feature, image).reshape(-1), tokens_btd[image, :, feature], atol=1e-6
        )
    top = warehouse.top_images("patches", 3, k=5)
    expected = np.argsort(-tokens_btd[:, :, 3].max(1), kind="stable")[:5]
    assert top["image_id"].to_list() == expected.tolist()
    assert top["token"].to_list() == tokens_btd[expected, :, 3].argmax(1).tolist()
    assert top["path"].to_list() == [warehouse.images()["path"][int(i)] for i in expected]

    leading = warehouse.features_of_image("cls", 4, k=3)
    assert leading["feature_id"].to_list() == np.argsort(-cls_bd[4], kind="stable")[:3].tolist()
    everything = warehouse.features_of_image("cls", 4, k=None)
    assert everything.height == (cls_bd[4] > 0).sum()

    ids, vectors_ne = warehouse.embeddings("toy")
    assert ids.tolist() == list(range(30))
    pixels = torch.stack(
        [encoder.preprocess(Image.open(warehouse.root / p).convert("RGB")) for p in warehouse.images()["path"]]
    )
    np.testing.assert_allclose(vectors_ne, encoder.forward(pixels, []).embedding_be.numpy(), atol=1e-6)


def test_statistics_equal_their_definitions(warehouse: Warehouse) -> None:
    warehouse.extract("toy:0", [SPACES[0]])
    matrix = warehouse.sparse_matrix("cls").toarray().astype(np.float64)
    stats = warehouse.feature_statistics("cls")
    assert stats["feature_id"].to_list() == list(range(matrix.shape[1]))
    for row in stats.iter_rows(named=True):
        values = matrix[:, row["feature_id"]]
        active = values[values > 0]
        assert row["n_active"] == len(active)
        assert row["frequency"] == pytest.approx(len(active) / 30)
        assert row["sum_squares"] == pytest.approx((values**2).sum(), rel=1e-6)
        if len(active):
            assert row["mean_active"] == pytest.approx(active.mean(), rel=1e-6)
            assert row["max_value"] == pytest.approx(active.max(), rel=1e-6)
        else:
            assert row["mean_active"] is None and row["max_value"] is None
        if len(active) > 1:
            assert row["std_active"] == pytest.approx(active.std(ddof=1), rel=1e-5)
        assert row["n_tokens"] is None


@pytest.mark.parametrize(("policy", "reduce"), [("mean", np.mean), ("max", np.max), ("sum", np.sum)])
def test_pooling_policies(warehouse: Warehouse, toy_encoder_class: Any, policy: str, reduce: Any) -> None:
    warehouse.extract("toy:0", [("pooled", "blocks.0.resid_post", policy, "neurons")])
    patches_btd = by_hand(warehouse, toy_encoder_class("0"), "blocks.0.resid_post")[:, 1:]
    expected = np.maximum(reduce(patches_btd, axis=1), 0)
    np.testing.assert_allclose(warehouse.sparse_matrix("pooled").toarray(), expected, atol=1e-5)
    with pytest.raises(UsageError, match="no token maps"):
        warehouse.token_map("pooled", 0, 0)


def everything(warehouse: Warehouse) -> dict[str, pl.DataFrame]:
    """Return all that an extraction stored, in one order."""
    frames = {
        name: warehouse.sql(f"FROM {name} ORDER BY ALL")
        for name in ("activations", "token_activations", "image_top_features", "features", "failures")
    }
    frames["spaces"] = warehouse.spaces().drop("created_at", "finalised_at")
    for name in warehouse.embedding_names():
        embedding = warehouse.embeddings(name)
        frames[f"embedding {name}"] = pl.DataFrame({"id": embedding.image_ids, "v": embedding.vectors_ne})
    return frames


def test_stopping_and_going_on_gives_the_same_rows(tmp_path: Path, pictures: Path, plugins: Any) -> None:
    undisturbed = Warehouse.create(tmp_path / "a.glasshouse", plugins)
    undisturbed.add([pictures])
    undisturbed.extract("toy:0", SPACES, "toy", batch_size=4)

    stopped = Warehouse.create(tmp_path / "b.glasshouse", plugins)
    stopped.add([pictures])
    for n_batches in (0, 1, 2):
        count = iter(range(n_batches))
        report = stopped.extract("toy:0", SPACES, "toy", batch_size=4, stop=lambda c=count: next(c, None) is None)
        assert report.stopped
        assert stopped.spaces()["state"].to_list() == ["extracting", "extracting"]
        with pytest.raises(UsageError, match="not finished"):
            stopped.top_images("cls", 0)
    report = stopped.extract("toy:0", SPACES, "toy", batch_size=4)
    assert 0 < report.n_computed < 30
    expected = everything(undisturbed)
    for name, frame in everything(stopped).items():
        assert frame.equals(expected[name]), name
    assert list((tmp_path / "b.glasshouse" / "shards").glob("*/*.parquet")) == []


def test_images_added_later_are_the_only_ones_computed(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.extract("toy:0", SPACES, "toy")
    before = everything(warehouse)
    write_pictures(tmp_path / "more", 10, first=100)
    warehouse.add([tmp_path / "more"])
    report = warehouse.extract("toy:0", SPACES, "toy")
    assert report.n_computed == 10
    assert report.new_images == {"cls": 10, "patches": 10, "toy": 10}
    after = everything(warehouse)
    for name in ("activations", "token_activations", "image_top_features"):
        assert after[name].filter(pl.col("image_id") < 30).equals(before[name]), name
        assert after[name]["image_id"].n_unique() == 40
    again = warehouse.extract("toy:0", SPACES, "toy")
    assert (again.n_computed, again.new_images) == (0, {"cls": 0, "patches": 0, "toy": 0})
    assert warehouse.spaces()["n_images"].to_list() == [40, 40]


def test_a_second_space_later_does_not_touch_the_first(warehouse: Warehouse) -> None:
    warehouse.extract("toy:0", [SPACES[0]])
    file = warehouse.layout.space_file("cls")
    before = file.stat().st_mtime_ns
    warehouse.extract("toy:0", SPACES)
    assert file.stat().st_mtime_ns == before
    assert warehouse.spaces()["n_images"].to_list() == [30, 30]


def test_unreadable_pictures_become_failures_and_are_tried_again(warehouse: Warehouse, pictures: Path) -> None:
    gone, changed = pictures / "00003.png", pictures / "00017.png"
    bytes_gone, bytes_changed = gone.read_bytes(), changed.read_bytes()
    gone.unlink()
    changed.write_bytes((pictures / "00000.png").read_bytes())
    report = warehouse.extract("toy:0", SPACES, "toy", batch_size=8)
    assert report.n_failed == 2
    failures = warehouse.sql("FROM failures ORDER BY path, source")
    assert failures["path"].str.slice(-9).to_list() == ["00003.png"] * 3 + ["00017.png"] * 3
    assert failures["source"].to_list() == ["embedding toy", "space cls", "space patches"] * 2
    assert "changed since it was added" in failures["reason"][3]
    assert warehouse.spaces()["n_images"].to_list() == [28, 28]

    again = warehouse.extract("toy:0", SPACES, "toy", batch_size=8)
    assert (again.n_computed, again.n_failed) == (2, 2)
    assert warehouse.sql("FROM failures").height == 6

    gone.write_bytes(bytes_gone)
    changed.write_bytes(bytes_changed)
    assert warehouse.extract("toy:0", SPACES, "toy", batch_size=8).n_failed == 0
    assert warehouse.sql("FROM failures").height == 0
    assert warehouse.sparse_matrix("cls").shape == (30, 24)


def test_a_name_belongs_to_its_weights(warehouse: Warehouse) -> None:
    warehouse.extract("toy:0", [SPACES[0]], "toy")
    with pytest.raises(UsageError, match="glasshouse drop space cls"):
        warehouse.extract("toy:1", [SPACES[0]])
    with pytest.raises(UsageError, match="glasshouse drop embedding toy"):
        warehouse.extract("toy:1", embedding="toy")
    warehouse.drop("space", "cls")
    assert not warehouse.layout.space_file("cls").exists()
    warehouse.extract("toy:1", [SPACES[0]])
    assert warehouse.spaces()["encoder_spec"].to_list() == ["toy:1"]


def test_wrong_requests_say_what_there_is(warehouse: Warehouse) -> None:
    with pytest.raises(UsageError, match=r"no hook point 'blocks.9.resid_post'.*blocks.0.resid_post"):
        warehouse.extract("toy:0", [("x", "blocks.9.resid_post", "cls", "neurons")])
    with pytest.raises(UsageError, match=r"no token policy 'clss'. Did you mean 'cls'"):
        warehouse.extract("toy:0", [("x", "blocks.0.resid_post", "clss", "neurons")])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="cannot name a space"):
        warehouse.extract("toy:0", [("X Y", "blocks.0.resid_post", "cls", "neurons")])
    with pytest.raises(UsageError, match="given twice"):
        warehouse.extract("toy:0", [SPACES[0], SPACES[0]])
    with pytest.raises(UsageError, match=r"no encoder scheme 'toi'. Did you mean 'toy'"):
        warehouse.extract("toi:0", [SPACES[0]])
    assert warehouse.spaces().height == 0


class TwelveWide:
    """An SAE that fits no toy hook."""

    spec, fingerprint, width, hook, tokens, is_lossless = "twelve", "0", 12, None, None, False


def test_an_sae_of_another_width_is_refused(warehouse: Warehouse) -> None:
    with pytest.raises(ModelError, match=r"takes vectors of width 12, but blocks.0.resid_post of toy:0 gives 24"):
        warehouse.extract("toy:0", [("x", "blocks.0.resid_post", "cls", TwelveWide())])  # type: ignore[list-item]


def test_an_empty_warehouse_says_what_to_do(tmp_path: Path, plugins: Any) -> None:
    empty = Warehouse.create(tmp_path / "e.glasshouse", plugins)
    with pytest.raises(UsageError, match="glasshouse add FOLDER"):
        empty.extract("toy:0", [SPACES[0]])
    assert empty.sql("FROM activations").height == 0


def test_batches_are_blocks_of_image_ids(warehouse: Warehouse) -> None:
    from glasshouse.warehouse.extraction.loading import stored_images

    with warehouse.catalogue.reading() as connection:
        images = stored_images(connection)
    blocks = run_module.blocks_of(images, frozenset({0, 1, 7, 8, 9, 29}), 8)
    assert [[image.image_id for image in block] for block in blocks] == [[0, 1, 7], [8, 9], [29]]


def test_self_test_is_stored_and_complains(warehouse: Warehouse, tmp_path: Path) -> None:
    from glasshouse.plugins.saes import own_format

    rng = np.random.default_rng(0)
    tensors = {
        "W_enc": torch.tensor(rng.normal(size=(24, 48)), dtype=torch.float32),
        "b_enc": torch.zeros(48),
        "W_dec": torch.tensor(rng.normal(size=(48, 24)), dtype=torch.float32),
        "b_dec": torch.zeros(24),
    }
    description = {"format": 1, "activation": "relu", "apply_b_dec_to_input": True, "normalization": "none",
                   "hook": "blocks.0.resid_post", "tokens": "cls", "encoder": "toy:0"}  # fmt: skip
    folder = tmp_path / "sae"
    folder.mkdir()
    own_format.write(folder / "sae.safetensors", tensors, description)
    report = warehouse.extract("toy:0", [("random", "blocks.0.resid_post", "patches", str(folder))])
    assert len(report.complaints) == 2
    assert "was trained on tokens cls, not patches" in report.complaints[0]
    assert "does not seem to fit" in report.complaints[1]
    stored = warehouse.sql("SELECT (self_test->>'explained_variance')::DOUBLE AS ev FROM spaces")["ev"][0]
    assert stored < 0.5


def test_a_warehouse_named_by_a_relative_path(tmp_path: Path, pictures: Path, plugins: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Warehouse.create("here.glasshouse", plugins)
    relative.add(["pictures"])
    assert relative.extract("toy:0", SPACES, "toy").new_images == {"cls": 30, "patches": 30, "toy": 30}
    assert relative.sql("SELECT count(DISTINCT image_id) AS n FROM activations")["n"][0] == 30


def test_a_picture_whose_only_file_became_another_is_a_failure(warehouse: Warehouse, pictures: Path) -> None:
    (pictures / "00005.png").write_bytes(write_pictures(pictures.parent / "other", 1, first=700)[0].read_bytes())
    report = warehouse.add([pictures])
    assert len(report.changed_paths) == 1
    assert warehouse.extract("toy:0", SPACES[:1]).n_failed == 1
    failures = warehouse.sql("FROM failures WHERE stage = 'extract'")
    assert "another one has taken its place" in failures["reason"][0]
    assert warehouse.spaces()["n_images"].to_list() == [30]


def test_two_threads_that_write_take_turns(warehouse: Warehouse, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    folders = [tmp_path / f"more{i}" for i in range(3)]
    for i, folder in enumerate(folders):
        write_pictures(folder, 20, first=1000 * (i + 1))
    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(lambda folder: warehouse.add([folder]), folders))
    assert [report.n_new_images for report in reports] == [20, 20, 20]
    assert warehouse.images()["image_id"].to_list() == list(range(90))


def test_masks_come_back_as_they_were_drawn(warehouse: Warehouse, pictures: Path, tmp_path: Path) -> None:
    import json

    mask_hw = np.zeros((20, 20), dtype=bool)
    mask_hw[3:9, 5:15] = True
    runs, value = [0], False
    for pixel in mask_hw.T.reshape(-1):  # COCO counts down the columns, background first
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    annotation = {"id": 9, "image_id": 1, "category_id": 2, "bbox": [5, 3, 10, 6], "area": 60, "iscrowd": 0,
                  "segmentation": {"size": [20, 20], "counts": runs}, "attributes": {"colour": "red"}}  # fmt: skip
    (tmp_path / "a.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "00004.png", "width": 20, "height": 20}],
                "categories": [{"id": 2, "name": "box"}],
                "annotations": [annotation],
            }
        )
    )
    warehouse.add(annotations=[tmp_path / "a.json"])
    (found,) = warehouse.masks("00004.png")
    assert (found.annotation_id, found.category, found.is_crowd) == (9, "box", False)
    np.testing.assert_array_equal(found.mask_hw, mask_hw)
    assert warehouse.sql("SELECT attributes->>'colour' AS colour FROM annotations")["colour"].to_list() == ["red"]
    assert warehouse.masks(0) == []


def test_tables_lie_in_the_order_that_their_reads_rely_on(warehouse: Warehouse, tmp_path: Path) -> None:
    """No query needs it to be right, so only the file itself can tell; values with ties, and a second finalising."""
    import duckdb

    rng = np.random.default_rng(2)
    values = rng.integers(0, 4, (30, 50)).astype(np.float32)
    warehouse.import_features("ties", values, list(range(30)))
    warehouse.extract("toy:0", SPACES)
    write_pictures(tmp_path / "more", 10, first=300)
    warehouse.add([tmp_path / "more"])
    warehouse.extract("toy:0", SPACES)
    orders = {
        "activations": "feature_id, value DESC, image_id",
        "token_activations": "feature_id, image_id, token",
        "space_images": "image_id",
        "feature_stats": "feature_id",
    }
    for space in ("ties", "cls", "patches"):
        with duckdb.connect(str(warehouse.layout.space_file(space)), read_only=True) as connection:
            for table, order in orders.items():
                lying = connection.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall()
                assert lying == connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall(), (space, table)
            ids = connection.execute("SELECT image_id FROM image_top_features ORDER BY rowid").fetchall()
            assert ids == sorted(ids)
