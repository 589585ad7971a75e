"""The test kit: it passes what keeps the contract and says what does not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.testing.conformance import check_analyzer
from glasshouse.plugins.testing.fixtures import _built, small_warehouse  # noqa: F401
from glasshouse.schema.errors import PluginError, UsageError

SCHEMA = pa.schema([("feature_id", pa.int32()), ("n", pa.int64())])


class Good(Analyzer[Parameters]):
    """Count images."""

    schema = SCHEMA
    in_features = ("n",)

    def run(self, view: Any, parameters: Any) -> Any:
        return view.statistics().select("feature_id", n="n_active").to_arrow()


def test_what_keeps_the_contract_passes(small_warehouse: Any) -> None:  # noqa: F811
    assert sorted(check_analyzer("good", Good(), small_warehouse)) == ["cls", "dinoised", "odd", "patches"]


class Moody(Good):
    def run(self, view: Any, parameters: Any) -> Any:
        table = super().run(view, parameters)
        return table.set_column(1, "n", [pa.array([random.randrange(10**9) for _ in range(table.num_rows)])])


class Writing(Good):
    def run(self, view: Any, parameters: Any) -> Any:
        with view.warehouse.catalogue.writing() as connection:
            connection.execute("INSERT INTO captions VALUES (0, 'mine', 'me')")
        return super().run(view, parameters)


class TurnParameters(Parameters):
    n: int = Field(0, description="How often.")


class Turning(Good):
    parameters = TurnParameters

    def resolve(self, view: Any, parameters: Any) -> Any:
        return TurnParameters(n=parameters.n + 1)


class Refusing(Good):
    def resolve(self, view: Any, parameters: Any) -> Any:
        raise UsageError("no")


class Crashing(Good):
    """Fail where a feature is never active, as in the space `odd`."""

    def run(self, view: Any, parameters: Any) -> Any:
        if view.statistics()["n_active"].min() == 0 and view.space == "odd":
            raise ZeroDivisionError("division by zero")
        return super().run(view, parameters)


@pytest.mark.parametrize(
    ("analyzer", "error", "words"),
    [
        (Moody(), AssertionError, "gives other rows the second time"),
        (Writing(), AssertionError, "writes to the catalogue while it computes"),
        (Turning(), AssertionError, "`resolve` changes parameters that it has resolved already"),
        (Refusing(), AssertionError, "without saying why: 'no'"),
        (Crashing(), PluginError, "'mine' of the plugin .* failed: ZeroDivisionError"),
    ],
)
def test_what_breaks_it_is_named(small_warehouse: Any, analyzer: Any, error: Any, words: str) -> None:  # noqa: F811
    with pytest.raises(error, match=words):
        check_analyzer("mine", analyzer, small_warehouse)


DECLARATIONS = {
    "schema = pa.schema([('n', pa.int64())])": "`feature_id` (int32) as its first column",
    "schema = pa.schema([('feature_id', pa.int64())])": "`feature_id` (int32) as its first column",
    "schema = None": "declares no `schema`",
    "schema = pa.schema([('feature_id', pa.int32()), ('stale', pa.bool_())])": "cannot have a column 'stale'",
    "in_features = ('m',)": "names 'm' in `in_features` or `strongest`",
    "facets = ('variant',)": "names the facet 'variant', which is no parameter",
}


@pytest.mark.parametrize("line", DECLARATIONS)
def test_a_wrong_declaration_is_an_error_that_names_the_plugin(tmp_path: Path, line: str) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(
        "import pyarrow as pa\n"
        "from glasshouse.plugins import hookimpl\n"
        "from glasshouse.plugins.analyzer import Analyzer\n"
        "class Wrong(Analyzer):\n"
        "    schema = pa.schema([('feature_id', pa.int32()), ('n', pa.int64())])\n"
        f"    {line}\n"
        "@hookimpl\n"
        "def register_analyzers(register):\n"
        "    register('wrong', Wrong())\n"
    )
    with pytest.raises(PluginError) as raised:
        _ = Plugins([file], external=False).analyzers
    assert DECLARATIONS[line] in str(raised.value) and str(file) in str(raised.value)


@pytest.mark.parametrize("name", ["Wrong", "images", "all", "a b", "1st", "features"])
def test_a_name_that_cannot_be_a_view_is_refused(name: str) -> None:
    from glasshouse.plugins.declarations import check_declaration

    with pytest.raises(PluginError, match="name"):
        check_declaration(name, Good(), "mine")


@pytest.mark.parametrize(
    ("annotation", "default", "words"),
    [
        (dict[str, int], {}, "which cannot be entered"),
        (list[int], [], "which cannot be entered"),
        (int | str, 0, "which cannot be entered"),
        (int, ..., "without a default or a description"),
    ],
)
def test_parameters_that_cannot_be_entered_are_refused(annotation: Any, default: Any, words: str) -> None:
    from pydantic import create_model

    from glasshouse.plugins.parameters import kinds_of

    model = create_model("P", __base__=Parameters, field=(annotation, Field(default, description="What it is.")))
    with pytest.raises(PluginError, match=words):
        kinds_of("mine", model)


class Leaving(Good):
    def run(self, view: Any, parameters: Any) -> Any:
        raise SystemExit(3)


class Silent(Good):
    def run(self, view: Any, parameters: Any) -> Any:
        return None


@pytest.mark.parametrize(("analyzer", "words"), [(Leaving(), "SystemExit: 3"), (Silent(), "'mine' gave nothing")])
def test_what_leaves_or_says_nothing_is_named(small_warehouse: Any, analyzer: Any, words: str) -> None:  # noqa: F811
    with pytest.raises(PluginError, match=words):
        check_analyzer("mine", analyzer, small_warehouse)


def test_a_parameter_cannot_take_the_name_of_an_option() -> None:
    from pydantic import create_model

    from glasshouse.plugins.parameters import kinds_of

    model = create_model("P", __base__=Parameters, space=(int, Field(0, description="What it is.")))
    with pytest.raises(PluginError, match="'space': every analysis has that option"):
        kinds_of("mine", model)
