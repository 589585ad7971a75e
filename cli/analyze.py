"""`glasshouse analyze NAME`: one command for each analyzer, made from its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from glasshouse.cli.options import json_option, open_warehouse, plugins_of, warehouse_option
from glasshouse.cli.printing import cell, count, print_json
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.analyzer import Analyzer
    from glasshouse.plugins.runner import AnalysisReport, Runner
    from glasshouse.warehouse.results.records import Run
    from glasshouse.warehouse.warehouse import Progress


class AnalyzeGroup(click.Group):
    """Its commands are the analyzers that the plugins bring."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name every analyzer, in the order of registration."""
        return [name for name, _, _ in plugins_of(ctx).analyzers]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make the command of one analyzer."""
        analyzers = plugins_of(ctx).analyzers
        return _command_of(cmd_name, analyzers.get(cmd_name, "`glasshouse analyze --help` says what they do."))


def _space_option(command: Any) -> Any:
    return click.option(
        "--space", "spaces", multiple=True, metavar="NAME", help="The space; can be repeated. By default all that fit."
    )(command)


def _force_option(command: Any) -> Any:
    return click.option("--force", is_flag=True, help="Compute it although an identical result is there.")(command)


@click.group(cls=AnalyzeGroup, invoke_without_command=True)
@click.option("--all", "run_everything", is_flag=True, help="Run every analysis that is possible, in the right order.")
@_space_option
@_force_option
@json_option
@warehouse_option
@click.pass_context
def analyze(
    ctx: click.Context,
    run_everything: bool,
    spaces: tuple[str, ...],
    force: bool,
    as_json: bool,
    warehouse: str | None,
) -> None:
    """Analyse the features of spaces.

    Each result becomes a view of the analyzer's name. What an analysis reads from others is run before it; a second
    identical run does nothing.

    Example: glasshouse analyze monosemanticity --variant all && glasshouse sql "FROM monosemanticity LIMIT 5"
    """
    if ctx.invoked_subcommand is not None:
        if run_everything or spaces or force or as_json or warehouse:
            raise UsageError(f"Options of `analyze {ctx.invoked_subcommand}` come after its name.")
        return
    if not run_everything:
        raise UsageError("Name an analysis, or give --all. `glasshouse analyze --help` lists them.")
    from glasshouse.plugins.runner import chosen_spaces

    opened = open_warehouse(warehouse)
    names = chosen_spaces(opened, spaces)

    def run(step: Callable[[str], Progress]) -> Iterable[AnalysisReport]:
        runner = plugins_of(ctx).runner(opened, step)
        for space in names:
            yield from runner.run_all(space, force=force)

    _run_and_report(run, as_json)


def _command_of(name: str, analyzer: Analyzer[Any]) -> click.Command:
    from glasshouse.cli.parameters import given_values, options_of

    def callback(
        spaces: tuple[str, ...], force: bool, dry_run: bool, as_json: bool, warehouse: str | None, **_: Any
    ) -> None:
        ctx = click.get_current_context()
        given = given_values(ctx, analyzer.parameters)
        opened = open_warehouse(warehouse)
        if dry_run:
            _preview(plugins_of(ctx).runner(opened), name, spaces, given)
            return

        def run(step: Callable[[str], Progress]) -> Iterable[AnalysisReport]:
            return plugins_of(ctx).runner(opened, step).run_on(name, spaces, given, force=force)

        _run_and_report(run, as_json, left_out_is_a_result=False)

    wrapped = _space_option(_force_option(_dry_run_option(json_option(warehouse_option(callback)))))
    shared = list(reversed(wrapped.__click_params__))
    words = (type(analyzer).__doc__ or "").strip()
    return click.Command(
        name,
        params=[*options_of(name, analyzer.parameters), *shared],
        callback=callback,
        help=words,
        short_help=analyzer.summary,
    )


def _preview(runner: Runner, name: str, spaces: Sequence[str], given: Mapping[str, Any]) -> None:
    """Say what would be done on each space; of several that were not named, why some are left out."""
    from glasshouse.plugins.runner import chosen_spaces

    chosen = chosen_spaces(runner.warehouse, spaces)
    n_left_out = 0
    for space in chosen:
        try:
            click.echo(runner.preview(name, space, given))
        except UsageError as error:
            n_left_out += 1
            if spaces or n_left_out == len(chosen):
                raise
            click.echo(f"{space}: {name}: left out: {error}", err=True)


def _dry_run_option(command: Any) -> Any:
    return click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")(command)


def _run_and_report(
    run: Callable[[Callable[[str], Progress]], Iterable[AnalysisReport]],
    as_json: bool,
    *,
    left_out_is_a_result: bool = True,
) -> None:
    """Run with a bar for each analysis, and print what came of it; what was left out may go to stderr."""
    from glasshouse.cli.progress import progress_bar

    reports: list[AnalysisReport] = []
    with ExitStack() as bars:

        def step(title: str) -> Progress:
            bars.close()
            return bars.enter_context(progress_bar(title, "steps"))

        for report in run(step):
            reports.append(report)
            if not as_json:
                bars.close()
                click.echo(_line(report), err=bool(report.left_out) and not left_out_is_a_result)
    if as_json:
        print_json([asdict(report) for report in reports])
    if any(report.failure for report in reports):
        raise click.exceptions.Exit(1)
    if reports and all(report.run is None for report in reports):
        raise UsageError("Nothing could be analysed.")


def _line(report: AnalysisReport) -> str:
    start = f"{report.space}: {report.analyzer}: "
    if report.failure:
        return f"{start}failed: {report.failure}"
    if report.run is None:
        return f"{start}left out: {report.left_out}"
    if not report.is_new:
        return f"{start}nothing to do, run {report.run.run_id} is up to date (--force computes it anew)"
    run = report.run
    what = run.notes.get("summary") or count(run.n_rows, "row")
    more = f"; {run.notes['incomplete']}: the same command goes on" if "incomplete" in run.notes else ""
    if report.replaced is not None:
        more += f"; in place of run {report.replaced.run_id}, which had {_differences(report.replaced, run)}"
    return f"{start}{what} in {run.duration_s:.1f} s (run {run.run_id}){more}"


def _differences(old: Run, new: Run) -> str:
    """Say with which parameters the old run was made, as far as the new one's are others."""
    names = [name for name in new.parameters if old.parameters.get(name) != new.parameters[name]]
    return ", ".join(f"{name}={cell(old.parameters.get(name)) or 'none'}" for name in names) or "other parameters"
