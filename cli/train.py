"""`glasshouse train`: a sparse autoencoder from the activations of a warehouse's images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glasshouse.cli.extraction import tuning_options
from glasshouse.cli.options import (
    chosen_device,
    device_option,
    json_option,
    open_warehouse,
    plugins_of,
    warehouse_option,
)
from glasshouse.cli.printing import count, print_json, print_table
from glasshouse.cli.progress import polite_stop, progress_bar
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.training.request import Report

STOPPING = "Stopping after this step; Ctrl-C again stops at once."
EXIT_STOPPED = 130
MOST_LINES = 10


@click.command()
@click.option("--encoder", required=True, metavar="SPEC", help="The encoder, e.g. open_clip:ViT-B-32/openai.")
@click.option("--hook", required=True, metavar="HOOK", help="Hook point, e.g. blocks.8.resid_post.")
@click.option("--tokens", default="cls", show_default=True, metavar="POLICY", help="cls, patches, mean, max or sum.")
@click.option("--features", "n_features", required=True, type=click.IntRange(1), help="Size of the dictionary.")
@click.option("--out", "folder", required=True, type=click.Path(), help="Folder of the result.")
@click.option("--kind", default="batchtopk", show_default=True, metavar="KIND", help="topk, batchtopk or matryoshka.")
@click.option("--prefixes", metavar="LIST", help="Matryoshka: sizes 64,512,4096 or shares of groups .1,.3,.6.")
@click.option("--l0", type=click.IntRange(1), help="Active features for each vector. [12; features/4 if that is less]")
@click.option(
    "--epochs", type=click.FloatRange(0, min_open=True), help="Passes over the images. [3, in 2,000 steps at least]"
)
@click.option("--steps", type=click.IntRange(1), help="Steps of the optimizer, instead of --epochs.")
@click.option("--batch", type=click.IntRange(1), help="Vectors a step. [4096 of patches, else 1024]")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="The highest. [2e-4·√(16384/features)]")
@click.option("--held-out", default=0.05, show_default=True, type=click.FloatRange(0, 0.5, min_open=True),
              help="Share of the images to measure on, never trained on.")  # fmt: skip
@click.option("--buffer", default=1024, show_default=True, type=click.IntRange(1), help="MiB of memory for vectors.")
@click.option("--disk", default=16_384, show_default=True, type=click.IntRange(1),
              help="MiB on disk, in --out, when they do not fit into memory.")  # fmt: skip
@click.option("--checkpoint-every", default=200, show_default=True, type=click.IntRange(1), help="Steps.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of weights, orders, split.")
@tuning_options
@device_option
@json_option
@warehouse_option
def train(
    encoder: str,
    folder: str,
    device: str,
    as_json: bool,
    warehouse: str | None,
    **options: Any,
) -> None:
    """Train a sparse autoencoder on the images of a warehouse.

    Activations are streamed from the images through a bounded buffer. The result is --out FOLDER, for --sae FOLDER.
    The same command goes on where an interrupted one ended.

    Example: glasshouse train --encoder starter:clip --hook blocks.2.resid_post --tokens patches --features 512
    --kind matryoshka --l0 6 --out sae-mine
    """
    from glasshouse.plugins.training.request import Request
    from glasshouse.plugins.training.train import train as run

    if not folder.strip():
        raise UsageError("--out is empty. Name a folder, e.g. --out sae-mine.")
    opened = open_warehouse(warehouse)
    request = Request(**options)
    loaded = plugins_of(click.get_current_context()).load_encoder(encoder, chosen_device(device))
    with polite_stop(STOPPING) as stop:
        report = run(opened.layout, loaded, request, Path(folder), stop=stop, bar=progress_bar, warn=_warn)
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report, Path(folder))
    if report.file is None:
        click.echo(
            f"Stopped at step {report.step:,} of {report.steps:,}. Run the same command again to go on.", err=True
        )
        raise click.exceptions.Exit(EXIT_STOPPED)


def _warn(words: str) -> None:
    click.echo(words, err=True)


def _print(report: Report, folder: Path) -> None:
    """The curves in a few lines, what was left out, and what came of it."""
    if report.resumed_at is not None:
        click.echo(f"Went on from step {report.resumed_at:,}.")
    if report.curves:
        _print_curves(_some(report.curves))
    if report.n_failed:
        click.echo(f"{count(report.n_failed, 'image')} could not be read and took no part.")
    if report.n_not_finite:
        click.echo(f"{count(report.n_not_finite, 'vector')} with NaN or infinity were left out.")
    if report.file is None:
        return
    if report.was_done:
        click.echo(f"{report.file} is finished already; it was made with the same settings.")
    found = report.figures
    click.echo(
        f"Held out ({count(report.n_held_out, 'image')}, {count(found['n_rows'], 'vector')}): explained variance "
        f"{found['explained_variance']:.3f}, L0 {found['l0']:.2f}, cosine {found['cosine']:.3f}, "
        f"{found['dead_share']:.1%} of the features silent."
    )
    if found["prefixes"]:
        parts = (f"{int(size):,}: {value:.3f}" for size, value in found["prefixes"].items())
        click.echo(f"Explained variance by prefix: {', '.join(parts)}.")
    click.echo(f"Wrote {report.file}. Use it with --sae {folder}; `glasshouse sae inspect {folder}` tests it.")


def _print_curves(points: Sequence[dict[str, Any]]) -> None:
    columns = ("step", "loss", "explained variance", "L0", "silent", "idle")
    print_table(
        columns,
        [
            (
                f"{point['step']:,}",
                f"{point['loss']:.4f}",
                f"{point['explained_variance']:.3f}",
                f"{point['l0']:.2f}",
                f"{point['dead_share']:.1%}",
                f"{point['idle_share']:.1%}",
            )
            for point in points
        ],
        numeric=columns,
    )


def _some(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ten of the points, evenly spread, with the last."""
    n_points = len(points)
    n_shown = min(n_points, MOST_LINES)
    return [points[(i + 1) * n_points // n_shown - 1] for i in range(n_shown)]
