"""`glasshouse compare`: two models, layers or training runs, by what their features mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from glasshouse.cli.options import json_option, open_warehouse, plugins_of, warehouse_option
from glasshouse.cli.printing import print_json, print_table
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.plugins.comparing import Compared, Side
    from glasshouse.warehouse.warehouse import Progress

PAIR_COLUMNS = ("space", "other", "n_features", "n_known", "share_known", "share_by_chance", "threshold", "mean_cosine")


@click.command()
@click.argument("space_a", metavar="SPACE_A")
@click.argument("space_b", metavar="SPACE_B")
@click.option("--threshold", type=float, metavar="X", help="Cosine from which a feature is known; else set by chance.")
@click.option("-k", "k", type=click.IntRange(1), default=10, show_default=True, help="Features that are listed.")
@click.option("--embedding", metavar="NAME", help="In which to compare; by default the newest that all have.")
@click.option("--crop", is_flag=True, help="Concept vectors of cut-outs instead of whole images.")
@click.option("--centre", is_flag=True, help="Subtract the mean image embedding: what all images share.")
@click.option("--min-images", type=click.IntRange(1), metavar="N", help="Leave features with fewer examples out.")
@json_option
@warehouse_option
def compare(
    space_a: str,
    space_b: str,
    threshold: float | None,
    k: int,
    embedding: str | None,
    crop: bool,
    centre: bool,
    min_images: int | None,
    as_json: bool,
    warehouse: str | None,
) -> None:
    """Compare two spaces both ways: what both know, and what only one of them knows.

    Each can be several, joined by commas: the layers of a model. Needs concept vectors of all of them in one
    embedding: `glasshouse analyze concepts`.

    Example: glasshouse compare cls patches --centre
    """
    from glasshouse.cli.progress import progress_bar
    from glasshouse.plugins.comparing import compare as compared

    asked = {"threshold": threshold, "embedding": embedding, "crop": crop, "centre": centre, "min_images": min_images}
    given = {name: value for name, value in asked.items() if value is not None}
    opened = open_warehouse(warehouse)
    with ExitStack() as bars:

        def step(title: str) -> Progress:
            bars.close()
            return bars.enter_context(progress_bar(title, "features"))

        runner = plugins_of(click.get_current_context()).runner(opened, step)
        found = compared(runner, _names(space_a), _names(space_b), given, k)
    if as_json:
        print_json(found.as_dict())
    else:
        _print(found)


def _names(text: str) -> list[str]:
    """Read spaces joined by commas.

    Raises:
        UsageError: a name is empty.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(f"'{text}' has an empty name. Write spaces as A,B,C.")
    return names


def _print(found: Compared) -> None:
    rows = [[pair[name] for name in PAIR_COLUMNS] for pair in found.pairs]
    if len(found.pairs) > 2:
        for side in found.sides:
            own, other = (",".join(names) for names in (side.spaces, side.others))
            rows.append([own, other, side.n_features, side.n_known, side.share_known, None, None, None])
    print_table(PAIR_COLUMNS, rows, numeric=PAIR_COLUMNS[2:])
    ours, theirs = found.sides
    _list(f"Best matches of {', '.join(ours.spaces)} in {', '.join(ours.others)}", ours.best)
    for side in (ours, theirs):
        _list(_lacking_title(side), side.lacking)
    click.echo(f"compared in the embedding '{found.embedding}'", err=True)
    if len(found.cuts) > 1:
        click.echo(f"warning: the concept vectors are of different kinds ({', '.join(found.cuts)}).", err=True)


def _lacking_title(side: Side) -> str:
    own, other = ", ".join(side.spaces), ", ".join(side.others)
    n = side.n_features - side.n_known
    return f"Known in {own} only: {n:,} of {side.n_features:,}, the farthest from everything in {other} first"


def _list(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print features with their best matches; columns of labels only where there are any."""
    click.echo(f"\n{title}" + (":" if rows else ": none"))
    if not rows:
        return
    labelled = any(row["label"] or row["other_label"] for row in rows)
    names = ["cosine", "feature", *(["label"] if labelled else []), "nearest", *(["its label"] if labelled else [])]
    lines = [
        [
            row["cosine"],
            f"{row['space']}:{row['feature_id']}",
            *([row["label"]] if labelled else []),
            f"{row['other']}:{row['other_feature_id']}",
            *([row["other_label"]] if labelled else []),
        ]
        for row in rows
    ]
    print_table(names, lines, numeric=("cosine",))
