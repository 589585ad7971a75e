"""`glasshouse plugins`: what can be named in specs, and who brings it."""

from __future__ import annotations

import click

from glasshouse.cli.options import json_option, plugins_of
from glasshouse.cli.printing import print_json, print_table


@click.command()
@json_option
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """List what plugins bring, with their versions.

    Encoders, SAE formats, presets, sources, analyzers and labelers.
    """
    listed = plugins_of(ctx).listing()
    if as_json:
        print_json([entry._asdict() for entry in listed])
        return
    print_table(("kind", "name", "what", "plugin", "version"), listed)
