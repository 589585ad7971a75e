"""Finding a checkpoint on the hub, in its cache, or saying what to place where."""

from __future__ import annotations

import pytest

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.saes import local
from glasshouse.plugins.saes.checkpoint import locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The hub's cache with one repository, ORG/NAME, and no hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--ORG--NAME"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT / "inner" / "layer_8"
    folder.mkdir(parents=True)
    for name in ("cfg.json", "weights.bin"):
        (folder / name).write_text("x")
    return folder


def test_files_and_folders_in_the_hubs_cache(cache):
    assert locate("s", "ORG/NAME/inner/layer_8", "-", ("cfg.json", "weights.bin")) == (
        cache, "s:ORG/NAME/inner/layer_8",
    )  # fmt: skip
    assert locate("s", "ORG/NAME/inner/layer_8/weights.bin", "-") == (
        cache / "weights.bin", "s:ORG/NAME/inner/layer_8/weights.bin",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "files"), [("ORG/OTHER", ("cfg.json",)), ("ORG/NAME/x", ("cfg.json",)), ("ORG/NAME/x.pt", ())]
)
def test_what_is_not_in_the_cache_is_said_in_one_line(cache, refused, name, files):
    refused(lambda: locate("saelens", name, "Place it so.", files), "the hub cannot be reached.*Place it so")


@pytest.mark.parametrize("name", ["just-a-name", "/no/such/folder", "./sae", "a//b", "", "~/no-such-folder"])
@pytest.mark.parametrize("files", [("cfg.json",), ()])
def test_a_name_that_is_none(name, files, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    refused(lambda: locate("saelens", name, "Place it so.", files), "There is no .*ORG/NAME.*Place it so")


def test_a_file_needs_a_name_in_its_repository(refused):
    refused(lambda: locate("saev", "ORG/NAME", "-"), "There is no file ORG/NAME.*ORG/NAME/FILE")


def test_a_local_path_comes_first(tmp_path, monkeypatch):
    (tmp_path / "ORG" / "NAME").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    path = (tmp_path / "ORG" / "NAME").resolve()
    assert locate("s", "ORG/NAME", "-", ("cfg.json",)) == (path, f"s:{path}")


@pytest.mark.parametrize("scheme", ["saelens", "dictionary_learning", "saev", "overcomplete", "msae"])
def test_every_format_is_a_scheme_with_an_example(scheme, refused, tmp_path):
    plugins = Plugins(external=False)
    assert f"{scheme}:" in plugins.saes.get(scheme, "").summary
    refused(lambda: plugins.load_sae(f"{scheme}:/no/such/thing"), rf"There is no .*--sae {scheme}:")
    assert "sae.safetensors" in local.LOOKED_FOR
