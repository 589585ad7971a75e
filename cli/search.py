"""`glasshouse search`: features and images by words, by pictures, by a feature."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from glasshouse.cli.options import json_option, open_warehouse, warehouse_option
from glasshouse.cli.printing import print_json, print_table
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.search.questions import MIN_IMAGES, Question

if TYPE_CHECKING:
    from glasshouse.warehouse.search.answers import Answer

ENDINGS = "Endings that work: .csv, .json, .parquet, .arrow, .txt."


@click.command()
@click.argument("queries", nargs=-1, metavar="[WORDS]...")
@click.option("--image", "pictures", multiple=True, metavar="FILE", help="A picture or an image_id; several are one.")
@click.option("--like", metavar="SPACE:ID", help="A feature.")
@click.option("--images", is_flag=True, help="Look for images instead of features.")
@click.option("--space", "spaces", multiple=True, metavar="NAME", help="Only this space; repeat for several.")
@click.option("-k", "k", type=click.IntRange(1), default=20, show_default=True, help="How many hits of each query.")
@click.option("--template", "templates", multiple=True, metavar="TEXT", help='E.g. "a photo of {}"; can be repeated.')
@click.option("--centre", is_flag=True, help="Subtract the mean image embedding: what all images share.")
@click.option("--embedding", metavar="NAME", help="In which to compare; by default that of the newest concept vectors.")
@click.option("--crop/--whole", default=None, help="Concept vectors of cropped or of whole images; else the newest.")
@click.option(
    "--min-images", type=click.IntRange(1), default=MIN_IMAGES, show_default=True, help="Behind a concept vector."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write hits and question to a file.")
@json_option
@warehouse_option
def search(
    queries: tuple[str, ...],
    pictures: tuple[str, ...],
    like: str | None,
    images: bool,
    spaces: tuple[str, ...],
    k: int,
    templates: tuple[str, ...],
    centre: bool,
    embedding: str | None,
    crop: bool | None,
    min_images: int,
    output: Path | None,
    as_json: bool,
    warehouse: str | None,
) -> None:
    """Find features by words, by pictures, or by a feature.

    Needs concept vectors: `glasshouse analyze concepts`. Several WORDS are several queries; put a phrase into quotes.

    Example: glasshouse search "a striped shape" --space cls -k 5
    """
    from glasshouse.cli.options import feature_name
    from glasshouse.cli.output_file import check_output
    from glasshouse.cli.sql import format_of
    from glasshouse.warehouse.search.answers import answer

    if output is not None:
        check_output(output, "hits.csv")
        format_of(output, ENDINGS)
    if images and (spaces or crop is not None):
        raise UsageError("--space, --crop and --whole are for features; leave them away with --images.")
    question = Question(
        queries, templates, pictures, None if like is None else feature_name(like), embedding, crop, centre
    )
    found = answer(open_warehouse(warehouse), question, spaces, k, images=images, min_images=min_images)
    if output is not None:
        _write(found, output)
    elif as_json:
        print_json(_as_data(found))
    else:
        _print(found)


def _by(facets: Mapping[str, Any]) -> str:
    """Say where the examples behind concept vectors were chosen by relevance."""
    if facets.get("by", "activation") == "activation":
        return ""
    of = facets.get("class_name")
    return f", by relevance for {of}" if of else ", by relevance"


def _as_data(found: Answer) -> dict[str, object]:
    return {"question": found.about(), "hits": found.frame.to_dicts()}


def _write(found: Answer, output: Path) -> None:
    """Write the hits with the question: in JSON beside them, in tables in columns of every row."""
    import duckdb

    from glasshouse.cli.output_file import writing
    from glasshouse.cli.sql import format_of
    from glasshouse.cli.sql_output import write_result

    format_ = format_of(output, ENDINGS)
    if format_ == "json":
        with writing(output):
            output.write_text(json.dumps(_as_data(found), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    with duckdb.connect() as connection:
        write_result(connection.from_arrow(found.with_question().to_arrow()), format_, output)


def _print(found: Answer) -> None:
    """Print the table, and on stderr what was asked."""
    frame = found.frame if len(found.question.names) > 1 else found.frame.drop("query")
    numeric = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    print_table(frame.columns, frame.rows(), numeric=numeric)
    asked = [
        f"{run.space} (run {run.run_id}, {run.facets['embedding']}{', cropped' if run.facets['crop'] else ''}"
        f"{_by(run.facets)}"
        f"{', stale' if run.is_stale else ''})"
        for run in found.runs
    ]
    if asked:
        click.echo(f"concept vectors of {', '.join(asked)}", err=True)
