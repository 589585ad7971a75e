"""`glasshouse demo`: a warehouse of a small rendered world, to try everything on."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from glasshouse.cli.options import plugins_of
from glasshouse.cli.printing import count, print_table

if TYPE_CHECKING:
    from glasshouse.plugins.starter.demo import DemoReport
    from glasshouse.plugins.starter.findings import SpaceEnding

NEXT_STEPS = (
    ("what it holds, and what was computed", "glasshouse status -w {root}"),
    ("one feature, with its images and heat maps", "glasshouse show feature {best} -w {root} --png feature.png"),
    ("which feature is a kind or a part of which", "glasshouse show hierarchy --space patches -w {root}"),
    (
        "an image as named concepts, and why it is taken for what it is",
        "glasshouse caption 7 --space patches -w {root}",
    ),
    ("", "glasshouse explain 7 --space patches -w {root} --png why.png"),
    ("which class is where on it", "glasshouse segment 7 --classes green,cyan,grey -w {root} --png where.png"),
    ("features by words", 'glasshouse search "a striped shape" -k 5 -w {root}'),
    (
        "the best-scored features, in SQL",
        'glasshouse sql -w {root} "SELECT space, feature_id, ms, label, r, dimension FROM features '
        'ORDER BY ms DESC LIMIT 10"',
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

    Takes a minute or two and needs no network. It holds a CLS and two patch spaces of sparse features, CLIP and DINOv2
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
    best = _print_findings(report)
    click.echo("\nNext:")
    for what, command in NEXT_STEPS:
        click.echo((f"  # {what}\n" if what else "") + f"  {command.format(root=root, best=best)}")


def _print_findings(report: DemoReport) -> str:
    """Print what was found with the truth beside it, write the report, and name one good feature."""
    from glasshouse.plugins.starter.demo import write_demo_report
    from glasshouse.plugins.starter.findings import ending_of

    endings = [ending_of(report.warehouse, space) for space in report.told]
    for ending in endings:
        _print_space(ending)
    for reason in report.left_out:
        click.echo(f"\nLeft out: {reason}")
    click.echo(f"\nThe same with pictures: {write_demo_report(report.warehouse, endings)}")
    named = [finding.feature for ending in reversed(endings) for finding in ending.best]
    return named[0] if named else "cls:0"


def _print_space(ending: SpaceEnding) -> None:
    from glasshouse.plugins.starter.findings import remark

    click.echo(f"\nSpace {ending.space}: what was found, and what is true of the 20 strongest images")
    if ending.best:
        scored = "MS" if ending.found.best_by == "ms" else "frequency"
        click.echo(f"\n  Best features (by {scored})")
        rows = [(f.feature, f"{f.figure:.2f}", f.label, f.truth) for f in ending.best]
        print_table(("  feature", scored, "label", "truth"), [(f"  {row[0]}", *row[1:]) for row in rows], (scored,))
    for rating, findings in ending.ratings:
        click.echo(
            f"\n  What predicts '{rating.dimension}': {rating.n_significant:,} of {rating.n_tested:,} features have "
            f"q < .05\n  {remark(rating.dimension)}"
        )
        print_table(
            ("  feature", "r", "q", "label", "truth", ""),
            [
                (f"  {f.feature}", f"{f.figure:+.2f}", "" if f.q is None else f"{f.q:.1e}", f.label, f.truth,
                 "planted" if f.is_planted else "")
                for f in findings
            ],
            ("r", "q"),
        )  # fmt: skip
    if ending.searches:
        click.echo("\n  Text search, first hit")
        print_table(
            ("  words", "feature", "cosine", "label", "truth"),
            [(f"  {word}", f.feature, f"{f.figure:.2f}", f.label, f.truth) for word, f in ending.searches.items()],
            ("cosine",),
        )
