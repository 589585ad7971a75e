"""`glasshouse demo`: a warehouse of a small rendered world, to try everything on."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import click

from glasshouse.cli.options import plugins_of
from glasshouse.cli.printing import count

NEXT_STEPS = (
    ("what it holds", "glasshouse status -w {root}"),
    (
        "the features that fire most often, and how strongly",
        'glasshouse sql -w {root} "SELECT space, feature_id, n_active, frequency, max_value FROM features '
        'ORDER BY n_active DESC LIMIT 10"',
    ),
    (
        "which feature knows the colour red: share of red images among those where it fires",
        'glasshouse sql -w {root} "SELECT feature_id, count(*) AS n, avg((image_id IN (SELECT image_id FROM '
        "image_labels WHERE attribute = 'colour' AND value = 'red'))::INT) AS red FROM activations "
        "WHERE space = 'cls' GROUP BY 1 HAVING n >= 20 ORDER BY red DESC, n DESC LIMIT 5\"",
    ),
    ("do all parts agree", "glasshouse check -w {root}"),
    ("your own images", "glasshouse init mine.glasshouse && glasshouse add FOLDER -w mine.glasshouse"),
)


@click.command()
@click.option(
    "--dir",
    "root",
    type=click.Path(path_type=Path),
    default=Path("demo.glasshouse"),
    show_default=True,
    help="The warehouse's folder.",
)
@click.option("--images", "n_images", type=click.IntRange(1), default=2000, show_default=True, help="How many images.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the rendered world.")
@click.pass_context
def demo(ctx: click.Context, root: Path, n_images: int, seed: int) -> None:
    """Build a warehouse of a small rendered world with known truth.

    Takes a minute or two and needs no network. It holds a CLS and a patch space of sparse features, CLIP and DINOv2
    embeddings, and the truth: labels, ratings, captions, masks. The same call again completes what was interrupted.
    """
    from glasshouse.cli.extraction import STOPPING
    from glasshouse.cli.progress import polite_stop, progress_bar
    from glasshouse.plugins.starter.demo import build_demo
    from glasshouse.warehouse.warehouse import Progress

    started = time.monotonic()
    with polite_stop(STOPPING) as stop, ExitStack() as bars:

        def step(name: str) -> Progress:
            bars.close()
            click.echo(f"{name} …", err=True)
            return bars.enter_context(progress_bar(name))

        report = build_demo(root, n_images, seed, plugins_of(ctx), step, stop)
    if report.stopped:
        click.echo("Stopped. Run the same command again to go on.", err=True)
        raise click.exceptions.Exit(130)
    images = count(report.warehouse.images().height, "image")
    click.echo(f"Built {root} with {images} in {time.monotonic() - started:.0f} s.\n")
    from glasshouse.cli.status import print_summary

    print_summary(report.warehouse)
    click.echo("\nNext:")
    for what, command in NEXT_STEPS:
        click.echo(f"  # {what}\n  {command.format(root=root)}")
