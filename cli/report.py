"""`glasshouse report`: what a warehouse holds and what was found, as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from glasshouse.cli.options import open_warehouse, warehouse_option


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True,
    help="The page's file.",
)  # fmt: skip
@click.option("--space", "spaces", multiple=True, metavar="NAME", help="Only this space; repeat for several.")
@click.option("-n", "n", type=click.IntRange(1), default=12, show_default=True, help="Features in each list.")
@click.option("-k", "k", type=click.IntRange(1), default=6, show_default=True, help="Pictures of each feature.")
@click.option("--search", "words", multiple=True, metavar="WORDS", help="Show what these find; repeat for several.")
@warehouse_option
def report(
    output: Path, spaces: tuple[str, ...], n: int, k: int, words: tuple[str, ...], warehouse: str | None
) -> None:
    """Write what was found as one HTML page.

    The page holds its pictures and needs no network: spaces, best-scored features, what predicts each rating, tiers,
    labels, thresholds, runs. It shows what was computed; `glasshouse analyze --all` computes what is possible.

    Example: glasshouse report -o report.html --search striped --search "a red star"
    """
    from glasshouse.cli.output_file import check_output, writing
    from glasshouse.cli.progress import progress_bar
    from glasshouse.warehouse.showing.report import ReportOptions, chosen_spaces, write_report
    from glasshouse.warehouse.showing.searched import hits_for, searchable
    from glasshouse.warehouse.showing.thumbnails import Tally

    check_output(output, "report.html")
    opened = open_warehouse(warehouse)
    tally = Tally()
    names = chosen_spaces(opened, spaces)
    searched = (names if spaces else searchable(opened, names)) if words else []
    if words and len(searched) < len(names):
        left_out = ", ".join(space for space in names if space not in searched)
        click.echo(f"No search in {left_out}: run `glasshouse analyze concepts` on it first.", err=True)
    hits = {space: hits_for(opened, space, words) for space in searched}
    with progress_bar("report") as progress, writing(output):
        size = write_report(opened, output, ReportOptions(names, n, k, hits), progress, tally)
    click.echo(f"Wrote {output} ({size / 1e6:.1f} MB).", err=True)
    if tally.missing:
        click.echo(f"{tally}.", err=True)
