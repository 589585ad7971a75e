"""Specs that are a path."""

from __future__ import annotations

import pytest

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.saes import local
from glasshouse.schema.errors import GlasshouseError, ModelError


def test_what_lies_nowhere_or_is_not_known(tmp_path):
    with pytest.raises(ModelError, match=r"There is no file or folder .*nothing.*sae\.safetensors.*weights\.pt"):
        local.load(str(tmp_path / "nothing"), "cpu")
    with pytest.raises(ModelError, match=r"holds no SAE that is known.*config\.json with weights\.pt"):
        local.load(str(tmp_path), "cpu")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match="holds no SAE that is known"):
        local.load(str(tmp_path / "notes.txt"), "cpu")


def test_every_built_in_scheme_is_registered():
    plugins = Plugins(external=False)
    assert {"local", "neurons", "prisma", "starter"} <= {name for name, _, _ in plugins.saes}
    for _name, loader, _plugin in plugins.saes:
        assert loader.summary
        assert "\n" not in loader.summary
    assert plugins.load_sae("neurons").is_lossless
    with pytest.raises(GlasshouseError, match=r"/no/such/folder.* folder"):
        plugins.load_sae("/no/such/folder")
