"""`glasshouse segment`: one picture, which class is where, and which concepts say so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from glasshouse.cli.options import json_option, open_warehouse, warehouse_option
from glasshouse.cli.printing import print_json, print_table
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.showing.plain import shortened

if TYPE_CHECKING:
    from glasshouse.plugins.segmentation.one import Concept, Segmented

NAME = 40
"""Characters of a concept's name in the table; JSON has all of it."""


@click.command()
@click.argument("image", metavar="IMAGE_OR_FILE")
@click.option("--classes", required=True, metavar="A,B,C", help="Texts of the classes, with commas between them.")
@click.option("--space", metavar="NAME", help="The space; by default the only one in CLIP's space.")
@click.option(
    "--background", default="", metavar="A,B", help="Texts of what is no class: where they win is background."
)
@click.option(
    "--threshold", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True,
    help="Where no class is as probable as this is background too.",
)  # fmt: skip
@click.option("--template", "templates", multiple=True, metavar="TEXT", help='Texts with {} for the class. ["a {}"]')
@click.option("--windows", is_flag=True, help="Cut the picture into overlapping windows: for large and wide pictures.")
@click.option("-k", "k", type=click.IntRange(1), default=3, show_default=True, help="How many concepts of each class.")
@click.option("--png", type=click.Path(path_type=Path), help="Draw the classes over the picture into this PNG file.")
@json_option
@warehouse_option
def segment(
    image: str,
    classes: str,
    space: str | None,
    background: str,
    threshold: float,
    templates: tuple[str, ...],
    windows: bool,
    k: int,
    png: Path | None,
    as_json: bool,
    warehouse: str | None,
) -> None:
    """Say which class is where on a picture, and which concepts say so.

    The picture is any file, or an image of the warehouse by its image_id or path. The space must be one of patches
    in CLIP's space (docs/models.md, dinoised). `glasshouse analyze segment` does the same for all images.

    Example: glasshouse segment photo.jpg --classes "cat,dog,sofa" --background "wall,floor" --png photo-classes.png
    """
    from glasshouse.cli.output_file import check_output
    from glasshouse.plugins.segmentation.one import Ask, chosen_space, segmented
    from glasshouse.warehouse.search.pictures import find_picture, opened

    if png is not None:
        check_output(png, "classes.png")
        if png.suffix.lower() != ".png":
            raise UsageError(f"--png writes PNG files, and {png} ends otherwise. Call it {png.with_suffix('.png')}.")
    names = parted(classes)
    if not names:
        raise UsageError('Name at least one class, e.g. --classes "cat,dog".')
    ask = Ask(names, templates or ("a {}",), parted(background), threshold, windows, k)
    found_in = open_warehouse(warehouse)
    chosen = chosen_space(found_in, space)
    picture = opened(found_in, find_picture(found_in, image))
    found = segmented(found_in, picture, chosen, ask)
    if png is not None:
        _draw(found, png)
    if as_json:
        print_json(found.as_dict())
    else:
        _print(found)
    if not (ask.background or threshold):
        click.echo("Every patch gets one of the classes; name what is none of them with --background.", err=True)


def parted(text: str) -> tuple[str, ...]:
    """Return the texts between the commas, without spaces around them."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _draw(found: Segmented, png: Path) -> None:
    from glasshouse.cli.output_file import writing
    from glasshouse.plugins.segmentation.drawing import drawing

    with writing(png):
        drawing(found).save(png, "PNG")
    click.echo(f"Wrote {png}.", err=True)


def _print(found: Segmented) -> None:
    rows: list[tuple[str, str, int | None, str]] = [
        (part.name, f"{part.area:.1%}", part.n_patches, ", ".join(_named(found.space, one) for one in part.concepts))
        for part in sorted(found.parts, key=lambda part: -part.area)
    ]
    if found.background_area > 0:
        rows.append(("(background)", f"{found.background_area:.1%}", None, ""))
    print_table(("class", "area", "patches", "concepts"), rows, numeric=("area", "patches"))
    if found.seen < 1:
        click.echo(f"The encoder sees {found.seen:.0%} of the picture; --windows covers all of it.", err=True)


def _named(space: str, concept: Concept) -> str:
    label = f" {shortened(concept.label, NAME)}" if concept.label else ""
    return f"{space}:{concept.feature_id}{label} ({concept.share:.0%})"
