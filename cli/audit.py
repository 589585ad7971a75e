"""`glasshouse audit`: which components a class rests on that are more alike something spurious than anything valid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glasshouse.cli.options import json_option, open_warehouse, plugins_of, warehouse_option
from glasshouse.cli.printing import print_json, print_table
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

    from glasshouse.warehouse.warehouse import Warehouse

COLUMNS = ("feature", "label", "share", "valid", "valid concept", "spurious", "spurious concept", "flagged")


@click.command()
@click.option("--class", "class_name", required=True, metavar="NAME", help="The class that is audited.")
@click.option(
    "--valid", required=True, metavar="FILE", help="Concepts it may rest on, one per line; or a shipped list."
)
@click.option("--spurious", required=True, metavar="FILE", help="Concepts it should not rest on; or a shipped list.")
@click.option("--space", metavar="NAME", help="A space of the classifier; needed where there are several.")
@click.option("--template", "templates", multiple=True, metavar="TEXT", help='Concepts are put into it. ["{}"]')
@click.option("--crop/--whole", default=None, help="Concept vectors of cut-outs or of whole images; else the newest.")
@click.option("--embedding", metavar="NAME", help="Of the concept vectors; by default that of the newest.")
@click.option("--by", type=click.Choice(["activation", "relevance"]), help="Of which examples; by default the newest.")
@click.option("--centre", is_flag=True, help="Subtract the mean image embedding from the concept vectors.")
@click.option("--method", metavar="NAME", help="Of the relevance: gradient, crp or ablation; by default the newest.")
@click.option("--min-share", type=click.FloatRange(0, 1), help="Share of relevance from which one is flagged. [1/F]")
@click.option("--margin", type=click.FloatRange(0), default=0.0, help="By how much spurious must exceed valid. [0]")
@click.option("-k", "k", type=click.IntRange(1), default=20, show_default=True, help="How many components are shown.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the audit as one page with pictures.")
@json_option
@warehouse_option
def audit(
    class_name: str,
    valid: str,
    spurious: str,
    space: str | None,
    templates: tuple[str, ...],
    crop: bool | None,
    embedding: str | None,
    by: str | None,
    centre: bool,
    method: str | None,
    min_share: float | None,
    margin: float,
    k: int,
    html: Path | None,
    as_json: bool,
    warehouse: str | None,
) -> None:
    """Ask whether a class of a classifier rests on what it should.

    A component is flagged when it counts for the class and its concept vector is more alike one of the spurious
    concepts than any of the valid ones. Concept vectors and relevance are computed first where there are none. The
    result is the view `audit`; `glasshouse prune --flagged` switches the flagged components off.

    Example: glasshouse audit --class heart --valid shapes.txt --spurious marks.txt --html audit.html
    """
    from glasshouse.cli.output_file import check_output, writing
    from glasshouse.cli.progress import progress_bar
    from glasshouse.plugins.auditing.gather import audit_rows

    if not class_name:
        raise UsageError("Say which class is audited: --class NAME.")
    if html is not None:
        check_output(html, "audit.html")
    opened = open_warehouse(warehouse)
    chosen = classifier_space(opened, space)
    optional = {"template": templates or None, "method": method, "min_share": min_share, "crop": crop,
                "embedding": embedding, "by": by}  # fmt: skip
    given: dict[str, Any] = {
        "class_name": class_name, "valid": Path(valid), "spurious": Path(spurious), "centre": centre, "margin": margin,
        **{name: value for name, value in optional.items() if value is not None},
    }  # fmt: skip
    with progress_bar("audit") as progress:
        runner = plugins_of(click.get_current_context()).runner(opened, lambda title: progress)
        *_, report = runner.run("audit", chosen, given)
    if report.run is None:
        raise UsageError(report.left_out or report.failure)
    rows = audit_rows(opened, report.run)
    if html is not None:
        from glasshouse.plugins.auditing.page import write_audit

        with progress_bar("page") as progress, writing(html):
            size = write_audit(opened, report.run, html, k=min(k, 12), progress=progress)
        click.echo(f"Wrote {html} ({size / 1e6:.1f} MB).", err=True)
    if as_json:
        print_json({"space": chosen, "class": class_name, "notes": report.run.notes, "rows": rows.to_dicts()})
        return
    _print(rows.head(k), chosen)
    click.echo(f"\n{report.run.notes['summary']}.")


def classifier_space(warehouse: Warehouse, space: str | None) -> str:
    """Return the space that is meant: the one that is named, or the only one with relevance, or the only one.

    Raises:
        UsageError: there are several.
    """
    from glasshouse.plugins.runner import chosen_spaces

    if space is not None:
        return chosen_spaces(warehouse, [space])[0]
    known = sorted({run.space for run in warehouse.runs() if run.analyzer == "relevance"})
    names = known or chosen_spaces(warehouse, [])
    if len(names) > 1:
        raise UsageError(f"There are several spaces: {', '.join(names)}. Name the classifier's with --space.")
    return names[0]


def _print(rows: pl.DataFrame, space: str) -> None:
    listed = [
        (
            f"{space}:{row['feature_id']}",
            row["label"],
            f"{row['share']:.1%}",
            row["valid"],
            row["valid_concept"],
            row["spurious"],
            row["spurious_concept"],
            "flagged" if row["is_flagged"] else "",
        )
        for row in rows.iter_rows(named=True)
    ]
    print_table(COLUMNS, listed, numeric=("share", "valid", "spurious"))
