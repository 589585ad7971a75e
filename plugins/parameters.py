"""What an analyzer's parameters can be: the types of fields that can be entered on the command line or in a form."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from glasshouse.schema.errors import PluginError

if TYPE_CHECKING:
    from glasshouse.plugins.analyzer import Parameters


OPTIONS = {"space", "spaces", "force", "dry_run", "json", "as_json", "warehouse", "help"}
"""Names that every analysis has as options already."""


class ParameterKind(NamedTuple):
    """How one parameter is entered.

    Attributes:
        name: of the field.
        type: int, float, str, bool or Path.
        choices: the values there are, for a Literal; else empty.
        is_repeated: whether several values can be given.
        default: when it is not given.
        description: one sentence.
    """

    name: str
    type: type
    choices: tuple[str, ...]
    is_repeated: bool
    default: Any
    description: str


def kinds_of(analyzer: str, model: type[Parameters]) -> list[ParameterKind]:
    """Return the kind of each parameter.

    Raises:
        PluginError: a field has no default or description, or a type that cannot be entered.
    """
    kinds = []
    for name, field in model.model_fields.items():
        if name in OPTIONS:
            raise PluginError(
                f"The analyzer '{analyzer}' has a parameter '{name}': every analysis has that option; rename it."
            )
        if field.is_required() or not field.description:
            raise PluginError(
                f"The analyzer '{analyzer}' has a parameter '{name}' without a default or a description: write "
                f"{name}: … = Field(DEFAULT, description='…')."
            )
        kind, choices, is_repeated = _kind(analyzer, name, field.annotation)
        default = field.get_default(call_default_factory=True)
        kinds.append(ParameterKind(name, kind, choices, is_repeated, default, field.description))
    return kinds


def _kind(analyzer: str, name: str, annotation: Any) -> tuple[type, tuple[str, ...], bool]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(analyzer, name, arguments[0])
    if origin in (typing.Union, types.UnionType):
        real = [argument for argument in arguments if argument is not type(None)]
        if len(real) == 1:
            return _kind(analyzer, name, real[0])
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        kind, choices, _ = _kind(analyzer, name, arguments[0])
        return kind, choices, True
    if origin is Literal and all(isinstance(argument, str) for argument in arguments):
        return str, arguments, False
    if annotation in (int, float, str, bool, Path):
        return annotation, (), False
    raise PluginError(
        f"The analyzer '{analyzer}' has a parameter '{name}' of the type {annotation}, which cannot be entered. There "
        "are int, float, bool, str, Path, Literal of texts, tuple[…, ...] of these, and … | None."
    )
