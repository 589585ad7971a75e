"""Switching components off: against edits written by hand, in the encoder, in a user's own model, in its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit.labels import label

from glasshouse.plugins.analyzers.relevance_classes import classifier_of
from glasshouse.plugins.analyzers.relevance_methods import place_of
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.pruning.hook import Pruning, changed_codes, read_pruning
from glasshouse.plugins.pruning.prune import mean_activations, parse_cue, prune
from glasshouse.plugins.pruning.weights import pruned_state_dict
from glasshouse.plugins.view import AnalysisView
from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.contracts import SparseCodes

CNN = "timm:test_resnet/random:0"
NAMES = ("5", "7", "900")


@pytest.fixture
def classified(warehouse: Any, tmp_path: Path) -> Any:
    """Return thirty pictures of three classes, a cue on every other one, in a space of pooled channels."""
    warehouse.extract(CNN, [("last", "layer4", "max", "neurons")])
    label(warehouse, tmp_path, [(image, "kind", NAMES[image % 3]) for image in range(30)])
    label(warehouse, tmp_path, [(image, "mark", "yes" if image % 2 else "no") for image in range(30)])
    label(warehouse, tmp_path, [(image, "split", "train" if image < 12 else "test") for image in range(30)])
    return warehouse


def pruning(hook: str, components: dict[int, float], module: str | None = None, **given: Any) -> Pruning:
    values: dict[str, Any] = {
        "encoder": CNN, "fingerprint": "", "hook": hook, "module": module or hook, "side": "output", "layout": "nchw",
        "first": 0, "only_first": False, "sae": "neurons", "to": "mean",
        "components": tuple(components), "values": tuple(components.values()), **given,
    }  # fmt: skip
    return Pruning(**values)


def noise(encoder: Any, n: int = 3) -> torch.Tensor:
    return torch.randn(n, 3, *encoder.transform.output_size, generator=torch.Generator().manual_seed(5))


def test_channels_become_constants_everywhere() -> None:
    encoder = Plugins(external=False).load_encoder(CNN)
    batch = noise(encoder)
    found = encoder.forward_logits(batch, "layer3", pruning("layer3", {3: 0.5, 60: 0.0}).edit())
    model = encoder.tower.model

    def by_hand(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        changed[:, 3], changed[:, 60] = 0.5, 0.0
        return changed

    handle = model.layer3.register_forward_hook(by_hand)
    with torch.inference_mode():
        expected = model(batch)
    handle.remove()
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, encoder.forward_logits(batch), atol=1e-4)


def test_written_as_json_and_attached_to_a_users_model_it_does_the_same(tmp_path: Path) -> None:
    import timm

    encoder = Plugins(external=False).load_encoder(CNN)
    batch, chosen = noise(encoder), pruning("layer2", {1: 0.25, 7: 1.5})
    chosen.write(tmp_path / "pruned.json")
    own = timm.create_model("test_resnet", pretrained=False)
    own.load_state_dict(encoder.tower.model.state_dict())
    own.eval()
    before = own(batch)
    read = read_pruning(tmp_path / "pruned.json")
    assert read == chosen
    handle = read.attach(own)
    torch.testing.assert_close(own(batch), encoder.forward_logits(batch, "layer2", chosen.edit()))
    handle.remove()
    torch.testing.assert_close(own(batch), before)
    with pytest.raises(UsageError, match="has no module 'layer2'"):
        read.attach(torch.nn.Linear(2, 2))


def test_what_is_no_pruning_says_so(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"format": 1}', encoding="utf-8")
    for name in ("other.json", "missing.json"):
        with pytest.raises(ModelError, match=r"is no pruning|cannot be read"):
            read_pruning(tmp_path / name)
    (tmp_path / "newer.json").write_text('{"format": 2}', encoding="utf-8")
    with pytest.raises(ModelError, match="newer format"):
        read_pruning(tmp_path / "newer.json")


class Plain(torch.nn.Module):
    """Convolution, normalisation and ReLU, mean, and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.relu = torch.nn.ReLU()
        self.head = torch.nn.Linear(8, 4)

    def forward(self, images_bchw: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.relu(self.norm(self.conv(images_bchw))).mean(dim=(2, 3)))
        return logits


def plain_encoder() -> Any:
    from glasshouse.plugins.encoders.hooked import HookedEncoder, Tower
    from glasshouse.plugins.encoders.preprocessing import ImageTransform
    from glasshouse.plugins.encoders.taps import map_taps

    torch.manual_seed(0)
    model = Plain().eval()
    for tensor in (model.norm.running_mean, model.norm.running_var, model.norm.weight, model.norm.bias):
        assert tensor is not None
        tensor.data.uniform_(0.2, 1.0)
    transform = ImageTransform(
        resize="squash", resize_to=(8, 8), interpolation="bilinear", crop_to=None, mean=(0.5,) * 3, std=(0.25,) * 3
    )
    pooled = lambda batch: model.relu(model.norm(model.conv(batch))).mean(dim=(2, 3))  # noqa: E731
    tower = Tower(model, map_taps(model, (8, 8), "nchw"), pooled, transform, {}, classify=model)
    return HookedEncoder("plain", tower, "cpu")


@pytest.mark.parametrize(("hook", "value"), [("relu", 0.7), ("relu", 0.0), ("norm", -0.4), ("norm", 0.9)])
def test_weights_hold_the_constants_exactly(hook: str, value: float) -> None:
    encoder = plain_encoder()
    before = {name: tensor.clone() for name, tensor in encoder.tower.model.state_dict().items()}
    chosen = pruning(hook, {2: value, 5: 0.1})
    tensors = pruned_state_dict(encoder, chosen)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.tower.model.state_dict().items())
    fresh = Plain().eval()
    fresh.load_state_dict(tensors)
    batch = noise(encoder)
    torch.testing.assert_close(fresh(batch), encoder.forward_logits(batch, hook, chosen.edit()))


def test_what_no_layer_can_hold_is_refused_and_leaves_the_model_as_it_was() -> None:
    """A negative value behind a ReLU; and the sum of a residual block, which two layers make together."""
    encoder = plain_encoder()
    with pytest.raises(UsageError, match="No layer of plain can hold"):
        pruned_state_dict(encoder, pruning("relu", {2: -0.5}))
    resnet = Plugins(external=False).load_encoder(CNN)
    resnet.tower.model.layer3[0].bn3.weight.data.fill_(1.0)  # fresh ones are 0: the shortcut is all that counts
    fingerprint = resnet.fingerprint
    with pytest.raises(UsageError, match="No layer of"):
        pruned_state_dict(resnet, pruning("layer3", {2: 0.5}))
    del resnet.__dict__["fingerprint"]
    assert resnet.fingerprint == fingerprint


def test_neurons_that_a_linear_layer_reads_go_into_its_bias() -> None:
    encoder = Plugins(external=False).load_encoder("timm:test_vit/random:0")
    tap = encoder.tower.taps["blocks.1.mlp"]
    path = next(name for name, module in encoder.tower.model.named_modules() if module is tap.module)
    chosen = pruning("blocks.1.mlp", {0: 0.5, 9: -0.1}, module=path, side="input", layout="tokens")
    tensors = pruned_state_dict(encoder, chosen)
    batch = noise(encoder)
    expected = encoder.forward_logits(batch, "blocks.1.mlp", chosen.edit())
    encoder.tower.model.load_state_dict(tensors)
    torch.testing.assert_close(encoder.forward_logits(batch), expected, rtol=1e-4, atol=1e-5)


ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.sampled_from([0.25, 1.0, 3.0])), max_size=20)


@given(ROWS, st.dictionaries(st.integers(0, 6), st.sampled_from([0.0, 0.5, 2.0]), min_size=1, max_size=4))
def test_codes_with_constants_are_those_of_a_dense_table(rows: list[Any], constants: dict[int, float]) -> None:
    dense = np.zeros((5, 7), dtype=np.float32)
    for row, feature, value in rows:
        dense[row, feature] = value
    row, feature = np.nonzero(dense)
    codes = SparseCodes(
        *(torch.from_numpy(p) for p in (row.astype(np.int32), feature.astype(np.int32), dense[row, feature]))
    )
    found = changed_codes(codes, 5, list(constants), list(constants.values()))
    for component, value in constants.items():
        dense[:, component] = value
    rebuilt = np.zeros_like(dense)
    rebuilt[found.row.numpy(), found.feature.numpy()] = found.value.numpy()
    assert np.array_equal(rebuilt, dense)
    assert (found.value > 0).all()
    keys = found.row.numpy().astype(int) * 7 + found.feature.numpy()
    assert np.all(np.diff(keys) > 0)


def test_means_and_accuracies_are_those_of_a_loop(classified: Any) -> None:
    """Means from the training images, over all places; accuracy on the others, by class and cue, image by image."""
    view = AnalysisView(classified, "last")
    model = classifier_of(view)
    encoder: Any = model.encoder
    place = place_of(view, model)
    maps = [
        encoder.forward(encoder.preprocess(classified.picture(image))[None], ["layer4"]).activations["layer4"][0]
        for image in range(12)
    ]
    mean_f = mean_activations(view, model, place, np.arange(12))
    np.testing.assert_allclose(mean_f, torch.cat(maps).mean(dim=0).numpy(), rtol=1e-4, atol=1e-6)
    cue = parse_cue("mark=yes")
    report = prune(
        view, model, [4, 0, 4], to="mean", attribute="kind", class_name="7", cue=cue, seed=0
    )  # fmt: skip
    assert report.pruning.components == (0, 4)
    assert report.pruning.values == pytest.approx((mean_f[0], mean_f[4]), rel=1e-6)
    assert report.n_reference == 12
    edits = {"as_is": None, "pruned": report.pruning.edit()}
    right: dict[str, dict[int, bool]] = {}
    for name, edit in edits.items():
        right[name] = {}
        for image in range(12, 30):
            tensor = encoder.preprocess(classified.picture(image))[None]
            logits = encoder.forward_logits(tensor, None if edit is None else "layer4", edit)
            right[name][image] = str(int(logits.argmax())) == NAMES[image % 3]
    groups = {
        "7": lambda image: image % 3 == 1,
        "other classes": lambda image: image % 3 != 1,
        "all classes": lambda image: True,
        "5": lambda image: image % 3 == 0,
        "900": lambda image: image % 3 == 2,
    }
    assert [row.name for row in report.rows[::3]] == list(groups)
    for row in report.rows:
        kept = [i for i in range(12, 30) if groups[row.name](i) and (row.cue is None or row.cue == bool(i % 2))]
        assert row.n == len(kept)
        for name in edits:
            assert getattr(row, name) == pytest.approx(np.mean([right[name][image] for image in kept]))


def test_without_as_many_others_nothing_stands_beside_as_random(classified: Any) -> None:
    view = AnalysisView(classified, "last")
    given = {"to": "mean", "attribute": "kind", "class_name": None, "cue": None, "seed": 0}
    assert all(row.random is None for row in prune(view, classifier_of(view), range(50), **given).rows)  # type: ignore[arg-type]
    assert all(row.random is not None for row in prune(view, classifier_of(view), range(48), **given).rows)  # type: ignore[arg-type]


def test_labels_that_are_no_class_are_counted(classified: Any, tmp_path: Path) -> None:
    label(classified, tmp_path, [(image, "half", "7" if image % 2 else "zebra") for image in range(20)])
    view = AnalysisView(classified, "last")
    report = prune(
        view, classifier_of(view), [1], to="mean", attribute="half", class_name=None, cue=None, seed=0
    )  # fmt: skip
    assert report.no_class == {"zebra": 10}
    (relevance,) = classified.plugins.analyze(classified, "relevance", ["last"], {"attribute": "half"})
    assert relevance.run.notes["no_class"] == {"zebra": 10}
    assert "left out, since their label is no class: zebra (10)" in relevance.run.notes["summary"]


def test_another_model_is_not_pruned_by_chance() -> None:
    chosen = pruning("conv", {90: 0.5})
    model = Plain().eval()
    chosen.attach(model)
    with pytest.raises(UsageError, match="'conv' of this model has 8: it is another model"):
        model(torch.zeros(1, 3, 8, 8))


def test_the_command_says_what_it_took_and_refuses_what_is_stale(
    classified: Any, glasshouse: Any, tmp_path: Path
) -> None:
    classified.import_embeddings("e", np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), list(range(30)))
    classified.close()
    words = ["prune", "--space", "last", "-w", str(classified.root)]
    same = glasshouse(*words, "--features", "5", "--state-dict", "same.pt", "--hook", "same.pt")
    assert same.returncode == 2 and "are two files" in same.stderr
    kept = glasshouse(
        *words, "--features", "5", "--attribute", "kind", "--hook", "h.json", "--state-dict", "w.safetensors"
    )
    assert "1 component of layer4 set to its mean over 12 images: 5" in kept.stdout
    assert read_pruning(tmp_path / "h.json").components == (5,)
    assert kept.returncode == 0 or "No layer of" in kept.stderr, "the table is there even where no layer can hold it"
    both = glasshouse(*words)
    assert both.returncode == 2 and "one of the two" in both.stderr
    none = glasshouse(*words, "--flagged", "--class", "7")
    assert none.returncode == 2 and "There is no audit of '7'" in none.stderr


def test_what_the_cue_costs_and_what_is_given_back() -> None:
    from glasshouse.plugins.pruning.prune import PruneReport, Row

    def report(with_cue: float, without: float, pruned: float) -> PruneReport:
        rows = [
            Row("c", None, 2, 0.5, 0.5, None, None),
            Row("c", True, 1, with_cue, 0.1, None, None),
            Row("c", False, 1, without, pruned, None, None),
            Row("other classes", False, 1, 0.0, 1.0, None, None),
        ]
        return PruneReport(pruning("h", {0: 0.0}), rows, "zero", {}, 1, "", 0)

    assert report(0.9, 0.5, 0.7).given_back() == pytest.approx(0.5)
    assert report(0.9, 0.5, 0.4).given_back() == pytest.approx(-0.25)
    assert report(0.5, 0.5, 0.7).given_back() is None


def test_what_cannot_be_pruned_says_why(classified: Any) -> None:
    view = AnalysisView(classified, "last")
    model = classifier_of(view)
    for given_, words in (
        ({"components": []}, "nothing to switch off"),
        ({"components": [96]}, "no feature 96: they run from 0 to 95"),
        ({"attribute": "mark"}, "0 with a class by the label 'mark'"),
        ({"attribute": "predicted"}, "Accuracy needs the true classes"),
        (
            {"cue": parse_cue("mark=perhaps")},
            "No image has the label 'mark' with the value 'perhaps'. Its values: no, yes",
        ),
        ({"cue": parse_cue("marc=yes")}, "no label 'marc'"),
        ({"class_name": "cat"}, "no class 'cat'"),
    ):
        values: dict[str, Any] = {
            "components": [1], "to": "mean", "attribute": "kind", "class_name": None, "cue": None, "seed": 0, **given_,
        }  # fmt: skip
        with pytest.raises(UsageError, match=words):
            prune(view, model, values.pop("components"), **values)
    with pytest.raises(UsageError, match="ATTRIBUTE=VALUE"):
        parse_cue("watermark")
