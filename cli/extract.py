"""`glasshouse extract`: images through an encoder and SAEs into feature spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from glasshouse.cli.extraction import report_extraction, run_extraction, tuning_options
from glasshouse.cli.options import chosen_device, device_option, open_warehouse, plugins_of, warehouse_option
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.contracts import PresetSpace


@click.command()
@click.option("--preset", metavar="NAME", help="Several spaces under one name; `glasshouse plugins` lists them.")
@click.option("--encoder", metavar="SPEC", help="The encoder, e.g. open_clip:ViT-B-32/datacomp_xl_s13b_b90k.")
@click.option("--space", "spaces", multiple=True, metavar="NAME", help="Name of a space; repeat for several.")
@click.option("--hook", "hooks", multiple=True, metavar="HOOK", help="Hook point, e.g. blocks.8.resid_post.")
@click.option("--tokens", "tokens", multiple=True, metavar="POLICY", help="cls, patches, mean, max or sum. [cls]")
@click.option("--sae", "saes", multiple=True, metavar="SPEC", help="The SAE, a local folder, or neurons. [neurons]")
@click.option(
    "--keep", "keeps", multiple=True, metavar="N", help="Keep each feature's N strongest images and a histogram. [all]"
)
@click.option("--embed", "embedding", metavar="NAME", help="Store the image embedding too, in the same pass.")
@tuning_options
@device_option
@warehouse_option
def extract(
    preset: str | None,
    encoder: str | None,
    spaces: tuple[str, ...],
    hooks: tuple[str, ...],
    tokens: tuple[str, ...],
    saes: tuple[str, ...],
    keeps: tuple[str, ...],
    embedding: str | None,
    batch_size: int,
    workers: int | None,
    device: str,
    warehouse: str | None,
) -> None:
    """Extract sparse features into spaces.

    Only images that a space does not have yet are computed. Several spaces of one encoder take one pass: repeat
    --space, and give --hook, --tokens, --sae and --keep once for all or once for each, in the same order. With
    --preset, --space chooses some of its spaces.

    Example: glasshouse extract --encoder starter:clip --space cls --hook blocks.3.resid_post --sae starter:sae-cls
    """
    if preset is not None:
        if hooks or tokens or saes:
            raise UsageError("--preset brings its own --hook, --tokens and --sae; --encoder and --space may change it.")
        spec, wanted = _from_preset(preset, encoder, spaces)
    else:
        if encoder is None or not spaces:
            raise UsageError(
                "Give --preset NAME, or --encoder, --space, --hook and --sae. See `glasshouse extract -h`."
            )
        spec, wanted = encoder, _from_options(spaces, hooks, tokens, saes)
    opened = open_warehouse(warehouse)
    report = run_extraction(
        opened,
        spec,
        wanted,
        embedding,
        batch_size=batch_size,
        workers=workers,
        device=chosen_device(device),
        keep=[_number_of(text) for text in _for_each("--keep", keeps or ("all",), len(wanted))],
    )
    report_extraction(opened, report)


def _from_preset(name: str, encoder: str | None, spaces: Sequence[str]) -> tuple[str, list[PresetSpace]]:
    preset = plugins_of(click.get_current_context()).presets.get(name)
    known = {space.name: space for space in preset.spaces}
    for space in spaces:
        if space not in known:
            raise UsageError(f"The preset '{name}' has no space '{space}'. It has: {', '.join(known)}.")
    return encoder or preset.encoder, [known[space] for space in (spaces or known)]


def _from_options(
    spaces: Sequence[str], hooks: Sequence[str], tokens: Sequence[str], saes: Sequence[str]
) -> list[PresetSpace]:
    from glasshouse.plugins.contracts import PresetSpace

    if not hooks:
        raise UsageError("Say which --hook to read, e.g. blocks.8.resid_post.")
    columns = zip(
        spaces,
        _for_each("--hook", hooks, len(spaces)),
        _for_each("--tokens", tokens or ("cls",), len(spaces)),
        _for_each("--sae", saes or ("neurons",), len(spaces)),
        strict=True,
    )
    return [PresetSpace(space, hook, policy, sae) for space, hook, policy, sae in columns]  # type: ignore[arg-type]


def _number_of(text: str) -> int | None:
    """Read how many images are kept of each feature: a number from 1 up, or `all`."""
    if text == "all":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"--keep takes a number of images from 1 up, or all; not '{text}'.")
    return int(text)


def _for_each(option: str, values: Sequence[str], n_spaces: int) -> Sequence[str]:
    """Spread an option over the spaces: given once it holds for all, else once for each."""
    if len(values) == n_spaces:
        return values
    if len(values) == 1:
        return list(values) * n_spaces
    raise UsageError(f"{option} is given {len(values)} times for {n_spaces} spaces. Give it once, or once for each.")
