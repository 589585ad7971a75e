"""`glasshouse import features|embeddings`: activations and vectors computed elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from glasshouse.cli.options import json_option, open_warehouse, warehouse_option
from glasshouse.cli.printing import count, print_json

if TYPE_CHECKING:
    from glasshouse.warehouse.importing.store import ImportReport

_images_option = click.option(
    "--images",
    "keys_file",
    type=click.Path(path_type=Path),
    help="For arrays without image names: a text file with one image a line, in the order of the rows.",
)


@click.group(name="import")
def import_group() -> None:
    """Take in activations or vectors computed elsewhere."""


@import_group.command()
@click.argument("paths", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--space", "name", required=True, metavar="NAME", help="Name of the space to make.")
@click.option("--n-features", type=click.IntRange(1), help="How many features there are, silent ones included.")
@_images_option
@json_option
@warehouse_option
def features(
    paths: tuple[Path, ...],
    name: str,
    n_features: int | None,
    keys_file: Path | None,
    as_json: bool,
    warehouse: str | None,
) -> None:
    """Make a space of activations: JSON {image: {feature: value}} (files or a folder), NPZ, Parquet or CSV.

    NPZ: scipy's sparse matrix or a dense array, with an array `images`. Parquet and CSV: image, feature, value.
    Images are named by path, file name, stem or SHA-256.
    """
    from glasshouse.warehouse.importing.files import read_features

    opened = open_warehouse(warehouse)
    table = read_features(paths, keys_file)
    _print(opened.import_features(name, table, n_features=n_features, source=_source(paths)), as_json)


@import_group.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--name", required=True, metavar="NAME", help="Name of the embedding to make.")
@_images_option
@json_option
@warehouse_option
def embeddings(path: Path, name: str, keys_file: Path | None, as_json: bool, warehouse: str | None) -> None:
    """Make an embedding of vectors: NPY (with --images), NPZ (vectors and images), or Parquet (image, vector)."""
    from glasshouse.warehouse.importing.files import read_vectors

    opened = open_warehouse(warehouse)
    table = read_vectors(path, keys_file)
    _print(opened.import_embeddings(name, table, source=_source([path])), as_json)


def _source(paths: tuple[Path, ...] | list[Path]) -> str:
    """Name what was read as `add` names its sources, so that the same file is the same source from any folder."""
    from glasshouse.warehouse.intake.paths import absolute

    return ", ".join(absolute(path) for path in paths)


def _print(report: ImportReport, as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    click.echo(f"{report.name}: {count(report.n_new, 'new image')} of {count(report.n_given, 'given', 'given')}")
    for example in report.examples:
        click.echo(f"  rejected: {example}")
    if report.n_rejected:
        click.echo(f'{report.n_rejected:,} rejected; all of them: glasshouse sql "FROM rejected_rows"')
