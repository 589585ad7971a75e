"""`glasshouse drop`: remove a space or an embedding."""

from __future__ import annotations

import click

from glasshouse.cli.options import open_warehouse, warehouse_option


@click.command()
@click.argument("kind", type=click.Choice(["space", "embedding"]))
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@warehouse_option
def drop(kind: str, name: str, yes: bool, warehouse: str | None) -> None:
    """Remove a space or an embedding.

    Everything that was extracted for it goes, and the results of its analyses; images stay.
    """
    opened = open_warehouse(warehouse)
    opened.require(kind, name)
    if not yes:
        click.confirm(f"Remove the {kind} '{name}' from {opened.root}?", abort=True)
    opened.drop(kind, name)
    click.echo(f"Removed the {kind} '{name}'.")
