"""`glasshouse status`: what a warehouse holds and what is under way."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from glasshouse.cli.options import json_option, open_warehouse, warehouse_option
from glasshouse.cli.printing import cell, count, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from glasshouse.warehouse.summary import RunSummary, SpaceSummary
    from glasshouse.warehouse.warehouse import Warehouse


@click.command()
@click.option(
    "--runs",
    "with_old_runs",
    is_flag=True,
    help="List every run of an analysis, replaced ones too, with its parameters.",
)
@json_option
@warehouse_option
def status(with_old_runs: bool, as_json: bool, warehouse: str | None) -> None:
    """Say what the warehouse holds, what is under way and what is stale.

    A result is stale when something that it was computed from has changed since, e.g. by new images.
    """
    opened = open_warehouse(warehouse)
    if as_json:
        from glasshouse.warehouse.summary import summarise

        print_json(asdict(summarise(opened.layout)))
    else:
        print_summary(opened, with_old_runs=with_old_runs)


def print_summary(warehouse: Warehouse, *, with_old_runs: bool = False) -> None:
    """Print what a warehouse holds."""
    from glasshouse.warehouse.summary import summarise

    summary = summarise(warehouse.layout)
    click.echo(f"{warehouse.root}  ({summary.size_mb:,.1f} MB)")
    parts = [count(summary.tables["images"], "image")]
    parts += [f"{n:,} {name.replace('_', ' ')}" for name, n in summary.tables.items() if n and name != "images"]
    click.echo(", ".join(parts))
    if summary.spaces:
        click.echo()
        _print_spaces(summary.spaces)
    if summary.embeddings:
        click.echo()
        print_table(
            ("embedding", "encoder", "width", "images", "state"),
            [(e.name, e.encoder, e.width, e.n_images, e.state) for e in summary.embeddings],
            numeric=("width", "images"),
        )
    runs = [run for run in summary.runs if with_old_runs or run.state != "replaced"]
    if runs:
        click.echo()
        # Parameters make long lines; who lists every run wants to tell them apart by these.
        columns = ("run", "analysis", "space", "rows", "computed (UTC)", "state", "parameters")
        print_table(
            columns if with_old_runs else columns[:-1],
            [_row(run) if with_old_runs else _row(run)[:-1] for run in runs],
            numeric=("run", "rows"),
        )
    stale = sorted({run.analyzer for run in runs if run.state == "stale"})
    if stale:
        names = ", ".join(stale)
        click.echo(f"\nStale, since what they read has changed: {names}. `glasshouse analyze --all` renews them.")


def _print_spaces(spaces: Sequence[SpaceSummary]) -> None:
    columns: list[Any] = [
        "space",
        "encoder",
        "hook",
        "tokens",
        "SAE",
        "features",
        "images",
        "activations",
        "keep",
        "state",
    ]
    rows: list[list[Any]] = [
        [
            s.name,
            s.encoder,
            s.hook,
            s.tokens,
            s.sae,
            s.n_features,
            s.n_images,
            s.n_activations,
            s.keep or "all",
            s.state,
        ]
        for s in spaces
    ]
    if all(space.keep is None for space in spaces):
        place = columns.index("keep")
        for row in (columns, *rows):
            del row[place]
    print_table(columns, rows, numeric=("features", "images", "activations", "keep"))


def _row(run: RunSummary) -> tuple[Any, ...]:
    computed = f"{run.started_at:%Y-%m-%d %H:%M}"
    return (run.run_id, run.analyzer, run.space, run.n_rows, computed, run.state, _words(run.parameters))


def _words(parameters: dict[str, Any]) -> str:
    """Return parameters as the command line would take them, those without a value left out."""
    shown = {name: value for name, value in parameters.items() if value not in (None, "", [])}
    return " ".join(f"{name}={cell(value)}" for name, value in shown.items())
