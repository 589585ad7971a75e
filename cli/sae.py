"""`glasshouse sae inspect|convert`: look at a sparse autoencoder, test it on images, write it in our own format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from glasshouse.cli.options import (
    chosen_device,
    device_option,
    json_option,
    open_warehouse,
    plugins_of,
    warehouse_option,
)
from glasshouse.cli.printing import count, print_json
from glasshouse.cli.progress import progress_bar
from glasshouse.schema.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from glasshouse.plugins.saes.common import CommonSae
    from glasshouse.plugins.saes.inspection import Inspection, Spread
    from glasshouse.plugins.saes.trial import Trial
    from glasshouse.warehouse.warehouse import Warehouse

HOW_TO_TRY = (
    "Weights alone do not show a wrong normalisation or hook point. To test it on images, name a warehouse with -w, "
    "and --encoder, --hook and --tokens where the checkpoint does not say them, or --space."
)


@click.group()
def sae() -> None:
    """Look at a sparse autoencoder, test it, convert it."""


@sae.command()
@click.argument("spec", metavar="SPEC")
@click.option("--encoder", metavar="SPEC", help="The encoder to test it on. [what the checkpoint says]")
@click.option("--hook", metavar="HOOK", help="The hook point. [what the checkpoint says]")
@click.option("--tokens", metavar="POLICY", help="cls, patches, mean, max or sum. [what the checkpoint says, else cls]")
@click.option("--space", metavar="NAME", help="Test it on this space's encoder, hook and tokens.")
@click.option("--images", "n_images", type=click.IntRange(1), default=64, show_default=True, help="How many images.")
@device_option
@json_option
@warehouse_option
def inspect(
    spec: str,
    encoder: str | None,
    hook: str | None,
    tokens: str | None,
    space: str | None,
    n_images: int,
    device: str,
    as_json: bool,
    warehouse: str | None,
) -> None:
    """Say what an SAE is: format, shapes, activation, normalisation; on a warehouse's images, whether it fits.

    Example: glasshouse sae inspect starter:sae-cls -w demo.glasshouse
    """
    from glasshouse.plugins.saes.inspection import in_common_form
    from glasshouse.plugins.saes.inspection import inspect as look

    placed = chosen_device(device)
    loaded = in_common_form(plugins_of(click.get_current_context()).load_sae(spec, placed))
    found, tried = look(loaded), None
    if any((encoder, hook, tokens, space, warehouse)):
        opened = open_warehouse(warehouse)
        where = _from_space(opened, space, encoder, hook, tokens) if space else (encoder, hook, tokens)
        tried = _try(opened, loaded, *where, is_typed=encoder is not None, n_images=n_images, device=placed)
    if as_json:
        print_json({**found.as_dict(), "trial": tried and tried.as_dict()})
    else:
        _print(found, tried)


@sae.command()
@click.argument("spec", metavar="SPEC")
@click.argument("folder", metavar="FOLDER", type=click.Path())
@click.option("--encoder", metavar="SPEC", help="The encoder it was trained on, to be written beside it.")
@click.option("--hook", metavar="HOOK", help="The hook point it was trained on. [what the checkpoint says]")
@click.option("--tokens", metavar="POLICY", help="The tokens it was trained on. [what the checkpoint says]")
def convert(spec: str, folder: str, encoder: str | None, hook: str | None, tokens: str | None) -> None:
    """Write an SAE of any format as FOLDER/sae.safetensors, glasshouse's own, and compare the two.

    Example: glasshouse sae convert saelens:downloads/layer_8 sae-layer-8 --hook blocks.8.resid_post
    """
    from glasshouse.plugins.saes.convert import convert as write
    from glasshouse.plugins.saes.inspection import in_common_form
    from glasshouse.warehouse.contracts import TOKEN_POLICIES

    if tokens is not None and tokens not in TOKEN_POLICIES:
        raise unknown_name("token policy", tokens, TOKEN_POLICIES)
    if not folder.strip():
        raise UsageError("FOLDER is empty. Name a folder, e.g. sae-mine.")
    loaded = in_common_form(plugins_of(click.get_current_context()).load_sae(spec, "cpu"))
    done = write(loaded, Path(folder), hook=hook, tokens=tokens, encoder=encoder)
    click.echo(
        f"{done.file}: gives the same {count(done.n_codes, 'code')} and reconstructions as {loaded.spec} on "
        f"{count(done.n_vectors, 'random vector')}."
    )


def _from_space(
    warehouse: Warehouse, space: str, encoder: str | None, hook: str | None, tokens: str | None
) -> tuple[str | None, str | None, str | None]:
    """Encoder, hook and tokens of a space; what is given beside it comes first."""
    warehouse.require("space", space)
    row = next(row for row in warehouse.spaces().iter_rows(named=True) if row["name"] == space)
    if row["hook"] is None:
        raise UsageError(f"The space '{space}' was imported, so nothing can be run again for it. Give --encoder.")
    return encoder or row["encoder_spec"], hook or row["hook"], tokens or row["tokens"]


def _try(
    warehouse: Warehouse,
    sae: CommonSae,
    encoder: str | None,
    hook: str | None,
    tokens: str | None,
    *,
    is_typed: bool,
    n_images: int,
    device: str,
) -> Trial:
    """Run the self-test on the warehouse's images; an encoder that nobody typed comes from the catalogue or the SAE."""
    from glasshouse.plugins.saes.trial import try_on_images

    encoder, hook = encoder or sae.about.get("encoder"), hook or sae.hook
    for option, value in (("--encoder", encoder), ("--hook", hook)):
        if value is None:
            raise UsageError(f"{sae.spec} does not say what it was trained on. Give {option}, or --space NAME.")
    assert encoder is not None and hook is not None  # the loop saw to it
    plugins = plugins_of(click.get_current_context())
    loaded = (plugins.load_encoder if is_typed else plugins.load_stored_encoder)(encoder, device)
    with progress_bar("testing") as progress:
        return try_on_images(
            warehouse.layout, loaded, sae, hook, tokens or sae.tokens or "cls", n_images=n_images, progress=progress
        )


def _print(found: Inspection, tried: Trial | None) -> None:
    rows = [*_facts(found), *(_results(tried) if tried else [])]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")
    for note in found.notes:
        click.echo(f"Note: {note}.")
    wrong = [*found.wrong, *(tried.wrong if tried else ())]
    for words in wrong:
        click.echo(f"Looks wrong: {words.rstrip('.')}.")
    if not wrong:
        click.echo("Nothing looks wrong." if tried else "Nothing looks wrong in the weights.")
    if tried is None:
        click.echo(HOW_TO_TRY)


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    """What the weights and settings say, line by line."""
    yield "spec", found.spec
    yield "format", found.format or "a plugin's"
    yield "shapes", f"D = {found.width:,}, F = {found.n_features:,} features ({found.n_features / found.width:.3g} × D)"
    yield "activation", _activation(found)
    yield "normalisation", _normalisation(found)
    if found.prefixes:
        yield "prefixes", ", ".join(f"{size:,}" for size in found.prefixes)
    yield "trained on", _origin(found)
    if found.decoder_norm:
        yield "decoder norms", _spread(found.decoder_norm)
    yield "dead features", f"{found.n_dead:,} (decoder row of zeros)"
    if words := _reported(found):
        yield "reported", words
    yield "fingerprint", found.fingerprint


def _activation(found: Inspection) -> str:
    words = f"gated {found.activation}" if found.is_gated else found.activation
    if found.k is not None:
        words += f", k = {found.k}"
    if found.threshold is not None:
        words += f", threshold {_spread(found.threshold)}"
    return words + (f", soft cap {found.soft_cap:g}" if found.soft_cap is not None else "")


def _normalisation(found: Inspection) -> str:
    parts = ["minus the data's mean"] if found.is_centred else []
    parts += [f"times {found.input_scale:g}"] if found.input_scale != 1 else []
    parts += [found.normalization, f"b_dec {'' if found.apply_b_dec_to_input else 'not '}subtracted before encoding"]
    return ", ".join(parts)


def _origin(found: Inspection) -> str:
    said = [found.encoder or found.model, found.hook, found.tokens]
    return ", ".join(part for part in said if part) or "the checkpoint does not say"


def _reported(found: Inspection) -> str:
    """What the checkpoint says of itself on held-out vectors; empty where it says nothing."""
    names = {"explained_variance": "explained variance", "l0": "L0", "cosine": "cosine"}
    numbers = {words: found.reported.get(name) for name, words in names.items()}
    return ", ".join(f"{words} {value:.3f}" for words, value in numbers.items() if isinstance(value, (int, float)))


def _results(tried: Trial) -> Iterator[tuple[str, str]]:
    """What the self-test found, line by line."""
    test = tried.self_test
    yield (
        "tested on",
        f"{tried.encoder}, {tried.hook}, {tried.tokens}: {count(test.n_rows, 'vector')} of "
        + count(tried.n_images, "image")
        + (f", {tried.n_failed} could not be read" if tried.n_failed else ""),
    )
    yield "explained variance", f"{test.explained_variance:.3f}"
    yield "L0", f"{test.l0:.1f} active features for each vector"
    yield "cosine", f"{test.cosine:.3f}"
    yield "length", f"reconstructions are {tried.length_ratio:.3f} times as long as the activations"
    yield "silent here", f"{count(tried.n_silent, 'feature')} active on none of these images"


def _spread(spread: Spread) -> str:
    if spread.min == spread.max:
        return f"{spread.min:.4g}"
    return f"{spread.min:.4g} to {spread.max:.4g}, median {spread.median:.4g}"
