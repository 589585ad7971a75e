"""What `extract` and `embed` share: running with a bar and a polite stop, and saying what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from glasshouse.cli.printing import count
from glasshouse.cli.progress import polite_stop, progress_bar

if TYPE_CHECKING:
    from glasshouse.plugins.contracts import PresetSpace
    from glasshouse.warehouse.extraction.extract import ExtractReport
    from glasshouse.warehouse.warehouse import Warehouse

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

STOPPING = "Stopping after this batch; Ctrl-C again stops at once."


def tuning_options(command: Decorated) -> Decorated:
    """Add `--batch-size` and `--workers`."""
    command = click.option(
        "--workers", type=click.IntRange(1), help="Threads that decode pictures. [cores, at most 8]"
    )(command)
    return click.option(
        "--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Images per forward pass."
    )(command)


def run_extraction(
    warehouse: Warehouse,
    encoder: str,
    spaces: Sequence[PresetSpace],
    embedding: str | None,
    *,
    batch_size: int,
    workers: int | None,
    device: str,
    keep: int | Sequence[int | None] | None = None,
) -> ExtractReport:
    """Load the models, extract with a progress bar, stop after a batch on Ctrl-C."""
    with polite_stop(STOPPING) as stop, progress_bar("extracting") as progress:
        return warehouse.extract(
            encoder,
            [(space.name, space.hook, space.tokens, space.sae) for space in spaces],
            embedding,
            keep=keep,
            batch_size=batch_size,
            workers=workers,
            device=device,
            stop=stop,
            progress=progress,
        )


def report_extraction(warehouse: Warehouse, report: ExtractReport) -> None:
    """Say what an extraction did; exit with 130 when it was stopped."""
    for complaint in report.complaints:
        click.echo(f"warning: {complaint}", err=True)
    if report.stopped:
        click.echo(
            f"Stopped after {count(report.n_computed, 'image')} of this run. Run the same command again to go on.",
            err=True,
        )
        raise click.exceptions.Exit(130)
    for name, n_new in report.new_images.items():
        click.echo(f"{name}: {count(n_new, 'new image')}" if n_new else f"{name}: up to date")
    if report.n_failed:
        click.echo(
            f"{count(report.n_failed, 'image')} could not be read: "
            "glasshouse sql \"FROM failures WHERE stage = 'extract'\""
        )
