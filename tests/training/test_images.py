"""From images to vectors: held-out images are never trained on, failures are counted, streams go on where they were."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_pictures

from glasshouse.plugins.saes import own_format
from glasshouse.plugins.saes.neurons import Neurons
from glasshouse.plugins.training.checks import check_memory
from glasshouse.plugins.training.images import ImageRows, Reader, data_fingerprint, held_out_rows, split_images
from glasshouse.plugins.training.request import Report, Request
from glasshouse.plugins.training.train import train
from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.extraction.loading import StoredImage, stored_images
from glasshouse.warehouse.extraction.targets import SpaceRequest, resolve_space
from glasshouse.warehouse.warehouse import Warehouse

HOOK = "blocks.0.resid_post"


class Spy:
    """A toy encoder that remembers which pictures went through it, by their pixels."""

    def __init__(self, toy: Any) -> None:
        self.toy = toy
        self.seen: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.toy, name)

    def forward(self, batch_bchw: Any, hooks: Any, *, embedding: bool = True) -> Any:
        self.seen += [image.numpy().tobytes() for image in batch_bchw]
        return self.toy.forward(batch_bchw, hooks, embedding=embedding)


@pytest.fixture
def toy(toy_encoder_class: Any) -> Any:
    return toy_encoder_class("0")


def all_images(warehouse: Any) -> list[StoredImage]:
    with Catalogue(warehouse.root).reading() as connection:
        return stored_images(connection)


def reader_of(warehouse: Any, encoder: Any, tokens: Any = "patches", batch_size: int = 4) -> Reader:
    target = resolve_space(SpaceRequest("train", HOOK, tokens, Neurons("cpu")), encoder)
    return Reader(encoder, target, warehouse.root, batch_size, workers=2)


def test_the_split_depends_on_bytes_and_seed_alone() -> None:
    images = [StoredImage(i, hashlib.sha256(bytes([i])).hexdigest(), ()) for i in range(40)]
    training, held_out = split_images(images, 0.2, 0)
    assert len(held_out) == 8 and len(training) == 32
    assert [image.image_id for image in training] == sorted(image.image_id for image in training)
    renumbered = [StoredImage(100 - image.image_id, image.sha256, ()) for image in images[::-1]]
    again = split_images(renumbered, 0.2, 0)[1]
    assert {image.sha256 for image in again} == {image.sha256 for image in held_out}
    assert {image.sha256 for image in split_images(images, 0.2, 1)[1]} != {image.sha256 for image in held_out}
    assert len(split_images(images, 1e-9, 0)[1]) == 1 and len(split_images(images, 0.999, 0)[0]) == 1


def test_held_out_images_are_never_trained_on(warehouse: Any, tmp_path: Path, toy: Any) -> None:
    """What the encoder sees while batches are drawn are the training images, in every epoch."""
    spy = Spy(toy)
    training, held_out = split_images(all_images(warehouse), 0.2, 3)
    assert len(held_out) == 6
    reader = reader_of(warehouse, spy)
    source = ImageRows(reader, training, 3)
    rows_nd = np.empty((3 * len(training) * 16, 24), dtype=np.float32)
    source.take(rows_nd)
    trained_on = set(spy.seen)
    assert len(trained_on) == len(training) and len(spy.seen) >= 3 * len(training)
    spy.seen.clear()
    held_nd = held_out_rows(reader, held_out, 3)
    assert len(spy.seen) == 6 and not trained_on & set(spy.seen)
    assert not {row.tobytes() for row in rows_nd} & {row.tobytes() for row in held_nd}

    spy.seen.clear()
    request = Request(HOOK, "patches", 32, l0=3, steps=20, batch=32, seed=3, held_out=0.2)
    report = train(warehouse.layout, spy, request, tmp_path / "sae")
    assert (report.n_images, report.n_held_out) == (24, 6)
    counts = {picture: spy.seen.count(picture) for picture in spy.seen}
    assert len(counts) == 30
    assert all(count == 1 for picture, count in counts.items() if picture not in trained_on), "read once, to measure"


def test_an_epoch_gives_every_vector_once_in_the_encoders_own_numbers(warehouse: Any, toy: Any) -> None:
    images = all_images(warehouse)
    reader = reader_of(warehouse, toy)
    into_nd = np.empty((len(images) * 16, 24), dtype=np.float32)
    assert ImageRows(reader, images, 0).take_epoch(into_nd) == 480
    single = reader_of(warehouse, toy, batch_size=1)
    expected = np.concatenate([rows_nd for _, _, rows_nd in single.read(images)])
    order = np.lexsort(into_nd.T), np.lexsort(expected.T)
    assert np.allclose(into_nd[order[0]], expected[order[1]], atol=1e-5)
    assert not np.array_equal(into_nd, expected)


@pytest.mark.parametrize("n_before", [0, 10, 64, 65, 470, 480, 481, 900])
def test_a_stream_of_images_goes_on_where_it_was(warehouse: Any, toy: Any, n_before: int) -> None:
    images = all_images(warehouse)
    whole_nd = np.empty((1_000, 24), dtype=np.float32)
    ImageRows(reader_of(warehouse, toy), images, 0).take(whole_nd)
    first = ImageRows(reader_of(warehouse, toy), images, 0)
    first.take(np.empty((n_before, 24), dtype=np.float32))
    again = ImageRows(reader_of(warehouse, toy), images, 0)
    again.restore(first.state())
    rest_nd = np.empty((1_000 - n_before, 24), dtype=np.float32)
    again.take(rest_nd)
    assert np.array_equal(rest_nd, whole_nd[n_before:])


def ask(warehouse: Any, toy: Any, folder: Path, **options: Any) -> Report:
    chosen = {"l0": 3, "steps": 30, "batch": 32, "held_out": 0.2, **options}
    return train(warehouse.layout, toy, Request(HOOK, "patches", 32, **chosen), folder)


def test_images_that_cannot_be_read_are_skipped_and_counted(
    warehouse: Any, pictures: Path, tmp_path: Path, toy: Any
) -> None:
    training, held_out = split_images(all_images(warehouse), 0.2, 0)
    for image in (training[0], training[5], held_out[0]):
        Path(warehouse.root, image.paths[0].path).resolve().unlink()
    report = ask(warehouse, toy, tmp_path / "sae")
    assert report.n_failed == 3 and report.file is not None
    assert report.figures["n_rows"] == 5 * 16
    for path in pictures.iterdir():
        path.unlink()
    with pytest.raises(ModelError, match="None of 6 held-out images gives a vector; the first: "):
        ask(warehouse, toy, tmp_path / "other")


def test_training_images_that_are_all_gone_end_a_stream(warehouse: Any, toy: Any) -> None:
    training, _ = split_images(all_images(warehouse), 0.2, 0)
    for image in training:
        Path(warehouse.root, image.paths[0].path).resolve().unlink()
    reader = reader_of(warehouse, toy)
    with pytest.raises(ModelError, match="None of 24 training images gives a vector"):
        ImageRows(reader, training, 0).take(np.empty((5, 24), dtype=np.float32))
    with pytest.raises(ModelError, match="None of 24 training images gives a vector"):
        ImageRows(reader, training, 0).take_epoch(np.empty((480, 24), dtype=np.float32))


def test_vectors_that_are_not_finite_are_left_out_and_counted(warehouse: Any, tmp_path: Path, toy: Any) -> None:
    forward = toy.forward

    def broken(batch_bchw: Any, hooks: Any, *, embedding: bool = True) -> Any:
        result = forward(batch_bchw, hooks, embedding=embedding)
        result.activations[HOOK][0, 1] = float("nan")
        return result

    toy.forward = broken
    report = ask(warehouse, toy, tmp_path / "sae", batch_size=8)
    assert report.n_not_finite == 4, "one in each block of 8, of 6 held-out and 24 training images"
    assert report.figures["explained_variance"] > 0


def test_where_the_vectors_lie_changes_nothing(warehouse: Any, tmp_path: Path, toy: Any) -> None:
    """In memory or in a file: the same bits. A stream through a part of them is another order."""
    write_pictures(tmp_path / "more", 900, first=1_000)
    warehouse.add([tmp_path / "more"])
    fits, on_disk, part = (
        ask(warehouse, toy, tmp_path / name, **memory)
        for name, memory in (("memory", {}), ("disk", {"buffer": 1}), ("part", {"buffer": 1, "disk": 1}))
    )
    assert (fits.streamed, on_disk.streamed, part.streamed) == (False, False, True)
    assert fits.curves == on_disk.curves and fits.figures == on_disk.figures
    assert part.curves != fits.curves
    assert part.figures["explained_variance"] == pytest.approx(fits.figures["explained_variance"], abs=0.05)
    assert sorted(path.name for path in (tmp_path / "part").iterdir() if "training." not in path.name) == [
        "curves.jsonl",
        "sae.safetensors",
    ]


def test_what_does_not_fit_is_said_before_anything_is_read(warehouse: Any, tmp_path: Path, toy: Any) -> None:
    for options, words in (
        ({"kind": "batch"}, "no kind of dictionary 'batch'.*Did you mean 'batchtopk'"),
        ({"prefixes": "8,32"}, "--prefixes are for --kind matryoshka"),
        ({"l0": 33}, "--l0 must be between 1 and the 32 features"),
        ({"epochs": 2.0}, "Give --steps or --epochs, not both"),
        ({"learning_rate": float("nan")}, "--learning-rate must be a number above zero, not nan"),
        ({"learning_rate": float("inf")}, "--learning-rate must be a number above zero, not inf"),
        ({"steps": None, "epochs": float("nan")}, "--epochs must be a number above zero, not nan"),
        ({"steps": None, "epochs": 1e308}, r"--epochs 1e\+308 is too many"),
        ({"held_out": float("nan")}, "--held-out is the share .* not nan"),
        ({"held_out": 0.999}, "--held-out is the share .* at most 0.5, not 0.999"),
        ({"batch": 500}, "A batch of 500 vectors is too large for 384 of them"),
    ):
        with pytest.raises(UsageError, match=words):
            ask(warehouse, toy, tmp_path / "sae", **options)
    for n_features in (10**9, 10**400):
        with pytest.raises(
            UsageError, match=r"features of 24 numbers need [\d,.]+ GiB of memory .* there are [\d,.]+ GiB"
        ):
            train(warehouse.layout, toy, Request(HOOK, "patches", n_features, batch=32), tmp_path / "sae")
    with pytest.raises(UsageError, match="no token policy 'patch'"):
        train(warehouse.layout, toy, Request(HOOK, "patch", 32), tmp_path / "sae")
    with pytest.raises(UsageError, match=r"no hook point 'blocks\.7'"):
        train(warehouse.layout, toy, Request("blocks.7", "cls", 32), tmp_path / "sae")


def test_a_folder_of_a_warehouse_or_a_file_is_refused(warehouse: Any, tmp_path: Path, toy: Any) -> None:
    before = sorted(warehouse.root.rglob("*"))
    for folder in (warehouse.root, warehouse.root / "spaces" / "sae", warehouse.root / "new" / ".." / "sae"):
        with pytest.raises(UsageError, match=r"lies within the warehouse .* Name a folder beside it"):
            ask(warehouse, toy, folder)
    assert sorted(warehouse.root.rglob("*")) == before
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "sae"):
        with pytest.raises(UsageError, match="file is a file, and a folder is needed"):
            ask(warehouse, toy, folder)


def test_few_held_out_images_are_said(warehouse: Any, tmp_path: Path, toy: Any) -> None:
    said: list[str] = []
    request = Request(HOOK, "cls", 8, steps=2, batch=4, held_out=1e-9)
    train(warehouse.layout, toy, request, tmp_path / "one", warn=said.append)
    assert said == ["Only 1 image is held out of 30: the figures will say little."]
    train(warehouse.layout, toy, replace(request, held_out=0.4), tmp_path / "more", warn=said.append)
    assert len(said) == 1, "twelve are enough"


def test_only_what_was_changed_is_named(warehouse: Any, tmp_path: Path, toy: Any) -> None:
    ask(warehouse, toy, tmp_path / "sae", steps=2)
    with pytest.raises(UsageError, match=r"is of another training: seed 0 there and 3 here. Give"):
        ask(warehouse, toy, tmp_path / "sae", steps=2, seed=3)
    with pytest.raises(UsageError, match=r"is of another training: held-out 0.2 there and 0.3 here. Give"):
        ask(warehouse, toy, tmp_path / "sae", steps=2, held_out=0.3)
    images = all_images(warehouse)
    assert data_fingerprint(images) == data_fingerprint(images[::-1]) != data_fingerprint(images[1:])


def test_what_a_training_leaves_is_readable_for_others_and_names_no_process(
    warehouse: Any, tmp_path: Path, toy: Any
) -> None:
    previous = os.umask(0o022)
    try:
        report = train(warehouse.layout, toy, Request(HOOK, "cls", 8, steps=2, batch=4), tmp_path / "sae")
    finally:
        os.umask(previous)
    assert report.file is not None and report.file.stat().st_mode & 0o777 == 0o644
    assert not (tmp_path / "sae" / "training.holder").exists()
    description, _ = own_format.read(report.file)
    assert description.k == 2, "a quarter of 8 features, where none is asked for"


def test_one_image_is_too_few(tmp_path: Path, pictures: Path, toy: Any, plugins: Any) -> None:
    alone = Warehouse.create(tmp_path / "alone.glasshouse", plugins)
    with pytest.raises(UsageError, match=r"alone.glasshouse has no images; one is held out"):
        ask(alone, toy, tmp_path / "sae")
    alone.add([sorted(pictures.iterdir())[0]])
    with pytest.raises(UsageError, match=r"alone.glasshouse has 1 image; one is held out"):
        ask(alone, toy, tmp_path / "sae")
    alone.close()


def test_memory_is_counted_in_weights_gradients_moments_and_codes() -> None:
    needed = 4 * (8 * 1000 * 64 + 128 * 1000)
    check_memory(1000, 64, 128, available=needed)
    with pytest.raises(UsageError, match="1,000 features of 64 numbers"):
        check_memory(1000, 64, 128, available=needed - 1)
