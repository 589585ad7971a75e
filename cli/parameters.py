"""An analyzer's parameters as options: what pydantic says of a field becomes what click shows of it."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from glasshouse.schema.errors import PluginError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from glasshouse.plugins.analyzer import Parameters


def options_of(name: str, model: type[Parameters]) -> list[click.Option]:
    """Return an option for each parameter of an analyzer.

    Raises:
        PluginError: a field has a type that no option can have, or no default.
    """
    return [_option(name, field, info) for field, info in model.model_fields.items()]


def given_values(ctx: click.Context, model: type[Parameters]) -> dict[str, Any]:
    """Return the parameters that were given on the command line; the model knows the defaults of the others."""
    return {
        field: ctx.params[field]
        for field in model.model_fields
        if ctx.get_parameter_source(field) not in (None, click.core.ParameterSource.DEFAULT)
    }


def _option(analyzer: str, field: str, info: FieldInfo) -> click.Option:
    if info.is_required():
        raise PluginError(f"The analyzer '{analyzer}' has a parameter '{field}' without a default; give it one.")
    kind, is_repeated = _click_type(analyzer, field, info.annotation)
    words = info.description or ""
    flag = "--" + field.replace("_", "-")
    default = info.get_default(call_default_factory=True)
    if kind is bool:
        shown = "on" if default else "off"
        return click.Option([f"{flag}/--no-{flag[2:]}", field], default=default, help=f"{words}  [default: {shown}]")
    note = "" if default in (None, "", ()) else f"  [default: {_words(default)}]"
    again = " Can be repeated." if is_repeated else ""
    return click.Option(
        [flag, field],
        type=kind,
        multiple=is_repeated,
        default=None,
        help=f"{words}{again}{note}",
        metavar=_metavar(kind),
    )


def _click_type(analyzer: str, field: str, annotation: Any) -> tuple[Any, bool]:
    """Return click's type for a field's, and whether the option can be repeated."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _click_type(analyzer, field, arguments[0])
    if origin in (typing.Union, types.UnionType):
        real = [argument for argument in arguments if argument is not type(None)]
        if len(real) == 1:
            return _click_type(analyzer, field, real[0])
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return _click_type(analyzer, field, arguments[0])[0], True
    if origin is Literal:
        return click.Choice([str(argument) for argument in arguments]), False
    if annotation is Path:
        return click.Path(path_type=Path), False
    if annotation in (int, float, str, bool):
        return annotation, False
    raise PluginError(
        f"The analyzer '{analyzer}' has a parameter '{field}' of the type {annotation}, which no option can have. "
        "See docs/plugins.md for the types there are."
    )


def _metavar(kind: Any) -> str | None:
    return {int: "N", float: "X", str: "TEXT"}.get(kind) if isinstance(kind, type) else None


def _words(default: Any) -> str:
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
