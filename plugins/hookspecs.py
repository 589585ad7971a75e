"""The hooks of glasshouse. A plugin is a module that implements some of them with `@glasshouse.plugins.hookimpl`.

Every `register` callable takes a name and what it stands for; a name that is taken is an error naming both plugins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pluggy

if TYPE_CHECKING:
    import click
    import duckdb

    from glasshouse.plugins.analyzer import Analyzer
    from glasshouse.plugins.contracts import EncoderLoader, LabelerLoader, Preset, SaeLoader
    from glasshouse.warehouse.intake.records import Source
    from glasshouse.warehouse.warehouse import Warehouse

hookspec = pluggy.HookspecMarker("glasshouse")

Value_contra = TypeVar("Value_contra", contravariant=True)


class Register(Protocol[Value_contra]):
    """`register(name, value)`: gives a name to something a plugin brings."""

    def __call__(self, name: str, value: Value_contra) -> None:
        """Register `value` under `name`."""


@hookspec
def register_encoders(register: Register[EncoderLoader]) -> None:
    """Register encoder schemes, the part of a spec before its first colon, e.g. `open_clip`.

    Called once when encoders are first needed. Register loaders only: importing torch or a model library here
    would make every command slow, so import it inside the loader's `load`. Must not touch a warehouse.
    """


@hookspec
def register_saes(register: Register[SaeLoader]) -> None:
    """Register SAE schemes, e.g. `prisma`, or a whole spec without arguments, e.g. `neurons`.

    Called once when SAEs are first needed. As with encoders: register loaders, import heavy libraries inside `load`.
    """


@hookspec
def register_analyzers(register: Register[Analyzer[Any]]) -> None:
    """Register analyses for `glasshouse analyze NAME`.

    Called when analyses are run or listed. The name becomes a command, a table and a view, so it is lower-case with
    underscores and differs from every table there is. Import what an analysis needs inside this function or inside
    `run`, not at the top of the plugin's module. Must not touch a warehouse.
    """


@hookspec
def register_labelers(register: Register[LabelerLoader]) -> None:
    """Register labelers for `glasshouse analyze labels --labeler NAME`.

    Called when features are labelled or plugins listed. Register loaders; import client libraries and read API keys
    from the environment inside `load`. A key must never reach an error, a log or what the labeler returns.
    """


@hookspec
def register_sources(register: Register[Source]) -> None:
    """Register kinds of files that images, ratings, captions, labels or annotations can come from.

    Called once per `add`. The source whose `claims(path)` says yes first reads it, later plugins asked before
    earlier ones, so that a stranger's plugin can take over a file type. Must not read anything while registering.
    """


@hookspec
def register_presets(register: Register[Preset]) -> None:
    """Register presets for `glasshouse extract --preset NAME`: one encoder and the spaces to make of it."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add commands to the command line with `cli.add_command` or `@cli.command`.

    Called at start-up of every command, so it must be quick. Must not replace a command that exists.
    """


@hookspec
def prepare_connection(connection: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> None:
    """Add SQL functions and macros to a reading connection.

    Called for every reading connection after the views are there, so it must be quick: load models inside the
    function that needs them. Only TEMP macros can be created, since the connection is read-only. Must not close the
    connection or run the user's data through it.
    """
