"""`glasshouse init`: create an empty warehouse."""

from __future__ import annotations

import click


@click.command()
@click.argument("folder", metavar="DIR")
def init(folder: str) -> None:
    """Create an empty warehouse in DIR, best named NAME.glasshouse."""
    from glasshouse.warehouse.warehouse import Warehouse

    warehouse = Warehouse.create(folder)
    click.echo(f"Created {warehouse.root}. Next: glasshouse add FOLDER -w {warehouse.root}")
