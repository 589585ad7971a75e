"""`glasshouse show`: one feature or one image, as text, as JSON, or as a contact sheet; and a hierarchy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from glasshouse.cli.options import feature_name, json_option, open_warehouse, warehouse_option
from glasshouse.cli.printing import print_json
from glasshouse.cli.show_hierarchy import hierarchy
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

    from glasshouse.warehouse.showing.cards import FeatureCard, ImageCard
    from glasshouse.warehouse.showing.thumbnails import Tally

png_option = click.option("--png", type=click.Path(path_type=Path), help="Write a contact sheet to this PNG file.")


@click.group()
def show() -> None:
    """Look at one feature, one image, or the hierarchy of a space's features."""


@show.command()
@click.argument("feature", metavar="SPACE:ID")
@click.option("-k", "k", type=click.IntRange(1), default=10, show_default=True, help="How many images.")
@click.option("--crops", is_flag=True, help="The sheet shows the cut-outs of `examples --crop` instead of heat maps.")
@png_option
@json_option
@warehouse_option
def feature(feature: str, k: int, crops: bool, png: Path | None, as_json: bool, warehouse: str | None) -> None:
    """Show a feature: activity, scores, tier, labels, correlations, its strongest images, similar features.

    Example: glasshouse show feature patches:12 --png sheet.png
    """
    if crops and png is None:
        raise UsageError("--crops is for the contact sheet: give --png FILE too.")
    space, number = feature_name(feature)
    opened = open_warehouse(warehouse)
    card = opened.feature(space, number, k)
    if not crops:
        _give(card, png, as_json)
        return
    from glasshouse.warehouse.showing.cut_outs import cut_out_sheet, cut_outs

    found = cut_outs(opened, space, number, k)
    _give(card, png, as_json, lambda tally: cut_out_sheet(card, found, tally))


@show.command()
@click.argument("image", metavar="ID_OR_PATH")
@click.option("-k", "k", type=click.IntRange(1), default=10, show_default=True, help="How many features of each space.")
@png_option
@json_option
@warehouse_option
def image(image: str, k: int, png: Path | None, as_json: bool, warehouse: str | None) -> None:
    """Show an image: captions, ratings, labels, and its strongest features.

    The image is named by its image_id, path, the end of its path, or SHA-256.
    """
    opened = open_warehouse(warehouse)
    card = opened.image(int(image) if image.isascii() and image.isdigit() else image, k)
    _give(card, png, as_json)


show.add_command(hierarchy)


def _give(
    card: FeatureCard | ImageCard, png: Path | None, as_json: bool, draw: Callable[[Tally], Image] | None = None
) -> None:
    if png is not None:
        _write_sheet(draw or _sheet_of(card), png)
    if as_json:
        print_json(card.as_dict())
    else:
        click.echo(str(card))


def _sheet_of(card: FeatureCard | ImageCard) -> Callable[[Tally], Image]:
    from glasshouse.warehouse.showing.cards import FeatureCard
    from glasshouse.warehouse.showing.sheet import feature_sheet, image_sheet

    if isinstance(card, FeatureCard):
        return lambda tally: feature_sheet(card, tally)
    return lambda tally: image_sheet(card, tally=tally)


def _write_sheet(draw: Callable[[Tally], Image], png: Path) -> None:
    from glasshouse.cli.output_file import check_output
    from glasshouse.warehouse.showing.thumbnails import Tally

    if png.is_dir():
        check_output(png, "sheet.png")
    if png.suffix.lower() != ".png":
        raise UsageError(f"--png writes PNG files, and {png} ends otherwise. Call it {png.with_suffix('.png')}.")
    check_output(png, "sheet.png")
    tally = Tally()
    draw(tally).save(png, "PNG")
    click.echo(f"Wrote {png}.", err=True)
    if tally.missing:
        click.echo(f"{tally}.", err=True)
