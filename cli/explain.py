"""`glasshouse explain`: why an image is taken for what it is, as named concepts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from glasshouse.cli.options import json_option, open_warehouse, warehouse_option
from glasshouse.cli.output_file import check_output, writing
from glasshouse.cli.printing import print_json, print_table
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.warehouse.showing.explanation import Explanation


@click.command()
@click.argument("image", metavar="ID_OR_PATH")
@click.option("--space", metavar="NAME", help="Whose concepts; by default those of the newest probe.")
@click.option("--attribute", metavar="NAME", help="What is told; by default what the newest probe tells.")
@click.option("-k", "k", type=click.IntRange(1), default=10, show_default=True, help="How many concepts are shown.")
@click.option("--png", type=click.Path(path_type=Path), help="Write the image and its concepts to this PNG file.")
@json_option
@warehouse_option
def explain(
    image: str,
    space: str | None,
    attribute: str | None,
    k: int,
    png: Path | None,
    as_json: bool,
    warehouse: str | None,
) -> None:
    """Say why an image is taken for what it is.

    The class that the newest `glasshouse analyze probe` gives the image, and what each concept contributes to it and to
    the runner-up: weight times activation. All contributions together are the logit.

    Example: glasshouse explain 12 --space patches --attribute shape --png why.png
    """
    from glasshouse.warehouse.showing.explanation import explain as explained

    if png is not None:
        check_output(png, "why.png")
        if png.suffix.lower() != ".png":
            raise UsageError(f"--png writes PNG files, and {png} ends otherwise. Call it {png.with_suffix('.png')}.")
    opened = open_warehouse(warehouse)
    found = explained(opened, int(image) if image.isascii() and image.isdigit() else image, space, attribute)
    if png is not None:
        from glasshouse.warehouse.showing.explanation_sheet import explanation_sheet
        from glasshouse.warehouse.showing.thumbnails import Tally

        tally = Tally()
        with writing(png):
            explanation_sheet(opened, found, k, tally).save(png, "PNG")
        click.echo(f"Wrote {png}.", err=True)
        if tally.missing:
            click.echo(f"{tally}.", err=True)
    if as_json:
        print_json(found.as_dict())
        return
    click.echo("\n".join(found.head()))
    if found.parts:
        click.echo()
        columns = ("feature", "name", "activation", found.predicted, found.runner_up, "difference")
        print_table(columns, _rows(found, k), numeric=columns[2:])


def _rows(found: Explanation, k: int) -> list[tuple[object, ...]]:
    """Return a row for each of the k first concepts, one for all others, and the sums."""
    rows: list[tuple[object, ...]] = [
        (
            f"{found.space}:{part.feature_id}",
            part.name,
            part.activation,
            part.contribution,
            part.contribution_runner_up,
            part.difference,
        )
        for part in found.parts[:k]
    ]
    rest = found.parts[k:]
    if rest:
        sums = [sum(getattr(part, name) for part in rest) for name in ("contribution", "contribution_runner_up")]
        rows.append((f"{len(rest)} more", None, None, *sums, sums[0] - sums[1]))
    first, second = found.logits[found.predicted], found.logits[found.runner_up]
    return [*rows, ("logit", None, None, first, second, first - second)]
