"""`glasshouse add`: images and what is known about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from glasshouse.cli.options import json_option, open_warehouse, warehouse_option
from glasshouse.cli.printing import count, print_json

if TYPE_CHECKING:
    from glasshouse.warehouse.intake.report import AddReport, RowCounts


@click.command()
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--ratings", multiple=True, metavar="FILE", help="A table of ratings, wide or long.")
@click.option("--captions", multiple=True, metavar="FILE", help="A table of captions, or COCO captions.")
@click.option("--labels", multiple=True, metavar="FILE", help="A table of classes or attributes, wide or long.")
@click.option("--annotations", multiple=True, metavar="FILE", help="COCO instances: boxes and masks.")
@click.option("--image-column", metavar="NAME", help="The column that names the images, instead of finding it.")
@click.option("--image-root", metavar="DIR", help="The folder that file names in tables start from.")
@click.option("--strict", is_flag=True, help="Exit with 1 when a file or a row could not be used.")
@json_option
@warehouse_option
def add(
    paths: tuple[str, ...],
    ratings: tuple[str, ...],
    captions: tuple[str, ...],
    labels: tuple[str, ...],
    annotations: tuple[str, ...],
    image_column: str | None,
    image_root: str | None,
    strict: bool,
    as_json: bool,
    warehouse: str | None,
) -> None:
    """Add images, and tables that speak of them.

    PATH is a folder (searched to its bottom), an image, a table with a column of paths or URLs, a COCO JSON or a
    webdataset tar. The same call again changes nothing. What cannot be used is kept in the tables failures and
    rejected_rows, with its reason.
    """
    from glasshouse.cli.progress import progress_bar

    if not (paths or ratings or captions or labels or annotations):
        raise click.UsageError("Nothing to add: give a PATH, or a table with --ratings, --captions, …")
    opened = open_warehouse(warehouse)
    with progress_bar("adding") as progress:
        report = opened.add(
            paths,
            ratings=ratings,
            captions=captions,
            labels=labels,
            annotations=annotations,
            image_column=image_column,
            image_root=image_root,
            progress=progress,
        )
    if as_json:
        print_json(asdict(report))
    else:
        _print(report)
    if strict and not report.is_clean:
        raise click.exceptions.Exit(1)


def _print(report: AddReport) -> None:
    """Say what came of it, in a few lines."""
    if report.n_new_images or report.n_known or report.n_failed or report.n_duplicate_pictures:
        click.echo(", ".join(_image_counts(report)))
    for example in report.failure_examples:
        click.echo(f"  unusable: {example}")
    if report.n_failed > len(report.failure_examples):
        click.echo('  all of them: glasshouse sql "FROM failures"')
    for path in report.changed_paths[:5]:
        click.echo(f"  changed since it was added, now a new image: {path}")
    for rows in report.rows:
        _print_rows(rows)
    for note in report.notes:
        click.echo(f"note: {note}")
    if report.n_rejected:
        click.echo('all rejected rows: glasshouse sql "FROM rejected_rows"')


def _image_counts(report: AddReport) -> Iterator[str]:
    yield count(report.n_new_images, "new image")
    if report.n_known:
        yield f"{report.n_known:,} known already"
    if report.n_duplicate_pictures:
        yield f"{count(report.n_duplicate_pictures, 'further path')} of pictures that are there"
    if report.n_failed:
        yield f"{report.n_failed:,} unusable"
    if report.n_skipped:
        yield f"{count(report.n_skipped, 'other file')} passed over"


def _print_rows(rows: RowCounts) -> None:
    missing = f", {rows.n_missing:,} empty" if rows.n_missing else ""
    rejected = f", {rows.n_rejected:,} rejected" if rows.n_rejected else ""
    click.echo(f"{rows.kind}: {rows.n_used:,} of {count(rows.n_rows, 'row')} used{missing}{rejected} ({rows.source})")
    for example in rows.examples:
        click.echo(f"  rejected: {example}")
