"""`glasshouse check`: do the parts of a warehouse agree."""

from __future__ import annotations

import click

from glasshouse.cli.options import json_option, open_warehouse, warehouse_option
from glasshouse.cli.printing import print_json


@click.command()
@click.option("--repair", is_flag=True, help="Mend what can be mended.")
@click.option("--hashes", is_flag=True, help="Read everything: images, spaces and vectors, with their checksums; slow.")
@json_option
@warehouse_option
def check(repair: bool, hashes: bool, as_json: bool, warehouse: str | None) -> None:
    """Check that all parts of a warehouse agree, and repair.

    Compares the catalogue with the spaces, the vectors, the shards and the files on disk. Exits with 1 when something
    is wrong that was not mended.
    """
    from glasshouse.warehouse.checking.check import check as check_warehouse

    opened = open_warehouse(warehouse)
    report = check_warehouse(opened.layout, repair=repair, hashes=hashes)
    if as_json:
        parts = {"repaired": report.repaired, "remaining": report.remaining}
        print_json(
            {
                name: [{"where": p.where, "what": p.what, "remedy": p.remedy} for p in found]
                for name, found in parts.items()
            }
        )
    else:
        for problem in report.repaired:
            click.echo(f"repaired: {problem.where}: {problem.what}; {problem.remedy}")
        for problem in report.remaining:
            advice = "`glasshouse check --repair` helps" if problem.repair is not None else problem.remedy
            click.echo(f"{problem.where}: {problem.what}; {advice}")
        if not report.remaining:
            click.echo(f"{opened.root} is in order.")
    if report.remaining:
        raise click.exceptions.Exit(1)
