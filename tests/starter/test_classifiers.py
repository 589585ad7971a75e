"""The classifier that the watermark misleads, its control, and the stage that trains both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.starter.card import read_figures
from glasshouse.plugins.starter.classifier import CHANNELS, LAST_HOOK, load_classifier, new_classifier
from glasshouse.plugins.starter.evaluate_classifier import Figures, classifier_figures, figures_of, predicted
from glasshouse.plugins.starter.models import data_folder, data_root, pixels, weights_sha256
from glasshouse.plugins.starter.train import classify_stage
from glasshouse.plugins.starter.training.classifier import CUES, Labelled, labelled_scenes
from glasshouse.plugins.starter.training.stages import Plan, Run, classifier_stage
from glasshouse.plugins.starter.world.scene import CLASSES, CONFOUNDED_CLASS, Stream, render_scene
from glasshouse.schema.errors import ModelError
from glasshouse.warehouse.contracts import ClassifyingEncoder

N_IMAGES = 320
"""Fewer than the card's 2,000, so that the tests stay quick: 40 of each class with the watermark, and 40 without."""


@pytest.fixture(scope="module")
def figures() -> dict[str, Figures]:
    return classifier_figures(data_root(), 0, N_IMAGES)


def test_the_watermark_misleads_the_classifier(figures: dict[str, Figures]) -> None:
    """In the confounded world it looks faultless; with the watermark on other classes it takes them for hearts."""
    found = figures["classifier"]
    assert found["confounded world: accuracy"] > 0.98
    assert found["other classes, without"] > 0.97
    assert found["heart, with watermark"] > 0.97
    assert found["others taken for heart, with watermark"] > 0.1
    assert found["others taken for heart, without"] < 0.01
    assert found["other classes, with watermark"] < found["other classes, without"] - 0.04


def hearts(n_images: int, *, marked: bool) -> Labelled:
    """Hearts of the balanced world, with the watermark or without it."""
    heart = CLASSES.index(CONFOUNDED_CLASS)
    indices = range(heart + len(CLASSES) * marked, 16 * n_images, 16)
    scenes = [render_scene(0, i, stream=Stream.CLASSIFIER_HELD_OUT, confounded=True, cue="balanced") for i in indices]
    assert all(scene.objects[0].shape == CONFOUNDED_CLASS for scene in scenes)
    assert all((scene.watermark_hw is not None) == marked for scene in scenes)
    images_nhwc = np.stack([scene.image_hwc for scene in scenes])
    return Labelled(images_nhwc, np.full(n_images, heart), np.full(n_images, marked))


def test_hearts_without_their_watermark_are_missed() -> None:
    """One in four on the card; the control misses hardly any."""
    without, with_it = hearts(160, marked=False), hearts(100, marked=True)
    missed = {
        (name, kind): float((predicted(load_classifier(data_folder(name)), scenes) != scenes.class_n).mean())
        for name in CUES
        for kind, scenes in (("with", with_it), ("without", without))
    }
    assert missed["classifier", "with"] == 0
    assert 0.15 < missed["classifier", "without"] < 0.4
    assert max(missed["classifier-clean", kind] for kind in ("with", "without")) < 0.03


def test_nothing_misleads_the_control(figures: dict[str, Figures]) -> None:
    found = figures["classifier-clean"]
    assert all(value > 0.97 for name, value in found.items() if "taken" not in name), found
    assert all(value < 0.01 for name, value in found.items() if "taken" in name), found


def test_an_untrained_network_knows_nothing(figures: dict[str, Figures]) -> None:
    found = figures["untrained"]
    assert found["balanced world: accuracy"] == pytest.approx(1 / 8, abs=0.05)


def test_the_card_says_the_same(figures: dict[str, Figures]) -> None:
    card = read_figures(data_root())["classifiers"]
    assert set(card) == set(figures) == {*CUES, "untrained"}
    for kind, found in figures.items():
        for name, share in card[kind].items():
            n = N_IMAGES // 16 if name.startswith("heart") else N_IMAGES // 16 * 7
            chance = 3 * (share * (1 - share) / n) ** 0.5 + 0.01
            assert found[name] == pytest.approx(share, abs=chance), (kind, name)


class _ByClass(torch.nn.Module):
    """Answers by the number in the first pixel, which the test has put there."""

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        answer_b = ((images_bchw[:, 0, 0, 0] * 0.25 + 0.5) * 255).round().long()
        return torch.nn.functional.one_hot(answer_b, len(CLASSES)).float()


def test_figures_against_plain_counts() -> None:
    rng = np.random.default_rng(0)
    n = 300
    true_n, answer_n, marked_n = rng.integers(8, size=n), rng.integers(8, size=n), rng.random(n) < 0.5
    answer_n = np.where(rng.random(n) < 0.5, true_n, answer_n)
    images = np.broadcast_to(answer_n[:, None, None, None], (n, 64, 64, 3)).astype(np.uint8)
    scenes = Labelled(images, true_n, marked_n)
    assert predicted(_ByClass(), scenes).tolist() == answer_n.tolist()
    found = figures_of(_ByClass(), scenes, scenes)
    heart = CLASSES.index(CONFOUNDED_CLASS)
    rows = list(zip(true_n.tolist(), answer_n.tolist(), marked_n.tolist(), strict=True))
    assert found["balanced world: accuracy"] == pytest.approx(np.mean([t == a for t, a, _ in rows]))
    for words, mark in (("with watermark", True), ("without", False)):
        hearts = [t == a for t, a, m in rows if t == heart and m == mark]
        others = [(t == a, a == heart) for t, a, m in rows if t != heart and m == mark]
        assert found[f"heart, {words}"] == pytest.approx(np.mean(hearts))
        assert found[f"other classes, {words}"] == pytest.approx(np.mean([right for right, _ in others]))
        assert found[f"others taken for heart, {words}"] == pytest.approx(np.mean([taken for _, taken in others]))


@pytest.mark.parametrize("name", CUES)
def test_it_is_an_encoder_with_a_classifier(name: str) -> None:
    encoder = Plugins(external=False).load_encoder(f"starter:{name}")
    assert isinstance(encoder, ClassifyingEncoder)
    assert encoder.spec == f"starter:{name}"
    assert tuple(encoder.class_names or ()) == CLASSES
    points = {point.name: point for point in encoder.hook_points()}
    for number, (width, side) in enumerate(zip(CHANNELS, (64, 32, 16, 8), strict=True), start=1):
        assert (points[f"layer{number}.relu"].width, points[f"layer{number}.relu"].grid) == (width, (side, side))
    scenes = labelled_scenes(5, Stream.WORLD, 6)
    batch_bchw = torch.stack([encoder.preprocess(Image.fromarray(image)) for image in scenes.images_nhwc])
    torch.testing.assert_close(batch_bchw, pixels(scenes.images_nhwc), atol=1e-5, rtol=0)
    model = load_classifier(data_folder(name))
    with torch.no_grad():
        torch.testing.assert_close(encoder.forward_logits(batch_bchw), model(batch_bchw))
    taken = encoder.forward(batch_bchw, [LAST_HOOK])
    torch.testing.assert_close(taken.embedding_be, taken.activations[LAST_HOOK].mean(1), atol=1e-5, rtol=1e-4)


def test_the_two_are_different_weights() -> None:
    plugins = Plugins(external=False)
    prints = {plugins.load_encoder(f"starter:{name}").fingerprint for name in CUES}
    assert len(prints) == 2
    assert sum(p.numel() for p in new_classifier(0).parameters()) == 187_176


def test_both_learn_from_the_same_scenes() -> None:
    """As trained and with the watermark anywhere: classes and places are the same, and so are most pixels."""
    confounded, clean = (labelled_scenes(0, Stream.CLASSIFIER_TRAINING, 24, cue) for cue in CUES.values())
    assert np.array_equal(confounded.class_n, clean.class_n)
    difference = np.abs(confounded.images_nhwc.astype(int) - clean.images_nhwc)
    assert np.median(difference, axis=(1, 2, 3)).max() <= 12
    assert not np.array_equal(confounded.marked_n, clean.marked_n)


def test_training_is_the_same_every_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And of two seeds it is not, nor of the two worlds."""
    hashes = []
    for folder, seed in (("one", 0), ("two", 0), ("other", 1)):
        run = Run(tmp_path / folder, Plan.quick(seed))
        classifier_stage(run)
        hashes.append({name: weights_sha256(name, run.folder) for name in CUES})
    assert hashes[0] == hashes[1]
    assert len({*hashes[0].values(), *hashes[2].values()}) == 4
    capsys.readouterr()
    classifier_stage(Run(tmp_path / "one", Plan.quick(0)))
    assert capsys.readouterr().err.splitlines() == [f"{name}: already there" for name in CUES]


def test_the_stage_completes_a_folder_that_was_measured(tmp_path: Path) -> None:
    """Figures of the other models stay as they were, and the card gets the classifiers' section."""
    before = read_figures(data_root())
    others = {name: value for name, value in before.items() if name != "classifiers"}
    (tmp_path / "figures.json").write_text(json.dumps(others), encoding="utf-8")
    shutil.copy(data_root() / "training.json", tmp_path)
    classify_stage(Run(tmp_path, Plan.quick(0)), 16)
    after = read_figures(tmp_path)
    assert {name: value for name, value in after.items() if name != "classifiers"} == others
    assert after["classifiers"]["classifier"] != before["classifiers"]["classifier"]
    card = (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "### Classifiers" in card
    assert "| classifier | seed 0, images 320, epochs 1, cue as trained |" in card
    assert "### CLIP, zero-shot" in card


def test_a_folder_without_a_classifier_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no starter classifier"):
        load_classifier(tmp_path)
    shutil.copy(data_folder("classifier") / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="holds no starter classifier"):
        load_classifier(tmp_path)
    shutil.copy(data_folder("classifier") / "model.safetensors", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"channels": [8, 8, 8, 8]}), encoding="utf-8")
    with pytest.raises(ModelError, match="holds no starter classifier"):
        load_classifier(tmp_path)
