"""Does an analyzer keep its contract? One call that an author's test makes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from glasshouse.plugins.analyzer import Analyzer
from glasshouse.plugins.contracts import Registry
from glasshouse.plugins.declarations import check_declaration
from glasshouse.plugins.runner import Runner, parse_parameters
from glasshouse.plugins.view import AnalysisView
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.quoting import identifier
from glasshouse.warehouse.warehouse import Warehouse


def check_analyzer(
    name: str, analyzer: Analyzer[Any], warehouse: Warehouse, parameters: Mapping[str, Any] | None = None
) -> list[str]:
    """Run an analyzer on every space of a warehouse, twice, and see that it keeps its contract.

    Its declaration is in order; `resolve` changes nothing when called again; two runs give the same rows; nothing is
    written while it computes; its rows have the declared columns and arrive in its view; an identical run does
    nothing. On a space where it is not possible it may say so with a `UsageError`.

    Args:
        name: under which it is registered.
        analyzer: an instance.
        warehouse: e.g. the fixture `small_warehouse`; what it requires is run too.
        parameters: by name; the others have their defaults.

    Returns:
        The spaces on which it ran.

    Raises:
        AssertionError: it breaks the contract; the message says how.
        PluginError: its declaration or its rows are wrong.
    """
    plugin = type(analyzer).__module__
    check_declaration(name, analyzer, plugin)
    analyzers = _registry(warehouse, name, analyzer, plugin)
    runner, ran = Runner(warehouse, analyzers), []
    for space in warehouse.spaces().filter(state="ready")["name"].to_list():
        try:
            list(runner.run(name, space, parameters))
        except UsageError as error:
            _claim(len(str(error)) > 20, f"'{name}' refuses the space '{space}' without saying why: '{error}'")
            continue
        _check_on(runner, name, space, dict(parameters or {}))
        ran.append(space)
    _claim(bool(ran), f"'{name}' ran on none of the spaces")
    return ran


def _registry(warehouse: Warehouse, name: str, analyzer: Analyzer[Any], plugin: str) -> Registry[Analyzer[Any]]:
    """Return the warehouse's analyzers with this one among them."""
    analyzers: Registry[Analyzer[Any]] = Registry("analyzer")
    known = getattr(warehouse.plugins, "analyzers", ())
    for other, value, owner in known:
        if other != name:
            analyzers.register(other, value, owner)
    analyzers.register(name, analyzer, plugin)
    return analyzers


def _check_on(runner: Runner, name: str, space: str, given: dict[str, Any]) -> None:
    warehouse, analyzer = runner.warehouse, runner.analyzers.get(name)
    view = AnalysisView(warehouse, space)
    parameters = analyzer.resolve(view, parse_parameters(name, analyzer.parameters, given))
    _claim(
        analyzer.resolve(view, parameters) == parameters,
        f"'{name}': `resolve` changes parameters that it has resolved already; no run would be found again",
    )
    (first,) = runner.run(name, space, given)
    _claim(not first.is_new, f"'{name}' was computed again although nothing had changed")
    before = _digest(warehouse)
    table = runner.compute(name, analyzer, AnalysisView(warehouse, space), parameters).rows
    again = runner.compute(name, analyzer, AnalysisView(warehouse, space), parameters).rows
    _claim(_digest(warehouse) == before, f"'{name}' writes to the catalogue while it computes; return rows instead")
    _claim(
        _alike(table, again), f"'{name}' gives other rows the second time; take a parameter `seed` for what is random"
    )
    shown = warehouse.sql(f"SELECT * FROM {identifier(name)} WHERE space = $space", {"space": space})
    missing = {column for column in analyzer.schema.names if column != "vector"} - set(shown.columns)
    _claim(not missing, f"the view '{name}' lacks the columns {missing}")
    _claim(analyzer.is_incremental or shown.height >= table.num_rows, f"the view '{name}' lacks rows")


def _alike(table: pa.Table, again: pa.Table) -> bool:
    """Say whether two tables are equal, floats to the digits that the order of a parallel sum leaves."""
    if table.schema != again.schema or table.num_rows != again.num_rows:
        return False
    for name in table.column_names:
        if pa.types.is_floating(table.schema.field(name).type):
            first, second = (np.asarray(t[name].to_numpy(zero_copy_only=False), dtype=float) for t in (table, again))
            if not np.allclose(first, second, rtol=1e-9, atol=1e-12, equal_nan=True):
                return False
        elif not table[name].equals(again[name]):
            return False
    return True


def _digest(warehouse: Warehouse) -> str:
    return hashlib.sha256(warehouse.layout.catalogue.read_bytes()).hexdigest()


def _claim(holds: bool, otherwise: str) -> None:
    """Raise what pytest shows as a failed test, without `assert`, which Python can be told to skip."""
    if not holds:
        raise AssertionError(otherwise)
