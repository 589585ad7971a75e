"""Is what an analyzer says of itself in order? Asked when analyzers are first needed: a mistake shows at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from glasshouse.plugins.analyzer import Analyzer
from glasshouse.plugins.parameters import kinds_of
from glasshouse.schema.errors import PluginError
from glasshouse.warehouse.results.records import OWN_COLUMNS
from glasshouse.warehouse.results.vectors import VECTOR_COLUMN
from glasshouse.warehouse.surface import CATALOGUE_TABLES, SPACE_VIEWS

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TAKEN = {*CATALOGUE_TABLES, *SPACE_VIEWS, "run_inputs", "result_tables", "revisions", "schema_migrations", "all"}


def check_declaration(name: str, analyzer: Analyzer[Any], plugin: str) -> None:
    """See that an analyzer can be a command, a table and a view.

    Raises:
        PluginError: it cannot; the message names the plugin and says what to change.
    """
    if not isinstance(analyzer, Analyzer):
        raise PluginError(
            f"The plugin '{plugin}' registers as analyzer '{name}' a {type(analyzer).__name__}: register an instance "
            "of a subclass of glasshouse.plugins.analyzer.Analyzer, e.g. register('mine', Mine())."
        )
    for complaint in _complaints(name, analyzer):
        raise PluginError(f"The analyzer '{name}' of the plugin '{plugin}' {complaint}.")
    kinds_of(name, analyzer.parameters)


def _complaints(name: str, analyzer: Analyzer[Any]) -> Iterator[str]:
    if name in _TAKEN:
        yield "has the name of a table that is there already"
    if not _NAME.fullmatch(name):
        yield "needs a name of lower-case letters, digits and '_'"
    schema = getattr(analyzer, "schema", None)
    if not isinstance(schema, pa.Schema):
        yield "declares no `schema`, a pyarrow.Schema"
        return
    yield from _column_complaints(schema)
    shown = [*analyzer.in_features, *([analyzer.strongest] if analyzer.strongest else [])]
    for column in shown:
        if column not in schema.names or column in ("feature_id", VECTOR_COLUMN):
            yield f"names '{column}' in `in_features` or `strongest`, which is no column that `features` can show"
    for facet in analyzer.facets:
        if facet not in analyzer.parameters.model_fields:
            yield f"names the facet '{facet}', which is no parameter"


def _column_complaints(schema: pa.Schema) -> Iterator[str]:
    if not schema.names or schema.names[0] != "feature_id" or schema.field(0).type != pa.int32():
        yield "must have `feature_id` (int32) as its first column"
    for column in schema.names:
        if column in OWN_COLUMNS or schema.names.count(column) > 1:
            yield f"cannot have a column '{column}': the runner adds it, or it is there twice"
