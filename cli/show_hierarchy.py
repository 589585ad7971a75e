"""`glasshouse show hierarchy`: what is a part or a kind of what, as a tree, as JSON, as GraphML or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from glasshouse.cli.options import feature_name, json_option, open_warehouse, warehouse_option
from glasshouse.cli.printing import print_json
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    from glasshouse.warehouse.showing.hierarchy import FeatureHierarchy
    from glasshouse.warehouse.warehouse import Warehouse


@click.command()
@click.option("--space", metavar="NAME", help="The space; may be left away where only one has a hierarchy.")
@click.option(
    "--rule", type=click.Choice(["tested", "published"]), default="tested", show_default=True, help="Whose edges."
)
@click.option(
    "--kind", "kinds", multiple=True, type=click.Choice(["kind_of", "part_of", "implied"]),
    help="Only edges of this kind; repeat for several.",
)  # fmt: skip
@click.option("--root", metavar="SPACE:ID", help="Only what lies below this feature.")
@click.option("--depth", type=click.IntRange(0), help="Only so many levels below the roots.")
@click.option("--graphml", type=click.Path(path_type=Path), help="Write the graph to this GraphML file.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the tree with pictures to this page.")
@click.option("-k", "k", type=click.IntRange(0), default=3, show_default=True, help="Page: pictures of each feature.")
@click.option(
    "--pictures", type=click.IntRange(0), default=600, show_default=True,
    help="Page: pictures in all; features near the roots come first.",
)  # fmt: skip
@json_option
@warehouse_option
def hierarchy(
    space: str | None,
    rule: str,
    kinds: tuple[str, ...],
    root: str | None,
    depth: int | None,
    graphml: Path | None,
    html: Path | None,
    k: int,
    pictures: int,
    as_json: bool,
    warehouse: str | None,
) -> None:
    """Show which feature is a part or a kind of which, as a tree.

    It shows what `glasshouse analyze hierarchy` found. Each feature stands below its best parent; JSON and GraphML hold
    all direct edges. With --graphml or --html no tree is printed.

    Example: glasshouse show hierarchy --space patches --depth 2 --html tree.html
    """
    _check_files(graphml, html)
    opened = open_warehouse(warehouse)
    name, number = _chosen(opened, space, root)
    found = opened.hierarchy(name, rule, kinds=kinds, root=number, depth=depth)
    if found.is_empty and (graphml is not None or html is not None):
        from glasshouse.warehouse.showing.hierarchy_text import nothing_words

        raise UsageError(f"{nothing_words(found)} Nothing is written.")
    if graphml is not None:
        _write_graphml(found, graphml)
    if html is not None:
        _write_page(found, html, k, pictures)
    if as_json:
        print_json(found.as_dict())
    elif graphml is None and html is None:
        click.echo(str(found))


def _check_files(graphml: Path | None, html: Path | None) -> None:
    """See that the files can be written, and end as files of their kind do: so they are two.

    Raises:
        UsageError: one cannot, or does not.
    """
    from glasshouse.cli.output_file import check_output

    for file, option, what, endings in (
        (graphml, "--graphml", "GraphML files", (".graphml", ".xml")),
        (html, "--html", "pages", (".html", ".htm")),
    ):
        if file is None:
            continue
        check_output(file, f"hierarchy{endings[0]}")
        if file.suffix.lower() not in endings:
            raise UsageError(
                f"{option} writes {what}, and {file} ends otherwise. Call it {file.with_suffix(endings[0])}."
            )


def _chosen(opened: Warehouse, space: str | None, root: str | None) -> tuple[str, int | None]:
    """Return the space that is meant, and the number of the root.

    Raises:
        UsageError: none or several could be meant, or --space and --root name different ones.
    """
    from glasshouse.warehouse.showing.hierarchy import spaces_with_hierarchy

    if root is not None:
        name, number = feature_name(root)
        if space not in (None, name):
            raise UsageError(f"--root names the space '{name}', and --space '{space}'. Leave --space away.")
        return name, number
    if space is not None:
        return space, None
    known = spaces_with_hierarchy(opened)
    if not known:
        raise UsageError("No space has a hierarchy. Run `glasshouse analyze hierarchy --space NAME` on one of patches.")
    if len(known) > 1:
        raise UsageError(f"Several spaces have a hierarchy: {', '.join(known)}. Name one with --space.")
    return known[0], None


def _write_graphml(found: FeatureHierarchy, file: Path) -> None:
    from glasshouse.cli.output_file import writing
    from glasshouse.warehouse.atomic import replacing
    from glasshouse.warehouse.showing.hierarchy_graphml import graphml

    with writing(file), replacing(file) as temporary:
        temporary.write_text(graphml(found), encoding="utf-8")
    click.echo(f"Wrote {file}.", err=True)


def _write_page(found: FeatureHierarchy, file: Path, k: int, pictures: int) -> None:
    from glasshouse.cli.output_file import writing
    from glasshouse.cli.progress import progress_bar
    from glasshouse.warehouse.showing.hierarchy_page import write_hierarchy
    from glasshouse.warehouse.showing.thumbnails import Tally

    tally = Tally()
    with progress_bar("pictures", "features") as progress, writing(file):
        size = write_hierarchy(found, file, k, pictures, progress, tally)
    click.echo(f"Wrote {file} ({size / 1e6:.1f} MB).", err=True)
    if tally.missing:
        click.echo(f"{tally}.", err=True)
