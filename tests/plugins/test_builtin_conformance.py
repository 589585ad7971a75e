"""The built-in analyses keep the rules that the test kit checks of anyone's."""

from __future__ import annotations

from typing import Any

import pytest

from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.testing.conformance import check_analyzer
from glasshouse.plugins.testing.fixtures import _built, small_warehouse  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

WORDS = ("red", "blue", "circle", "star", "striped", "grey")
PARAMETERS: dict[str, dict[str, Any]] = {
    "consistency": {"n": 2},
    "probe": {"c": 1.0},
    "ablate": {"n": 2, "k": 2},
    "comparison": {"other": "cls", "min_images": 2},
}


@pytest.mark.parametrize(
    "name", ["names", "consistency", "probe", "ablate", "cooccurrence", "polysemanticity", "comparison"]
)
def test_built_in_analyses_conform(small_warehouse: Any, tmp_path: Any, name: str) -> None:  # noqa: F811
    parameters = dict(PARAMETERS.get(name, {}))
    if name == "comparison":
        small_warehouse.analyze("concepts")
    if name == "names":
        (tmp_path / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
        parameters["vocabulary"] = str(tmp_path / "words.txt")
        small_warehouse.analyze("concepts", "patches")
        small_warehouse.analyze("cooccurrence", "patches")
    checked = check_analyzer(name, Plugins(external=False).analyzers.get(name), small_warehouse, parameters)
    assert "patches" in checked
