"""What several commands share: choosing the warehouse, the plugins, the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.manager import Plugins
    from glasshouse.warehouse.warehouse import Warehouse

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class PluginFiles:
    """Keeps the files given with `--plugin`, and the plugins once they are loaded, in the context of one call."""

    FILES = "glasshouse.plugin_files"
    LOADED = "glasshouse.plugins"

    @staticmethod
    def remember(ctx: click.Context, parameter: click.Parameter, files: tuple[Path, ...]) -> None:
        """Keep the files for when plugins are first needed."""
        ctx.meta[PluginFiles.FILES] = files


def plugins_of(ctx: click.Context) -> Plugins:
    """Return the plugins of this call, loaded on first use."""
    if PluginFiles.LOADED not in ctx.meta:
        from glasshouse.plugins.manager import Plugins

        ctx.meta[PluginFiles.LOADED] = Plugins(ctx.meta.get(PluginFiles.FILES, ()))
    loaded: Plugins = ctx.meta[PluginFiles.LOADED]
    return loaded


def warehouse_option(command: Decorated) -> Decorated:
    """Add `-w DIR`."""
    return click.option(
        "-w",
        "--warehouse",
        metavar="DIR",
        help="The warehouse; else $GLASSHOUSE, else the only *.glasshouse folder here.",
    )(command)


def json_option(command: Decorated) -> Decorated:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def device_option(command: Decorated) -> Decorated:
    """Add `--device`."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Where the encoder runs; auto takes a GPU when there is one.",
    )(command)


def chosen_device(name: str) -> str:
    """Turn `auto` into cpu or cuda.

    Raises:
        UsageError: cuda is asked for and there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UsageError("There is no CUDA device that PyTorch can use. Leave --device away to run on the CPU.")
    return "cuda" if available and name != "cpu" else "cpu"


def feature_name(text: str) -> tuple[str, int]:
    """Read SPACE:ID.

    Raises:
        UsageError: it is something else.
    """
    space, colon, number = text.rpartition(":")
    if not colon or not space or not (number.isascii() and number.isdigit()):
        raise UsageError(f"'{text}' names no feature. Write it as SPACE:ID, e.g. cls:69.")
    return space, int(number)


def open_warehouse(name: str | None) -> Warehouse:
    """Open the warehouse that is meant, with the plugins of this call."""
    from glasshouse.warehouse.warehouse import Warehouse

    return Warehouse.open(name, plugins_of(click.get_current_context()))
