"""Every hook, used as a stranger's plugin uses it: from a file, through the real command line or the real manager."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TOY_PLUGIN

from glasshouse.plugins.manager import BUILTIN_PLUGINS, Plugins
from glasshouse.schema.errors import PluginError, UsageError
from glasshouse.warehouse.warehouse import Warehouse

HEAD = "from glasshouse.plugins import hookimpl\n"


def plugin(tmp_path: Path, text: str, name: str = "mine.py") -> Path:
    file = tmp_path / name
    file.write_text(HEAD + text)
    return file


def test_hook_register_encoders(plugins: Plugins) -> None:
    assert "toy" in plugins.encoders
    encoder = plugins.load_encoder("toy:3")
    assert encoder.spec == "toy:3" and encoder.fingerprint != plugins.load_encoder("toy:4").fingerprint
    brought_by = {name: owner for name, _, owner in plugins.encoders}
    assert brought_by["toy"] == str(TOY_PLUGIN) and brought_by["open_clip"] in BUILTIN_PLUGINS


def test_hook_register_saes(tmp_path: Path, warehouse: Warehouse) -> None:
    text = """
from glasshouse.plugins.contracts import SaeLoader
from glasshouse.plugins.saes.neurons import Neurons

@hookimpl
def register_saes(register):
    register("mine", SaeLoader(lambda rest, device: Neurons(device), "mine"))
"""
    loaded = Plugins([TOY_PLUGIN, plugin(tmp_path, text)], external=False)
    opened = Warehouse(warehouse.root, loaded)
    opened.extract("toy:0", [("x", "blocks.0.resid_post", "cls", "mine:anything")])
    assert opened.spaces()["state"].to_list() == ["ready"]


def test_hook_register_sources(tmp_path: Path, warehouse: Warehouse, pictures: Path) -> None:
    """A later plugin is asked first, so it can take over .lst files from the built-in sources."""
    text = """
from pathlib import Path
from glasshouse.warehouse.intake.records import ImageRecord, PlainFile

class Listing:
    summary = "a list of pictures"

    def claims(self, path):
        return path.endswith(".lst")

    def read(self, path, want, options):
        for line in Path(path).read_text().splitlines():
            yield ImageRecord(line, PlainFile(line))

@hookimpl
def register_sources(register):
    register("listing", Listing())
"""
    from conftest import write_pictures

    new = write_pictures(tmp_path / "new", 3, first=800)
    (tmp_path / "pictures.lst").write_text("\n".join(map(str, new)))
    opened = Warehouse(warehouse.root, Plugins([plugin(tmp_path, text)], external=False))
    assert opened.add([tmp_path / "pictures.lst"]).n_new_images == 3


def test_hook_register_presets(tmp_path: Path, glasshouse: Any, warehouse: Warehouse) -> None:
    text = """
from glasshouse.plugins.contracts import Preset, PresetSpace

@hookimpl
def register_presets(register):
    spaces = tuple(PresetSpace(f"s{i}", f"blocks.{i}.resid_post", "cls", "neurons") for i in (0, 1))
    register("both", Preset("toy:0", spaces, "two spaces"))
"""
    file = plugin(tmp_path, text)
    done = glasshouse("--plugin", file, "extract", "--preset", "both")
    assert done.stdout == "s0: 30 new images\ns1: 30 new images\n", done.stderr
    wrong = glasshouse("--plugin", file, "extract", "--preset", "both", "--space", "s7")
    assert wrong.returncode == 2 and "has no space 's7'" in wrong.stderr


def test_hook_register_commands(tmp_path: Path, glasshouse: Any) -> None:
    text = """
import click

@hookimpl
def register_commands(cli):
    @cli.command()
    def shout():
        "Say hello."
        click.echo("HELLO")

    @cli.command()
    def status():
        "Take the place of a built-in command."
        click.echo("TAKEN")
"""
    file = plugin(tmp_path, text)
    assert glasshouse("--plugin", file, "shout").stdout == "HELLO\n"
    assert "shout" in glasshouse("--plugin", file, "--help").stdout
    assert "TAKEN" not in glasshouse("--plugin", file, "status").stdout


def test_hook_prepare_connection(tmp_path: Path, warehouse: Warehouse) -> None:
    text = """
@hookimpl
def prepare_connection(connection, warehouse):
    connection.execute("CREATE TEMP MACRO n_images() AS (SELECT count(*) FROM images)")
    connection.create_function("shout", lambda text: text.upper() + "!", ["VARCHAR"], "VARCHAR")
"""
    opened = Warehouse(warehouse.root, Plugins([plugin(tmp_path, text)], external=False))
    assert opened.sql("SELECT n_images() AS n, shout('hi') AS s").row(0) == (30, "HI!")


def test_a_misspelt_hook_names_the_plugin(tmp_path: Path) -> None:
    file = plugin(tmp_path, "@hookimpl\ndef register_encoder(register): ...\n")
    with pytest.raises(PluginError, match=r"mine.py.*hook that does not exist.*docs/plugins.md"):
        Plugins([file], external=False)


def test_a_wrong_argument_names_the_plugin(tmp_path: Path) -> None:
    file = plugin(tmp_path, "@hookimpl\ndef register_encoders(registry): ...\n")
    with pytest.raises(PluginError, match=r"mine.py.*does not fit a hook"):
        Plugins([file], external=False)


def test_a_name_that_is_taken_names_both(tmp_path: Path) -> None:
    text = "@hookimpl\ndef register_encoders(register):\n    register('timm', None)\n"
    with pytest.raises(PluginError, match=r"both register the encoder scheme 'timm'"):
        _ = Plugins([plugin(tmp_path, text)], external=False).encoders


def test_a_failing_plugin_is_named(tmp_path: Path, glasshouse: Any) -> None:
    broken = plugin(tmp_path, "1 / 0\n", "broken.py")
    done = glasshouse("--plugin", broken, "plugins")
    assert done.returncode == 1 and "broken.py cannot be loaded: ZeroDivisionError" in done.stderr
    failing = plugin(tmp_path, "@hookimpl\ndef register_saes(register): raise ValueError('no')\n", "failing.py")
    done = glasshouse("--plugin", failing, "plugins")
    assert done.returncode == 1 and "failing.py' failed in register_saes: ValueError: no" in done.stderr
    late = plugin(tmp_path, "@hookimpl\ndef register_commands(cli): raise ValueError('no')\n", "late.py")
    done = glasshouse("--plugin", late, "--help")
    assert done.returncode == 1 and "late.py' failed in register_commands" in done.stderr
    absent = glasshouse("--plugin", tmp_path / "absent.py", "plugins")
    assert absent.returncode == 1 and "There is no plugin file" in absent.stderr


def test_a_loader_that_fails_is_named(tmp_path: Path, glasshouse: Any, warehouse: Warehouse) -> None:
    text = """
from glasshouse.plugins.contracts import EncoderLoader

@hookimpl
def register_encoders(register):
    register("bad", EncoderLoader(lambda rest, device: {}[rest], "fails"))
"""
    done = glasshouse("--plugin", plugin(tmp_path, text), "embed", "--encoder", "bad:thing")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "mine.py' failed to load 'bad:thing': KeyError: 'thing'" in done.stderr


def test_unknown_schemes_list_the_known(plugins: Plugins) -> None:
    with pytest.raises(UsageError, match=r"no encoder scheme 'open-clip'. Did you mean 'open_clip'"):
        plugins.load_encoder("open-clip:ViT-B-32")
    with pytest.raises(UsageError, match="no SAE scheme"):
        plugins.load_sae("unheard:of")


def test_installed_plugins_are_found_by_their_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution on the path, as pip would have left it."""
    (tmp_path / "stranger.py").write_text(
        HEAD + "from glasshouse.plugins.contracts import SaeLoader\n"
        "@hookimpl\ndef register_saes(register):\n    register('stranger', SaeLoader(print, 'a stranger'))\n"
    )
    info = tmp_path / "stranger-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[glasshouse]\nstranger = stranger\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("GLASSHOUSE_NO_PLUGINS")
    listed = {entry.name: entry for entry in Plugins().listing()}
    assert (listed["stranger"].plugin, listed["stranger"].version) == ("stranger", "1.2")
    monkeypatch.setenv("GLASSHOUSE_NO_PLUGINS", "1")
    assert "stranger" not in Plugins().saes
    sys.modules.pop("stranger")


def test_hook_register_analyzers(tmp_path: Path, glasshouse: Any, warehouse: Warehouse) -> None:
    text = """
import pyarrow as pa
from glasshouse.plugins.analyzer import Analyzer, Parameters

class Twice(Analyzer[Parameters]):
    "Twice the number of images of each feature."
    summary = "twice"
    schema = pa.schema([("feature_id", pa.int32()), ("n", pa.int64())])
    in_features = ("n",)

    def run(self, view, parameters):
        return view.sql("SELECT feature_id, 2 * n_active AS n FROM features WHERE space = $s", {"s": view.space})

@hookimpl
def register_analyzers(register):
    register("twice", Twice())
"""
    file = plugin(tmp_path, text)
    warehouse.extract("toy:0", [("x", "blocks.0.resid_post", "cls", "neurons")])
    warehouse.close()
    assert "twice" in glasshouse("--plugin", file, "plugins").stdout
    assert glasshouse("--plugin", file, "analyze", "twice").stdout.startswith("x: twice: 24 rows in ")
    shown = glasshouse("sql", "SELECT bool_and(n = 2 * n_active) AS good FROM features JOIN twice USING (n)")
    assert shown.stdout.split() == ["good", "true"]


def test_hook_register_labelers(tmp_path: Path) -> None:
    text = """
from glasshouse.plugins.contracts import LabelerLoader

@hookimpl
def register_labelers(register):
    register("parrot", LabelerLoader(lambda options: options, "says what it is told"))
"""
    loaded = Plugins([plugin(tmp_path, text)], external=False)
    assert loaded.labelers.get("parrot").summary == "says what it is told"
    assert [entry.name for entry in loaded.listing() if entry.plugin == str(tmp_path / "mine.py")] == ["parrot"]
    with pytest.raises(UsageError, match="no labeler 'parot'"):
        loaded.labelers.get("parot")
