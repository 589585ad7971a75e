"""`glasshouse forget`: remove results of analyses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from glasshouse.cli.options import open_warehouse, warehouse_option
from glasshouse.cli.printing import count
from glasshouse.schema.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from glasshouse.warehouse.results.records import Run


@click.command()
@click.argument("analyzer")
@click.option("--space", metavar="NAME", help="Only results of this space.")
@click.option("--run", "run_id", type=int, metavar="ID", help="Only this run; `glasshouse status --runs` lists them.")
@click.option("--old", is_flag=True, help="Only runs that a newer one has replaced.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@warehouse_option
def forget(analyzer: str, space: str | None, run_id: int | None, old: bool, yes: bool, warehouse: str | None) -> None:
    """Remove results of an analysis.

    ANALYZER is its name, or `all`. Runs are kept until they are forgotten here, replaced ones too.
    """
    opened = open_warehouse(warehouse)
    if space is not None:
        opened.require("space", space)
    runs = opened.runs()
    chosen = _chosen(runs, analyzer, space, run_id, old=old)
    if not chosen:
        click.echo("There is nothing to forget.")
        return
    if not yes:
        lines = ", ".join(f"{run.run_id} ({run.analyzer} on {run.space})" for run in chosen[:5])
        more = f" and {len(chosen) - 5} more" if len(chosen) > 5 else ""
        if not click.confirm(f"Forget {count(len(chosen), 'run')}: {lines}{more}?"):
            click.echo("Nothing was forgotten.")
            raise click.exceptions.Exit(1)
    opened.forget(chosen)
    click.echo(f"Forgot {count(len(chosen), 'run')}.")


def _chosen(runs: list[Run], analyzer: str, space: str | None, run_id: int | None, *, old: bool) -> list[Run]:
    known = {run.analyzer for run in runs}
    if analyzer != "all" and analyzer not in known:
        raise unknown_name("result of an analyzer called", analyzer, known)
    chosen = [
        run
        for run in runs
        if analyzer in ("all", run.analyzer)
        and (space is None or run.space == space)
        and (run_id is None or run.run_id == run_id)
        and not (old and run.is_latest)
    ]
    if run_id is not None and not chosen:
        raise UsageError(f"There is no such run {run_id} of '{analyzer}'. `glasshouse status --runs` lists them.")
    return chosen
