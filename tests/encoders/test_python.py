"""Models of the user's own: what is run, what is read, and when nothing is run."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from glasshouse.plugins.encoders import python
from glasshouse.plugins.encoders.user_taps import fitting_grid, token_places
from glasshouse.plugins.manager import Plugins
from glasshouse.schema.errors import GlasshouseError, ModelError
from glasshouse.warehouse.warehouse import Warehouse

CNN = '''
import torch
from torch import nn


class Net(nn.Module):
    """Two convolutions and a head."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, 2), nn.Conv2d(6, 8, 3)
        self.head = nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 3))

    def forward(self, images):
        return self.head(torch.relu(self.conv2(torch.relu(self.conv1(images)))).mean((2, 3)))


def build():
    torch.manual_seed(0)
    return Net()
'''
VIT = """
import torch
from torch import nn

from glasshouse.plugins.encoders.python import UserModel


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(12), nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))

    def forward(self, tokens):
        return tokens + self.mlp(self.norm(tokens)) + tokens.mean(1, keepdim=True)


class Vit(nn.Module):
    def __init__(self, n_extra):
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 8, 8)
        self.extra = nn.Parameter(torch.randn(1, n_extra, 12))
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(12, 4)

    def forward(self, images):
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.extra.expand(len(images), -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, 0])


def one():
    torch.manual_seed(1)
    return UserModel(Vit(1), image_size=(32, 48), class_names=["cat", "dog", "cow", "hen"], mean=(0.5, 0.5, 0.5))


def three():
    torch.manual_seed(1)
    return UserModel(Vit(3), image_size=32)


def three_said():
    torch.manual_seed(1)
    return UserModel(Vit(3), image_size=32, n_prefix=3)
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="model.py"):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


def images(height=32, width=32, n=2):
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_a_bare_module_is_a_classifier_of_224_pixels(write):
    file = write(CNN)
    encoder = Plugins(external=False).load_encoder(f"python:{file}:build")
    assert encoder.spec == f"python:{file.resolve()}:build"
    assert encoder.transform.output_size == (224, 224) and encoder.transform.resize_to == (256, 256)
    assert list(encoder.class_names) == ["0", "1", "2"]
    assert [point.name for point in encoder.hook_points()] == ["conv1", "conv2"]
    model, batch_bchw = runpy.run_path(str(file))["build"]().eval(), images(224, 224)
    with torch.no_grad():
        maps = torch.relu(model.conv2(torch.relu(model.conv1(batch_bchw))))
        hidden = torch.relu(model.head[0](maps.mean((2, 3))))
        torch.testing.assert_close(encoder.forward(batch_bchw, []).embedding_be, hidden)
        torch.testing.assert_close(encoder.forward_logits(batch_bchw), model(batch_bchw))
    found = encoder.class_relevance(batch_bchw, "conv2", torch.tensor([0, 2]), "crp")
    assert found.relevance_btd.shape == (2, 109 * 109, 8) and found.relevance_btd.abs().max() > 0
    assert encoder.component_maps(batch_bchw, "conv2", torch.tensor([1, 7])).shape == (2, 224, 224)


def test_the_example_of_the_docs_runs_as_written(write):
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    block = text.split("complete example, `model.py`:\n", 1)[1].split("\nand what is typed:\n", 1)[0]
    encoder = python.load(f"{write(textwrap.dedent(block))}:build", "cpu")
    assert list(encoder.class_names) == ["benign", "malignant"] and encoder.transform.output_size == (64, 64)
    assert "--hook features.5 " in text.split("and what is typed:", 1)[1]
    found = encoder.class_relevance(images(64, 64), "features.5", torch.tensor([0, 1]), "crp")
    assert found.relevance_btd.abs().max() > 0


def test_tokens_names_and_preprocessing_of_a_transformer(write):
    encoder = python.load(f"{write(VIT)}:one", "cpu")
    assert list(encoder.class_names) == ["cat", "dog", "cow", "hen"]
    assert encoder.transform.output_size == (32, 48) and encoder.transform.mean == (0.5, 0.5, 0.5)
    points = {point.name: point for point in encoder.hook_points()}
    assert (points["blocks.0"].n_prefix, points["blocks.0"].grid, points["blocks.0"].width) == (1, (4, 6), 12)
    assert points["blocks.1.mlp.1"].width == 24 and points["patch"].grid == (4, 6)
    batch_bchw, model = images(32, 48), encoder.tower.model
    taken = encoder.forward(batch_bchw, ["blocks.0", "blocks.1.mlp.1"])
    with torch.no_grad():
        tokens_btd = model.patch(batch_bchw).flatten(2).transpose(1, 2)
        tokens_btd = model.blocks[0](torch.cat([model.extra.expand(2, -1, -1), tokens_btd], 1))
        torch.testing.assert_close(taken.activations["blocks.0"], tokens_btd)
        torch.testing.assert_close(taken.embedding_be, model.blocks[1](tokens_btd)[:, 0])
    relevance_btd = encoder.class_relevance(batch_bchw, "blocks.1", torch.tensor([3, 0]), "gradient").relevance_btd
    with torch.no_grad():
        expected = model.blocks[1](tokens_btd)[:, 0] * model.head.weight[[3, 0]]
    torch.testing.assert_close(relevance_btd[:, 0], expected)
    assert not relevance_btd[:, 1:].any(), "only the first token reaches the head"


def test_tokens_before_the_patches_are_guessed_only_where_that_is_certain(write):
    file = write(VIT)
    places = {}
    for function in ("three", "three_said"):
        point = next(p for p in python.load(f"{file}:{function}", "cpu").hook_points() if p.name == "blocks.0")
        places[function] = (point.n_prefix, point.grid)
    assert places == {"three": (0, None), "three_said": (3, (4, 4))}


@pytest.mark.parametrize(
    ("n_tokens", "patches", "n_prefix", "grid", "expected"),
    [
        (16, [], None, None, (0, (4, 4))),
        (17, [], None, None, (0, None)),
        (17, [(4, 4)], None, None, (1, (4, 4))),
        (16, [(4, 4)], None, None, (0, (4, 4))),
        (18, [(4, 4)], None, None, (0, None)),
        (4, [(4, 4)], None, None, (0, (2, 2))),
        (18, [], 2, None, (2, (4, 4))),
        (13, [], 1, (3, 4), (1, (3, 4))),
        (13, [], None, (3, 4), (1, (3, 4))),
    ],
)
def test_places_of_tokens(n_tokens, patches, n_prefix, grid, expected):
    assert token_places(n_tokens, (32, 32), patches, n_prefix, grid) == expected


def test_a_grid_has_the_proportions_of_the_image():
    assert fitting_grid(8, (32, 64)) == (2, 4)
    assert fitting_grid(8, (64, 32)) == (4, 2)
    assert fitting_grid(8, (32, 32)) is None
    assert fitting_grid(0, (32, 32)) is None


def test_the_fingerprint_sees_weights_structure_and_source(write):
    file, seen = write(CNN), set()
    seen.add(python.load(f"{file}:build", "cpu").fingerprint)
    assert {python.load(f"{file}:build", "cpu").fingerprint} == seen, "the same again"
    program = f"from glasshouse.plugins.encoders import python\nprint(python.load('{file}:build', 'cpu').fingerprint)"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {other.stdout.strip()} == seen, "in another process too"
    for change in (
        ("manual_seed(0)", "manual_seed(1)"),
        ("torch.relu(self.conv2", "torch.sigmoid(self.conv2"),  # the weights do not say it
        ("nn.ReLU()", "nn.GELU()"),
    ):
        write(CNN.replace(*change))
        seen.add(python.load(f"{file}:build", "cpu").fingerprint)
    assert len(seen) == 4


def test_the_source_of_this_moment_is_run(write, tmp_path):
    """Two versions of one length within a second: byte code could not tell them apart."""
    file = write(CNN)
    before = python.load(f"{file}:build", "cpu").tower.model.conv1.weight
    write(CNN.replace("manual_seed(0)", "manual_seed(1)"))
    assert not torch.equal(python.load(f"{file}:build", "cpu").tower.model.conv1.weight, before)
    assert not (tmp_path / "__pycache__").exists()


def test_modules_beside_the_file_can_be_imported(write, tmp_path):
    write(CNN, "beside_the_model.py")
    file = write("from beside_the_model import build\n", "main.py")
    before = list(sys.path)
    assert len(python.load(f"{file}:build", "cpu").class_names) == 3
    assert sys.path == before
    sys.modules.pop("beside_the_model")


def test_the_callers_images_stay_as_they_are(write):
    file = write(CNN.replace("        return self.head(", "        images -= 0.5\n        return self.head("))
    encoder, batch_bchw = python.load(f"{file}:build", "cpu"), images(224, 224)
    logits_bc = encoder.forward_logits(batch_bchw)
    assert torch.equal(batch_bchw, images(224, 224))
    for method in ("gradient", "crp"):
        found = encoder.class_relevance(batch_bchw, "conv1", torch.tensor([0, 1]), method)
        torch.testing.assert_close(found.logits_bc, logits_bc)


FORMS = """
import torch
from torch import nn
from glasshouse.plugins.encoders.python import UserModel

conv = nn.Conv2d(3, 4, 3)
net = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Answer:
    def __init__(self, logits):
        self.logits = logits


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.head = net, nn.Linear(4, 2)

    def forward(self, images):
        return Answer(self.head(self.net(images)))


def features():
    return UserModel(net, image_size=16, resize=16, classifies=False)

def own_embed():
    return UserModel(Wrapped(), image_size=16, embed=lambda images: net(images)[:, :2])

def answer():
    return UserModel(Wrapped(), image_size=16)
"""


def test_other_forms_of_output(write):
    file, batch_bchw = write(FORMS), images(16, 16)
    features, own, answer = (python.load(f"{file}:{name}", "cpu") for name in ("features", "own_embed", "answer"))
    assert features.class_names is None and features.embedding_width == 4
    assert features.transform.resize_to == (16, 16)
    with pytest.raises(GlasshouseError, match="has no classifier"):
        features.forward_logits(batch_bchw)
    assert own.embedding_width == 2 and list(own.class_names) == ["0", "1"]
    assert answer.embedding_width == 4 and answer.forward_logits(batch_bchw).shape == (2, 2)


BROKEN = """
import torch
from torch import nn
from glasshouse.plugins.encoders.python import UserModel


def raises():
    values = [1]
    return values[3]

def nothing():
    pass

def weightless():
    return nn.ReLU()

def narrow():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())

def leaves():
    raise SystemExit("bye")

def square():
    return nn.Conv2d(3, 4, 3)

def wanted():
    return UserModel(nn.Conv2d(3, 4, 3), classifies=True)

def sizes():
    return UserModel(nn.Conv2d(3, 4, 3), image_size="big")

def filters():
    return UserModel(nn.Conv2d(3, 4, 3), interpolation="fuzzy")

def small():
    return UserModel(nn.Conv2d(3, 4, 3), image_size=32, resize=16)

def names():
    return UserModel(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), image_size=4, class_names=["a"])

def embeds():
    return UserModel(nn.Conv2d(3, 4, 3), embed=lambda images: images)

value = 3
"""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("raises", ["failed in {file}, line 9: IndexError: list index out of range."]),
        ("nothing", ["gave nothing, no torch module. FUNCTION takes nothing and returns a torch.nn.Module"]),
        ("weightless", ["without any weights"]),
        ("narrow", ["failed in ", "RuntimeError: ", "channels"]),
        ("leaves", ["failed in {file}, line 21: SystemExit: bye."]),
        ("wanted", ["classifies=True, but the module gives [2, 4, 222, 222]"]),
        ("sizes", ["image_size is a whole number or two"]),
        ("filters", ["there is no filter 'fuzzy'", "bicubic"]),
        ("small", ["resize is the shorter side", "32 or more, not 16"]),
        ("names", ["has 3 classes and 1 names for them"]),
        ("embeds", ["embed gives [2, 3, 224, 224]; embeddings are [batch, E]"]),
        ("value", ["{file} has no function 'value'. Its functions: raises, nothing"]),
        ("absent", ["{file} has no function 'absent'. Its functions: raises, nothing"]),
        ("no-name", ["names no file and function. A spec reads python:FILE:FUNCTION"]),
    ],
)
def test_errors_are_one_line_with_the_place(write, function, words):
    file = write(BROKEN)
    with pytest.raises(ModelError) as caught:
        encoder = Plugins(external=False).load_encoder(f"python:{file}:{function}")
        encoder.hook_points()
        assert encoder.class_names
    said = str(caught.value)
    for word in words:
        assert word.format(file=file.resolve()) in said
    assert "\n" not in said


def test_files_that_are_none(write, tmp_path):
    for name, words in (
        (f"{tmp_path / 'none.py'}:build", "There is no file"),
        (f"{write('def build(:', 'syntax.py')}:build", "syntax.py, line 1: SyntaxError: "),
        (f"{write('import nothing_of_this_name', 'imports.py')}:build", "line 1: ModuleNotFoundError: "),
        (f"{write('x', 'notes.txt')}:build", "is no Python file"),
        ("build", "names no file and function"),
    ):
        with pytest.raises(ModelError) as caught:
            python.load(name, "cpu")
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_error_in_a_later_pass_is_one_line_too(write):
    file = write(CNN.replace("return self.head(", "assert images.min() > -9, 'too dark'\n        return self.head("))
    encoder = python.load(f"{file}:build", "cpu")
    with pytest.raises(ModelError, match=r"model\.py, line 15: AssertionError: too dark\.$"):
        encoder.forward_logits(torch.full((1, 3, 224, 224), -10.0))


@pytest.fixture
def marked(write, tmp_path):
    """A model file that leaves a mark when it is run."""
    mark = tmp_path / "mark"
    text = (
        f"with open({str(mark)!r}, 'a') as file:\n    file.write('run ')\n"
        + CNN
        + "\ndef tell():\n    return build()\n"
    )
    return write(text), mark


def test_stored_specs_run_nothing_without_consent(marked, tmp_path, monkeypatch):
    """As if somebody had sent the warehouse: its catalogue names a file."""
    file, mark = marked
    spec = f"python:{file}:build"
    monkeypatch.delenv(python.CONSENT_VARIABLE, raising=False)
    warehouse = Warehouse.create(tmp_path / "sent.glasshouse", Plugins(external=False))
    with pytest.raises(ModelError) as caught:
        warehouse.kept_encoder(spec)
    said = str(caught.value)
    assert f"GLASSHOUSE_ALLOW_PYTHON='{file}'" in said and "\n" not in said
    assert not mark.exists()
    monkeypatch.setenv(python.CONSENT_VARIABLE, os.pathsep.join(["/another.py", str(file.parent / "." / file.name)]))
    assert warehouse.kept_encoder(spec).spec == spec
    assert mark.read_text() == "run "


def test_what_the_user_typed_may_run_again_in_the_same_process(marked, tmp_path, monkeypatch):
    file, _ = marked
    monkeypatch.delenv(python.CONSENT_VARIABLE, raising=False)
    monkeypatch.chdir(file.parent)
    warehouse = Warehouse.create(tmp_path / "own.glasshouse", Plugins(external=False))
    encoder = warehouse.load_encoder(f"python:{file.name}:build")
    assert warehouse.kept_encoder(encoder.spec).fingerprint == encoder.fingerprint
    with pytest.raises(ModelError, match="would run the code"):
        warehouse.kept_encoder(f"python:{file}:tell")
    with pytest.raises(ModelError, match="would run the code"):
        Warehouse(tmp_path / "own.glasshouse", Plugins(external=False)).kept_encoder(encoder.spec)


def test_nothing_inside_a_warehouse_is_run(marked, tmp_path, monkeypatch):
    file, mark = marked
    warehouse = Warehouse.create(tmp_path / "sent.glasshouse", Plugins(external=False))
    inside = warehouse.root / "spaces" / "model.py"
    inside.parent.mkdir(exist_ok=True)
    file.rename(inside)
    linked = tmp_path / "link.py"
    linked.symlink_to(inside)
    monkeypatch.setenv(python.CONSENT_VARIABLE, str(inside))
    for path in (inside, linked):
        for load in (warehouse.load_encoder, warehouse.kept_encoder):
            with pytest.raises(ModelError, match=r"lies inside the warehouse .*sent\.glasshouse, and nothing in"):
                load(f"python:{path}:build")
    assert not mark.exists()
