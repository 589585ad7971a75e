"""An analyzer's parameters as options of its command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from glasshouse.plugins.analyzer import Parameters
    from glasshouse.plugins.parameters import ParameterKind


def options_of(name: str, model: type[Parameters]) -> list[click.Option]:
    """Return an option for each parameter of an analyzer."""
    from glasshouse.plugins.parameters import kinds_of

    return [_option(kind) for kind in kinds_of(name, model)]


def given_values(ctx: click.Context, model: type[Parameters]) -> dict[str, Any]:
    """Return the parameters that were given on the command line; the model knows the defaults of the others."""
    return {
        field: ctx.params[field]
        for field in model.model_fields
        if ctx.get_parameter_source(field) not in (None, click.core.ParameterSource.DEFAULT)
    }


def _option(kind: ParameterKind) -> click.Option:
    flag = "--" + kind.name.replace("_", "-")
    if kind.type is bool:
        shown = f"{kind.description}  [default: {'on' if kind.default else 'off'}]"
        return click.Option([f"{flag}/--no-{flag[2:]}", kind.name], default=kind.default, help=shown)
    note = "" if kind.default in (None, "", ()) else f"  [default: {_words(kind.default)}]"
    again = " Can be repeated." if kind.is_repeated else ""
    return click.Option(
        [flag, kind.name],
        type=_click_type(kind),
        multiple=kind.is_repeated,
        default=None,
        help=f"{kind.description}{again}{note}",
        metavar=None if kind.choices else {int: "N", float: "X", str: "TEXT"}.get(kind.type),
    )


def _click_type(kind: ParameterKind) -> Any:
    if kind.choices:
        return click.Choice(kind.choices)
    return kind.type if kind.type in (int, float, str) else click.Path()


def _words(default: Any) -> str:
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
