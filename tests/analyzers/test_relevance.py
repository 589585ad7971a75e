"""Relevance of features for classes: against autograd on the bare model, hand-made linear heads, and loops."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOY_PLUGIN, write_pictures
from kit.labels import label

from glasshouse.plugins.analyzers.relevance_methods import ImageRelevance
from glasshouse.plugins.analyzers.relevance_sums import ClassSums
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.saes import own_format
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.warehouse import Warehouse

CNN = "timm:test_resnet/random:0"
LAST = ("last", "layer4", "max", "neurons")
EARLIER = ("earlier", "layer3", "max", "neurons")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of a warehouse with two layers of the CNN; made once, each test works on a copy."""
    folder = tmp_path_factory.mktemp("cnn")
    write_pictures(folder / "pictures", 30)
    made = Warehouse.create(folder / "w.glasshouse", Plugins(external=False))
    made.add([folder / "pictures"])
    made.extract(CNN, [LAST, EARLIER], "cnn", batch_size=10)
    made.close()
    return folder / "w.glasshouse"


@pytest.fixture
def unlabelled(extracted: Path, tmp_path: Path) -> Iterator[Any]:
    """Return a copy of it."""
    shutil.copytree(extracted, tmp_path / "w.glasshouse")
    opened = Warehouse.open(tmp_path / "w.glasshouse", plugins=Plugins([TOY_PLUGIN], external=False))
    yield opened
    opened.close()


@pytest.fixture
def labelled(unlabelled: Any, tmp_path: Path) -> Any:
    """Return a warehouse whose first twelve images are of three of the CNN's classes, '5', '7' and '900'."""
    warehouse = unlabelled
    label(warehouse, tmp_path, [(image, "class", ("5", "7", "900")[image % 3]) for image in range(12)])
    return warehouse


def result(warehouse: Any, space: str, **parameters: Any) -> Any:
    """Run the analysis on one space; return its rows and its run."""
    (report,) = warehouse.plugins.analyze(warehouse, "relevance", [space], parameters)
    return warehouse.result_rows(report.run), report.run


def naive(warehouse: Any, hook: str, image: int, number: int) -> tuple[Any, Any]:
    """Return activation and activation × gradient [grid rows, columns, width] of one image, by autograd alone."""
    encoder = warehouse.load_encoder(CNN)
    model = encoder.tower.model
    kept = []
    module = dict(model.named_modules())[hook]
    handle = module.register_forward_hook(lambda _m, _i, out: kept.append(out.retain_grad()) or kept.append(out))
    tensor = encoder.preprocess(warehouse.picture(image))[None].requires_grad_()
    model(tensor)[0, number].backward()
    handle.remove()
    acts_whd = kept[1].detach()[0].permute(1, 2, 0)
    return acts_whd.numpy(), (acts_whd * kept[1].grad[0].permute(1, 2, 0)).numpy()


@pytest.mark.parametrize(("space", "hook"), [("last", "layer4"), ("earlier", "layer3")])
def test_gradient_times_activation_is_that_of_autograd(labelled: Any, space: str, hook: str) -> None:
    rows, run = result(labelled, space, n=2)
    assert run.parameters["attribute"] == "class"
    assert sorted(rows["class_name"].unique()) == ["5", "7", "900"]
    for name in ("5", "900"):
        images = [image for image in range(12) if ("5", "7", "900")[image % 3] == name]
        maps = [naive(labelled, hook, image, int(name)) for image in images]
        total_if = np.array([r.sum(axis=(0, 1)) for _, r in maps])
        positive_if = np.array([np.maximum(r, 0).sum(axis=(0, 1)) for _, r in maps])
        mean_f = total_if.mean(axis=0)
        own = rows.filter(class_name=name).sort("feature_id")
        kept = own["feature_id"].to_numpy()
        assert set(kept) == set(np.flatnonzero(np.abs(mean_f) > 0))
        scale = np.abs(mean_f).max()
        np.testing.assert_allclose(own["relevance"], mean_f[kept], rtol=1e-4, atol=1e-5 * scale)
        np.testing.assert_allclose(
            own["share"], np.maximum(mean_f[kept], 0) / np.maximum(mean_f, 0).sum(), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(
            own["activation"], np.mean([a.max(axis=(0, 1)) for a, _ in maps], axis=0)[kept], rtol=1e-4
        )
        assert (
            own.sort("rank")["feature_id"].to_list() == own.sort("relevance", descending=True)["feature_id"].to_list()
        )
        best = own.sort("rank").row(0, named=True)
        order = sorted(images, key=lambda image: -total_if[images.index(image), best["feature_id"]])
        assert best["image_ids"] == order[:2]
        rows_n, columns_n = maps[0][1].shape[:2]
        weights = np.array([np.maximum(r[..., best["feature_id"]], 0) for _, r in maps]).sum(axis=0)
        x = (weights.sum(axis=0) * (np.arange(columns_n) + 0.5)).sum() / weights.sum() / columns_n
        y = (weights.sum(axis=1) * (np.arange(rows_n) + 0.5)).sum() / weights.sum() / rows_n
        framing = labelled.space(space).framing
        assert positive_if[:, best["feature_id"]].sum() == pytest.approx(weights.sum(), rel=1e-5)
        assert (best["x"], best["y"]) == pytest.approx(_in_picture(framing, x, y), abs=1e-3)


def _in_picture(framing: Any, x: float, y: float) -> tuple[float, float]:
    """From shares of what the encoder sees to shares of the picture; the test's pictures are all of one size."""
    if framing["crop_to"] is None:
        return x, y
    resize, crop = framing["resize_to"][0], framing["crop_to"][0]
    return tuple((resize - crop) / 2 / resize + value * crop / resize for value in (x, y))  # type: ignore[return-value]


def test_behind_a_linear_head_all_methods_say_the_same(labelled: Any) -> None:
    """After layer4 come the mean over positions and one linear layer: activation × weight, whichever way."""
    gradient, _ = result(labelled, "last", classes=("7",))
    ablation, run = result(labelled, "last", classes=("7",), method="ablation", features=(0, 3, 50, 95))
    assert run.parameters["images"] == 64
    assert set(ablation["feature_id"]) <= {0, 3, 50, 95}
    assert ablation["x"].null_count() == ablation.height, "ablation sees no places"
    joined = gradient.join(ablation, on="feature_id")
    assert joined.height == ablation.height >= 3
    np.testing.assert_allclose(joined["relevance_right"], joined["relevance"], rtol=2e-3, atol=1e-6)
    weight_cf = labelled.load_encoder(CNN).tower.model.fc.weight.numpy()
    images = [image for image in range(12) if image % 3 == 1]
    mean_f = np.mean([naive(labelled, "layer4", image, 7)[0].mean(axis=(0, 1)) for image in images], axis=0)
    kept = gradient["feature_id"].to_numpy()
    np.testing.assert_allclose(gradient["relevance"], (mean_f * weight_cf[7])[kept], rtol=1e-3, atol=1e-6)


def test_features_of_an_sae_share_the_gradient_along_their_decoder_rows(labelled: Any, tmp_path: Path) -> None:
    """R = a · (∂y/∂x · decoder row), summed over patches; a loop over every active feature of every patch."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"W_enc": (192, 20), "b_enc": (20,), "W_dec": (20, 192), "b_dec": (192,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    description = {
        "format": 1, "activation": "relu", "apply_b_dec_to_input": True, "normalization": "none", "hook": "layer3",
        "tokens": "patches", "encoder": CNN,
    }  # fmt: skip
    (tmp_path / "sae").mkdir()
    own_format.write(tmp_path / "sae" / "sae.safetensors", tensors, description)
    labelled.extract(CNN, [("sae", "layer3", "patches", str(tmp_path / "sae"))])
    rows, _ = result(labelled, "sae", classes=("5",))
    sums_f = np.zeros(20)
    images = [image for image in range(12) if image % 3 == 0]
    for image in images:
        acts_hwd, product_hwd = naive(labelled, "layer3", image, 5)
        gradient_td = np.divide(product_hwd, acts_hwd, out=np.zeros_like(acts_hwd), where=acts_hwd != 0).reshape(
            -1, 192
        )
        _, slope_td = _slopes(labelled, image)
        np.testing.assert_allclose(
            gradient_td[acts_hwd.reshape(-1, 192) != 0], slope_td[acts_hwd.reshape(-1, 192) != 0], rtol=1e-3, atol=1e-5
        )
        for act_d, slope_d in zip(acts_hwd.reshape(-1, 192), slope_td, strict=True):
            code_f = np.maximum(
                (act_d - tensors["b_dec"].numpy()) @ tensors["W_enc"].numpy() + tensors["b_enc"].numpy(), 0
            )
            sums_f += code_f * (tensors["W_dec"].numpy() @ slope_d)
    own = rows.sort("feature_id")
    np.testing.assert_allclose(
        own["relevance"], sums_f[own["feature_id"].to_numpy()] / len(images), rtol=1e-3, atol=1e-3
    )


def _slopes(warehouse: Any, image: int) -> tuple[Any, Any]:
    """Return activation and gradient [token, width] of layer3 for class 5: of every neuron, silent ones too."""
    encoder = warehouse.load_encoder(CNN)
    found = encoder.class_relevance(
        encoder.preprocess(warehouse.picture(image))[None], "layer3", torch.tensor([5]), "gradient"
    )
    return found.activations_btd[0].numpy(), found.gradients_btd[0].numpy()


def test_without_labels_each_image_is_asked_about_what_the_encoder_says(labelled: Any) -> None:
    rows, run = result(labelled, "last", attribute="predicted")
    encoder = labelled.load_encoder(CNN)
    batch = torch.stack([encoder.preprocess(labelled.picture(image)) for image in range(30)])
    said = encoder.forward_logits(batch).argmax(dim=1).tolist()
    counts = dict(rows.unique("class_name").select("class_name", "n_images").iter_rows())
    assert counts == {str(number): said.count(number) for number in set(said)}
    assert run.notes["n_images"] == 30


def test_a_label_of_numbers_is_no_class_by_chance(unlabelled: Any, tmp_path: Path) -> None:
    """The CNN numbers its classes; a rating from 1 to 7 is a number too."""
    warehouse = unlabelled
    label(warehouse, tmp_path, [(image, "stars", str(image % 7)) for image in range(30)])
    _, run = result(warehouse, "last", classes=(), images=1)
    assert run.parameters["attribute"] == "predicted"
    _, run = result(warehouse, "last", attribute="stars", images=1)
    assert run.notes["n_images"] == 7


def test_examples_by_relevance_are_the_images_where_a_feature_counts_most(labelled: Any) -> None:
    rows, _ = result(labelled, "last")
    labelled.import_embeddings("e", np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), list(range(30)))
    (report,) = labelled.plugins.analyze(
        labelled, "examples", ["last"], {"embedding": "e", "by": "relevance", "class_name": "7", "n": 2}
    )
    examples = labelled.result_rows(report.run).sort("feature_id", "rank")
    assert examples.height > 0
    for row in rows.filter(class_name="7").iter_rows(named=True):
        own = examples.filter(feature_id=row["feature_id"])
        assert own["image_id"].to_list() == row["image_ids"][:2]
    (every,) = labelled.plugins.analyze(labelled, "examples", ["last"], {"embedding": "e", "by": "relevance", "n": 3})
    feature = int(rows["feature_id"][0])
    pairs = [
        (value, image)
        for row in rows.filter(feature_id=feature).iter_rows(named=True)
        for value, image in zip(row["image_relevance"], row["image_ids"], strict=True)
    ]
    found = labelled.result_rows(every.run).filter(feature_id=feature).sort("rank")["image_id"].to_list()
    assert found == [image for _, image in sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:3]]


def test_what_cannot_be_asked_says_why(labelled: Any, tmp_path: Path) -> None:
    label(labelled, tmp_path, [(0, "mood", "sad")])
    for given, words in (
        ({"classes": ("cat",)}, "no class 'cat'"),
        ({"classes": ("3",)}, "No image of the space 'last' is of the class 3"),
        ({"attribute": "mood"}, "'mood' has sad; the classes are 0, 1"),
        ({"attribute": "none"}, "'none' is on no image"),
        ({"features": (1,)}, "--method ablation only"),
        ({"features": (96,), "method": "ablation"}, "no feature 96: they run from 0 to 95"),
    ):
        with pytest.raises(UsageError, match=words):
            result(labelled, "last", **given)
    labelled.import_features("mine", np.eye(30, 3, dtype=np.float32), list(range(30)))
    with pytest.raises(UsageError, match="was imported"):
        result(labelled, "mine")
    labelled.extract("toy:0", [("toy", "blocks.0.resid_post", "cls", "neurons")])
    with pytest.raises(UsageError, match="has no classifier"):
        result(labelled, "toy")


def test_the_best_images_do_not_depend_on_how_images_come_in_batches() -> None:
    rng = np.random.default_rng(0)
    total_if = rng.integers(-3, 4, (23, 5)).astype(float)
    zeros = np.zeros((23, 5))
    sums = ClassSums(5, 4)
    for start in range(0, 23, 6):
        part = slice(start, start + 6)
        ids = list(range(23))[part]
        sums.add(
            ids, ImageRelevance(total_if[part], np.maximum(total_if[part], 0), zeros[part], zeros[part], zeros[part])
        )
    from glasshouse.plugins.analyzers.relevance import Relevance, RelevanceParameters

    table = sums.table("c", RelevanceParameters(), Relevance.schema).to_pylist()
    for row in table:
        of = total_if[:, row["feature_id"]]
        assert row["image_ids"] == [i for i in sorted(range(23), key=lambda i: (-of[i], i)) if of[i] > 0][:4]
        assert row["relevance"] == pytest.approx(of.mean())
        assert row["x"] is None
    assert len(table) == np.count_nonzero(total_if.mean(axis=0))
    most = sums.table("c", RelevanceParameters(most=2), Relevance.schema)["feature_id"].to_pylist()
    assert sorted(most) == sorted(np.argsort(-np.abs(total_if.mean(axis=0)), kind="stable")[:2].tolist())
