"""`glasshouse status`: what a warehouse holds and what is under way."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from glasshouse.cli.options import json_option, open_warehouse, warehouse_option
from glasshouse.cli.printing import count, print_json, print_table

if TYPE_CHECKING:
    from glasshouse.warehouse.warehouse import Warehouse


@click.command()
@json_option
@warehouse_option
def status(as_json: bool, warehouse: str | None) -> None:
    """Say what the warehouse holds and what is under way."""
    opened = open_warehouse(warehouse)
    if as_json:
        from glasshouse.warehouse.summary import summarise

        print_json(asdict(summarise(opened.layout)))
    else:
        print_summary(opened)


def print_summary(warehouse: Warehouse) -> None:
    """Print what a warehouse holds."""
    from glasshouse.warehouse.summary import summarise

    summary = summarise(warehouse.layout)
    click.echo(f"{warehouse.root}  ({summary.size_mb:,.1f} MB)")
    parts = [count(summary.tables["images"], "image")]
    parts += [f"{n:,} {name.replace('_', ' ')}" for name, n in summary.tables.items() if n and name != "images"]
    click.echo(", ".join(parts))
    if summary.spaces:
        click.echo()
        print_table(
            ("space", "encoder", "hook", "tokens", "SAE", "features", "images", "activations", "state"),
            [
                (s.name, s.encoder, s.hook, s.tokens, s.sae, s.n_features, s.n_images, s.n_activations, s.state)
                for s in summary.spaces
            ],
            numeric=("features", "images", "activations"),
        )
    if summary.embeddings:
        click.echo()
        print_table(
            ("embedding", "encoder", "width", "images", "state"),
            [(e.name, e.encoder, e.width, e.n_images, e.state) for e in summary.embeddings],
            numeric=("width", "images"),
        )
