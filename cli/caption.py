"""`glasshouse caption`: an image as a sentence of its named concepts and where they are."""

from __future__ import annotations

from pathlib import Path

import click

from glasshouse.cli.options import json_option, open_warehouse, warehouse_option
from glasshouse.cli.printing import print_json, print_table
from glasshouse.schema.errors import UsageError


@click.command()
@click.argument("image", metavar="IMAGE")
@click.option("--space", metavar="NAME", help="A patch space with names; needed where there are several.")
@click.option("-k", "k", type=click.IntRange(1), default=6, show_default=True, help="How many concepts at most.")
@click.option("--png", type=click.Path(path_type=Path), help="Write the picture with the concepts' boxes to this file.")
@json_option
@warehouse_option
def caption(image: str, space: str | None, k: int, png: Path | None, as_json: bool, warehouse: str | None) -> None:
    """Say what an image shows: its named concepts, and where they are.

    IMAGE is an image_id, a path, the end of a path, or a SHA-256. Needs `glasshouse analyze names`, or labels.

    Example: glasshouse caption 3 --space patches --png caption.png
    """
    from glasshouse.cli.output_file import check_output, writing

    if png is not None:
        check_output(png, "caption.png")
        if png.suffix.lower() != ".png":
            raise UsageError(f"--png writes PNG files, and {png} ends otherwise. Call it {png.with_suffix('.png')}.")
    opened = open_warehouse(warehouse)
    number = int(image) if image.isascii() and image.isdigit() else image
    found = opened.caption(number, space, k)
    if png is not None:
        from glasshouse.warehouse.showing.caption_picture import caption_picture

        with writing(png):
            caption_picture(found, opened.picture(found.image_id)).save(png, "PNG")
        click.echo(f"Wrote {png}.", err=True)
    if as_json:
        print_json(found.as_dict())
        return
    click.echo(found.sentence)
    if found.concepts:
        rows = [(f"{found.space}:{c.feature_id}", c.short_name, c.region, c.share, c.strength) for c in found.concepts]
        click.echo()
        print_table(("feature", "name", "where", "share", "strength"), rows, numeric=("share", "strength"))
