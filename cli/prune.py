"""`glasshouse prune`: components of a classifier switched off, and what that does to its accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from glasshouse.cli.audit import classifier_space
from glasshouse.cli.options import chosen_device, device_option, json_option, open_warehouse, warehouse_option
from glasshouse.cli.printing import print_json, print_table
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.pruning.prune import PruneReport
    from glasshouse.warehouse.contracts import Encoder
    from glasshouse.warehouse.warehouse import Warehouse

N_LISTED = 20
"""Components that are named in the text; JSON has all."""
WEIGHTS = (".safetensors", ".pt", ".pth")


@click.command()
@click.option("--space", metavar="NAME", help="A space of the classifier; needed where there are several.")
@click.option("--features", "features", type=int, multiple=True, metavar="ID", help="A component; can be repeated.")
@click.option("--flagged", is_flag=True, help="Those that the newest audit has flagged; of --class where it is given.")
@click.option("--class", "class_name", metavar="NAME", help="The class that is told apart from the others.")
@click.option("--to", type=click.Choice(["mean", "zero"]), default="mean", show_default=True, help="What they become.")
@click.option("--cue", "cue_text", metavar="LABEL=VALUE", help="Tell images with it from others: watermark=present.")
@click.option(
    "--attribute", metavar="NAME", help="Label that says the images' classes; by default one that holds them."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of split and random components.")
@click.option("--hook", "hook_file", type=click.Path(path_type=Path), help="Write what was switched off, as JSON.")
@click.option(
    "--state-dict", type=click.Path(path_type=Path), help="Write the pruned weights: .safetensors, .pt or .pth."
)
@device_option
@json_option
@warehouse_option
def prune(
    space: str | None,
    features: tuple[int, ...],
    flagged: bool,
    class_name: str | None,
    to: Literal["mean", "zero"],
    cue_text: str | None,
    attribute: str | None,
    seed: int,
    hook_file: Path | None,
    state_dict: Path | None,
    device: str,
    as_json: bool,
    warehouse: str | None,
) -> None:
    """Switch components of a classifier off, and measure what that does.

    Their activation becomes its mean over reference images, or zero, wherever it is. Accuracy is measured on the
    test part of the images, the means come from the others. Beside it stand the other constant, and as many random
    components.

    Example: glasshouse prune --flagged --class heart --cue watermark=present --state-dict pruned.safetensors
    """
    from glasshouse.cli.output_file import writing
    from glasshouse.cli.progress import progress_bar
    from glasshouse.plugins.analyzers.relevance_classes import choose_class_attribute, classifier_of
    from glasshouse.plugins.pruning.prune import parse_cue
    from glasshouse.plugins.pruning.prune import prune as pruned
    from glasshouse.plugins.view import AnalysisView

    if bool(features) == flagged:
        raise UsageError("Say what is switched off: --features ID, can be repeated, or --flagged; one of the two.")
    _check_files(hook_file, state_dict)
    cue = None if cue_text is None else parse_cue(cue_text)
    opened = open_warehouse(warehouse)
    chosen = classifier_space(opened, space)
    if flagged:
        class_name, features = _flagged(opened, chosen, class_name)
        if not features:
            click.echo(f"The newest audit of '{class_name}' flagged no component of '{chosen}': nothing to switch off.")
            return
    with progress_bar("prune") as progress:
        view = AnalysisView(opened, chosen, progress)
        model = classifier_of(view, chosen_device(device))
        names = choose_class_attribute(view, attribute, model.names)
        report = pruned(view, model, features, to=to, attribute=names, class_name=class_name, cue=cue, seed=seed)
    print_json(_as_dict(report)) if as_json else _print(report)
    _warn(report)
    if hook_file is not None:
        with writing(hook_file):
            report.pruning.write(hook_file)
        click.echo(f"Wrote {hook_file}.", err=True)
    if state_dict is not None:
        _write_weights(model.encoder, report, state_dict)


def _check_files(hook_file: Path | None, state_dict: Path | None) -> None:
    """Refuse files that cannot be written, before anything is computed."""
    from glasshouse.cli.output_file import check_output

    for file, example in ((hook_file, "pruned.json"), (state_dict, "pruned.safetensors")):
        if file is not None:
            check_output(file, example)
    if hook_file is not None and hook_file == state_dict:
        raise UsageError(f"--hook and --state-dict are two files, and both are {hook_file}.")
    if state_dict is not None and state_dict.suffix not in WEIGHTS:
        raise UsageError(f"--state-dict writes {', '.join(WEIGHTS)}, and {state_dict} ends otherwise.")


def _flagged(warehouse: Warehouse, space: str, class_name: str | None) -> tuple[str, tuple[int, ...]]:
    """Return the class of the newest audit and what it flagged; say which audit that is."""
    from glasshouse.plugins.auditing.gather import audit_rows, newest_audit

    run = newest_audit(warehouse, space, class_name)
    class_name = str(run.facets["class_name"])
    asked = f"{run.parameters['valid']} against {run.parameters['spurious']}"
    if run.is_stale:
        raise UsageError(
            f"The newest audit of '{class_name}' (run {run.run_id}, {asked}) is stale: what it read has changed. Run "
            "`glasshouse audit` again, or name the components with --features."
        )
    click.echo(f"Flagged by run {run.run_id}, the audit of '{class_name}': {asked}.", err=True)
    return class_name, tuple(audit_rows(warehouse, run).filter("is_flagged")["feature_id"].to_list())


def _warn(report: PruneReport) -> None:
    from glasshouse.plugins.analyzers.relevance_classes import counted

    if report.no_class:
        click.echo(f"Left out, since their label is no class: {counted(report.no_class)}.", err=True)
    if all(row.random is None for row in report.rows):
        click.echo("There are not as many other components, so nothing stands beside as a random choice.", err=True)
    if report.n_unreadable:
        click.echo(f"{report.n_unreadable:,} pictures could not be read and are left out.", err=True)


def _write_weights(encoder: Encoder, report: PruneReport, file: Path) -> None:
    # Late: torch takes a second to import.
    import torch
    from safetensors.torch import save

    from glasshouse.cli.output_file import writing
    from glasshouse.plugins.encoders.hooked import HookedEncoder
    from glasshouse.plugins.pruning.weights import pruned_state_dict
    from glasshouse.warehouse.atomic import replacing

    if not isinstance(encoder, HookedEncoder):
        raise UsageError(f"The weights of {encoder.spec} are not within reach. Write the hook instead: --hook FILE.")
    tensors = pruned_state_dict(encoder, report.pruning)
    with writing(file), replacing(file) as temporary:
        if file.suffix == ".safetensors":
            # Through our own file: the library's would be readable by its owner alone.
            temporary.write_bytes(save({name: tensor.contiguous().clone() for name, tensor in tensors.items()}))
        else:
            torch.save(tensors, temporary)
    click.echo(f"Wrote {file}.", err=True)


def _as_dict(report: PruneReport) -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(report), "given_back": report.given_back()}


def _print(report: PruneReport) -> None:
    pruning = report.pruning
    n, listed = len(pruning.components), ", ".join(map(str, pruning.components[:N_LISTED]))
    listed += f", … ({n})" if n > N_LISTED else ""
    mean = f"{'its' if n == 1 else 'their'} mean over {report.n_reference:,} images"
    click.echo(
        f"{n} component{'' if n == 1 else 's'} of {pruning.hook} set to {mean if pruning.to == 'mean' else 'zero'}: "
        f"{listed}\nImages are split {report.split}.\n"
    )
    cue = {None: "", True: "with", False: "without"}
    rows = [(r.name, cue[r.cue], r.n, *map(_share, (r.as_is, r.pruned, r.other, r.random))) for r in report.rows]
    columns = ("class", "cue", "images", "as is", "pruned", f"to {report.other}", "random")
    print_table(columns, rows, numeric=columns[2:])
    back = report.given_back()
    if back is not None:
        click.echo(f"\nPruning gives back {back:.0%} of what the cue costs '{report.rows[0].name}' without it.")


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
