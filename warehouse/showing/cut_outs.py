"""The cut-outs of a feature's examples, as `examples --crop` stored them: which part of each picture is about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from PIL import ImageDraw

from glasshouse.schema.errors import SourceError, UsageError
from glasshouse.warehouse.results.store import latest_run
from glasshouse.warehouse.showing.pictures import pictures
from glasshouse.warehouse.showing.plain import activation
from glasshouse.warehouse.showing.sheet import CELL, N_COLUMNS, Cell, Line, cells_in_rows, drawn_sheet, feature_lines
from glasshouse.warehouse.showing.thumbnails import Tally, Thumbnail, fit

if TYPE_CHECKING:
    from PIL import Image

    from glasshouse.warehouse.reads import WarehouseReads
    from glasshouse.warehouse.showing.cards import FeatureCard

_FRAME: Final = (223, 41, 83)
_GREY: Final = (105, 105, 115)


class CutOut(NamedTuple):
    """A part of an image: `box` is left, top, right, bottom in pixels; `value` is activation, or relevance.

    `how` says in words how the examples were chosen and where the parts come from.
    """

    image_id: int
    value: float
    box: tuple[int, int, int, int]
    how: str = ""


def cut_outs(warehouse: WarehouseReads, space: str, feature: int, k: int) -> list[CutOut]:
    """Return the first k cut-outs of a feature, from the newest run of `examples` that has any.

    Raises:
        UsageError: there is none; says which command makes it.
    """
    run = latest_run(warehouse.catalogue, "examples", space, {"crop": True})
    if run is None:
        raise UsageError(
            f"There are no cut-outs of the space '{space}'. Run `glasshouse analyze examples --crop --space {space}`."
        )
    of = f" for {run.facets['class_name']}" if run.facets["class_name"] else ""
    how = f"examples by {run.facets['by']}{of}, cut by {run.parameters['attribution']} (run {run.run_id})"
    how += ", stale" if run.is_stale else ""
    rows = warehouse.result_rows(run).filter(feature_id=feature).sort("rank").head(k)
    return [
        CutOut(row["image_id"], row["value"], (row["left"], row["top"], row["right"], row["bottom"]), how)
        for row in rows.iter_rows(named=True)
    ]


def cut_out_sheet(card: FeatureCard, found: list[CutOut], tally: Tally | None = None) -> Image.Image:
    """Return a contact sheet: each example with a frame around what is about the feature, and below it that part alone.

    Args:
        card: of the feature.
        found: its cut-outs.
        tally: where pictures are counted.
    """
    counted = Tally() if tally is None else tally
    opened: dict[int, Any] = dict(pictures(card.warehouse, sorted({one.image_id for one in found})))
    cells = []
    for one in found:
        picture = opened[one.image_id]
        counted.wanted.add(one.image_id)
        if isinstance(picture, SourceError):
            counted.missing.add(one.image_id)
            shown = [Thumbnail(None, (1, 1), str(picture))]
        else:
            shown = [_framed(picture, one.box), Thumbnail(fit(picture.crop(one.box), CELL), picture.size)]
        cells.append(Cell(shown, (activation(one.value), f"image {one.image_id}")))
    lines = [*feature_lines(card), *(Line(one.how, colour=_GREY) for one in found[:1])]
    return drawn_sheet(lines, cells_in_rows(cells, N_COLUMNS))


def _framed(picture: Image.Image, box: tuple[int, int, int, int]) -> Thumbnail:
    """Return a picture of a cell's size with a frame around a part of it."""
    small = fit(picture, CELL).convert("RGB")
    x_scale, y_scale = small.width / picture.width, small.height / picture.height
    left, top, right, bottom = (round(side * scale) for side, scale in zip(box, (x_scale, y_scale) * 2, strict=True))
    ImageDraw.Draw(small).rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=_FRAME, width=2)
    return Thumbnail(small, picture.size)
