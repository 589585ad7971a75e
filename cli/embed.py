"""`glasshouse embed`: image embeddings."""

from __future__ import annotations

import click

from glasshouse.cli.extraction import report_extraction, run_extraction, tuning_options
from glasshouse.cli.options import chosen_device, device_option, open_warehouse, warehouse_option


@click.command()
@click.option("--encoder", metavar="SPEC", required=True, help="The encoder, e.g. hf:facebook/dinov2-small.")
@click.option("--name", metavar="NAME", help="Name of the embedding; made from the spec when left away.")
@tuning_options
@device_option
@warehouse_option
def embed(
    encoder: str, name: str | None, batch_size: int, workers: int | None, device: str, warehouse: str | None
) -> None:
    """Store an encoder's image embeddings.

    Only images that do not have it yet are computed.

    Example: glasshouse embed --encoder starter:dinov2 --name dinov2
    """
    from glasshouse.warehouse.quoting import slug

    opened = open_warehouse(warehouse)
    report = run_extraction(
        opened,
        encoder,
        [],
        name or slug(encoder),
        batch_size=batch_size,
        workers=workers,
        device=chosen_device(device),
    )
    report_extraction(opened, report)
