"""`glasshouse sae`: what it says of the starter's SAEs, of spoiled ones, and of converted ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import write_pictures

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.saes import own_format
from glasshouse.plugins.starter.world import write_world
from glasshouse.warehouse.warehouse import Warehouse

TRY = ("--encoder", "toy:0", "--hook", "blocks.1.resid_post", "-w", "w.glasshouse")


def starter_sae(name: str = "sae-cls") -> tuple[own_format.SaeDescription, dict[str, Any]]:
    return own_format.read(Path(str(files("glasshouse.plugins.starter").joinpath("data", name, "sae.safetensors"))))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a warehouse of pictures that the starter's models know."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder / "world", 80, 3)
    opened = Warehouse.create(folder / "world.glasshouse", Plugins(external=False))
    opened.add(sorted((folder / "world").rglob("*.png")))
    opened.close()
    return folder / "world.glasshouse"


def test_the_weights_alone(glasshouse: Any) -> None:
    done = glasshouse("sae", "inspect", "starter:sae-cls")
    assert done.returncode == 0, done.stderr
    for words in (
        "D = 128, F = 512",
        "batchtopk",
        "starter:clip, blocks.3.resid_post, cls",
        "Weights alone do not show",
    ):
        assert words in done.stdout
    said = json.loads(glasshouse("sae", "inspect", "starter:sae-cls", "--json").stdout)
    assert (said["width"], said["n_features"], said["n_dead"], said["trial"]) == (128, 512, 0, None)
    norms = starter_sae()[1]["W_dec"].float().norm(dim=1)
    assert said["decoder_norm"]["max"] == pytest.approx(float(norms.max()), rel=1e-6)
    assert said["reported"]["explained_variance"] > 0.5


@pytest.mark.parametrize("name", ["sae-cls", "sae-patches", "sae-dinoised"])
def test_the_starters_saes_fit_the_starters_images(glasshouse: Any, world: Path, name: str) -> None:
    said = json.loads(glasshouse("sae", "inspect", f"starter:{name}", "-w", world, "--json").stdout)
    trial = said["trial"]
    assert trial["self_test"]["explained_variance"] > 0.75 and trial["self_test"]["cosine"] > 0.9
    assert said["wrong"] == trial["wrong"] == []
    encoder = "starter:dinoised" if name == "sae-dinoised" else "starter:clip"
    assert (trial["encoder"], trial["n_images"], trial["n_failed"]) == (encoder, 64, 0)
    assert 0 < trial["n_silent"] < 512
    assert "Nothing looks wrong." in glasshouse("sae", "inspect", f"starter:{name}", "-w", world).stdout


def spoiled(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """Write the starter's CLS SAE with something changed in its description or tensors."""
    description, tensors = starter_sae()
    said = description.model_dump()
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    change(said, tensors)
    folder.mkdir()
    own_format.write(folder / "sae.safetensors", tensors, said)
    return folder


def test_a_wrong_normalisation_is_found_and_the_right_one_named(glasshouse: Any, world: Path, tmp_path: Path) -> None:
    def change(said: dict[str, Any], tensors: dict[str, Any]) -> None:
        said["normalization"] = "layer_norm"

    out = glasshouse("sae", "inspect", spoiled(tmp_path / "sae", change), "-w", world).stdout
    assert "does not seem to fit" in out
    assert "read otherwise it would explain 0.9" in out and "normalisation none, b_dec subtracted" in out


def test_a_missing_factor_is_found(glasshouse: Any, world: Path, tmp_path: Path) -> None:
    def change(said: dict[str, Any], tensors: dict[str, Any]) -> None:
        for name in ("W_dec", "b_dec"):
            tensors[name] /= 10.0

    out = glasshouse("sae", "inspect", spoiled(tmp_path / "sae", change), "-w", world).stdout
    assert "times as long as the activations: a factor or a mean" in out


def test_a_wrong_hook_is_found_and_the_right_one_named(glasshouse: Any, world: Path) -> None:
    out = glasshouse("sae", "inspect", "starter:sae-cls", "--hook", "blocks.1.resid_post", "-w", world).stdout
    assert "was trained on hook blocks.3.resid_post, not blocks.1.resid_post" in out
    assert "at another hook point it would explain 0.9" in out and out.rstrip().endswith("blocks.3.resid_post.")


def test_dead_features_and_uneven_decoders_are_told(glasshouse: Any, tmp_path: Path) -> None:
    def change(said: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["W_dec"][:7] = 0
        tensors["W_dec"][9] *= 1000

    done = glasshouse("sae", "inspect", spoiled(tmp_path / "sae", change))
    assert "7 of 512 features have a decoder row of zeros" in done.stdout
    assert "not on one scale" in done.stdout


def test_a_space_says_where_to_test(glasshouse: Any, pictures: Path, tmp_path: Path) -> None:
    assert glasshouse("init", "w.glasshouse").returncode == 0
    assert glasshouse("add", "pictures").returncode == 0
    space = ("--encoder", "toy:0", "--space", "p", "--hook", "blocks.1.resid_post", "--tokens", "patches")
    assert glasshouse("extract", *space).returncode == 0
    eye = torch.eye(24)
    tensors = {
        "W_enc": torch.cat([eye, -eye], 1), "b_enc": torch.zeros(48),
        "W_dec": torch.cat([eye, -eye]), "b_dec": torch.zeros(24),
    }  # fmt: skip
    (tmp_path / "perfect").mkdir()
    (tmp_path / "perfect" / "cfg.json").write_text(json.dumps({"architecture": "standard", "d_in": 24}))
    safetensors.torch.save_file(tensors, str(tmp_path / "perfect" / "sae_weights.safetensors"))
    said = json.loads(glasshouse("sae", "inspect", "perfect", "--space", "p", "--images", "5", "--json").stdout)
    trial = said["trial"]
    assert (trial["hook"], trial["tokens"], trial["n_images"]) == ("blocks.1.resid_post", "patches", 5)
    assert trial["self_test"]["explained_variance"] == pytest.approx(1.0, abs=1e-5)
    assert trial["self_test"]["n_rows"] == 5 * 16 and trial["length_ratio"] == pytest.approx(1.0, abs=1e-5)
    assert "24 of 48 features are active" in " ".join(trial["wrong"]), "not sparse"
    assert "L0" in glasshouse("sae", "inspect", "perfect", *TRY).stdout
    # Pictures that are gone are counted, and when all are gone it says so.
    for path in list((tmp_path / "pictures").iterdir())[:29]:
        path.unlink()
    assert ", 29 could not be read" in glasshouse("sae", "inspect", "perfect", *TRY).stdout
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    done = glasshouse("sae", "inspect", "perfect", *TRY)
    assert done.returncode == 1 and "None of 30 images can be read" in done.stderr


def test_wrong_requests_end_in_one_line(glasshouse: Any, tmp_path: Path) -> None:
    assert glasshouse("init", "w.glasshouse").returncode == 0
    write_pictures(tmp_path / "one", 1)
    for words, message in (
        (("sae", "inspect", "neurons"), "'neurons' has no tensors"),
        (("sae", "convert", "neurons", "x"), "'neurons' has no tensors"),
        (("sae", "inspect", "/no/such"), "neither a folder nor a spec"),
        (("sae", "inspect", "saelens:/no/such"), "There is no folder /no/such"),
        (("sae", "inspect", "starter:sae-cls", "-w", "w.glasshouse"), "has no images yet"),
        (("sae", "inspect", "starter:sae-cls", "--space", "x"), "x"),
        (("sae", "inspect", "starter:sae-cls", "--tokens", "all", "-w", "w.glasshouse"), "all"),
        (("sae", "convert", "starter:sae-cls", "x", "--tokens", "all"), "token policy"),
    ):
        done = glasshouse(*words)
        assert done.returncode in (1, 2) and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert glasshouse("add", "one").returncode == 0
    done = glasshouse("sae", "inspect", "starter:sae-cls", "--encoder", "toy:0", "--hook", "blocks.0.resid_post")
    assert done.returncode == 1 and "takes vectors of width 128" in done.stderr
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "cfg.json").write_text("{}")
    safetensors.torch.save_file(
        {"W_enc": torch.eye(3), "b_enc": torch.zeros(3), "W_dec": torch.eye(3), "b_dec": torch.zeros(3)},
        str(tmp_path / "plain" / "sae_weights.safetensors"),
    )
    done = glasshouse("sae", "inspect", "plain", "-w", "w.glasshouse")
    assert done.returncode == 2 and "Give --encoder, or --space NAME" in done.stderr


def test_what_is_converted_is_the_same_sae(glasshouse: Any, tmp_path: Path, world: Path) -> None:
    done = glasshouse("sae", "convert", "starter:sae-cls", "mine")
    assert done.returncode == 0 and "256 random vectors" in done.stdout and " 0 codes" not in done.stdout
    before = json.loads(glasshouse("sae", "inspect", "starter:sae-cls", "-w", world, "--json").stdout)
    after = json.loads(glasshouse("sae", "inspect", "mine", "-w", world, "--json").stdout)
    assert after["fingerprint"] == before["fingerprint"] and after["trial"] == before["trial"]
    described = own_format.read(tmp_path / "mine" / "sae.safetensors")[0]
    assert described.format == 1 and described.training["converted_from"]["spec"] == "starter:sae-cls"
    assert described.encoder_weights_sha256 == starter_sae()[0].encoder_weights_sha256
    again = glasshouse("sae", "convert", "starter:sae-cls", "mine")
    assert again.returncode == 2 and "exists. Choose another folder" in again.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["sae.safetensors"]
