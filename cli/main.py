"""The `glasshouse` command: the group, its commands, and the one place where errors become one line."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path

import click

from glasshouse.cli import (
    add,
    analyze,
    audit,
    caption,
    check,
    compare,
    demo,
    drop,
    embed,
    explain,
    extract,
    forget,
    importing,
    init,
    plugins,
    prune,
    report,
    sae,
    search,
    segment,
    show,
    sql,
    status,
    train,
)
from glasshouse.cli.options import PluginFiles, plugins_of
from glasshouse.schema.errors import GlasshouseError

BUILTIN_COMMANDS: tuple[click.Command, ...] = (
    demo.demo,
    init.init,
    add.add,
    importing.import_group,
    extract.extract,
    embed.embed,
    train.train,
    sae.sae,
    analyze.analyze,
    sql.sql,
    search.search,
    compare.compare,
    segment.segment,
    show.show,
    caption.caption,
    explain.explain,
    audit.audit,
    prune.prune,
    report.report,
    status.status,
    check.check,
    drop.drop,
    forget.forget,
    plugins.plugins,
)


DEBUG_VARIABLE = "GLASSHOUSE_DEBUG"
"""Set, errors keep their traceback: for whoever writes a plugin."""


class CommandGroup(click.Group):
    """The built-in commands, in the order of their use, and those that plugins bring."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the built-in commands, then the plugins'."""
        self._add_plugin_commands(ctx)
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command; plugins are asked only when it is no built-in one."""
        if cmd_name not in self.commands:
            self._add_plugin_commands(ctx)
        return self.commands.get(cmd_name)

    def _add_plugin_commands(self, ctx: click.Context) -> None:
        built_in = set(self.commands)
        extra = click.Group()
        plugins_of(ctx).register_commands(extra)
        for name, command in extra.commands.items():
            if name not in built_in:
                self.add_command(command, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say what was perhaps meant by a command that does not exist."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            words = f"{error.message.rstrip('.')}. `glasshouse --help` lists the commands."
            raise click.UsageError(words, ctx) from error


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="glasshouse")
@click.option(
    "--plugin",
    "plugin_files",
    type=click.Path(path_type=Path),
    multiple=True,
    is_eager=True,
    callback=PluginFiles.remember,
    expose_value=False,
    help="A .py file that is a plugin too; can be given several times.",
)
def cli() -> None:
    """A feature warehouse for vision models.

    Images go through an encoder and a sparse autoencoder; what comes out is asked in SQL. Start with `glasshouse demo`.
    """


for _command in BUILTIN_COMMANDS:
    cli.add_command(_command)


def run() -> None:
    """Run the command line and exit. Every error of the family ends here, as one line on stderr."""
    sys.exit(exit_code())


def exit_code() -> int:
    """Run the command line; return the exit code."""
    try:
        return int(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _stopped()
    except BrokenPipeError:
        # The reader of our output has seen enough; keep Python from complaining when it flushes at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _say(_explain(error), 1)
    except Exception as error:
        return _code_of(error)


def _code_of(error: Exception) -> int:
    """Say what an error of the family says, or that it is none of it; return the exit code."""
    if _was_interrupted(error):
        return _stopped()
    if os.environ.get(DEBUG_VARIABLE):
        raise error
    if isinstance(error, GlasshouseError):
        return _say(str(error), error.exit_code)
    words = " ".join(str(error).split())[:300]
    return _say(
        f"Unexpected {type(error).__name__}: {words}. This is a fault of glasshouse or of a plugin, not yours; "
        f"{DEBUG_VARIABLE}=1 shows where.",
        1,
    )


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: DuckDB takes the signal during a query and raises errors of its own."""
    while error is not None:
        words = str(error)
        if type(error).__name__ == "InterruptException" or (
            isinstance(error, RuntimeError) and words.startswith("Query interrupted")
        ):
            return True
        error = error.__cause__
    return False


def _stopped() -> int:
    return _say("Stopped. What was finished is kept; run the same command again to go on.", 130)


def _say(message: str, code: int) -> int:
    click.echo(f"glasshouse: {message}", err=True)
    return code


def _explain(error: OSError) -> str:
    """Say in one line what the operating system refused, and what to do."""
    where = f" ({error.filename})" if error.filename else ""
    advice = {
        errno.ENOSPC: "Free some space",
        errno.EDQUOT: "Free some of your quota",
        errno.EFBIG: "Choose a place that takes larger files",
        errno.EROFS: "Choose a place that can be written to",
        errno.EACCES: "Check the permissions",
        errno.EPERM: "Check the permissions",
    }.get(error.errno or 0)
    if advice is None:
        return f"{error.strerror or error}{where}."
    return f"{error.strerror}{where}. {advice}, then run the same command again; what was finished is kept."
