"""An explanation as one picture: the image, and under each deciding concept where it is and what else activates it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from glasshouse.warehouse.showing.explanation import Explanation, Part
from glasshouse.warehouse.showing.sheet import CELL, N_COLUMNS, Cell, Line, cells_in_rows, drawn_sheet
from glasshouse.warehouse.showing.thumbnails import Tally, Thumbnail, Thumbnails

if TYPE_CHECKING:
    from glasshouse.warehouse.reads import WarehouseReads


def explanation_sheet(
    warehouse: WarehouseReads, found: Explanation, k: int = 10, tally: Tally | None = None
) -> Image.Image:
    """Return the sheet of an explanation, with its k most deciding concepts.

    Each concept's column has its heat map on the image (in spaces of patches) and below it the image on which it is
    strongest, so that a number without a name says something too. Pictures are counted in `tally`.
    """
    large, small = Thumbnails(warehouse, CELL * 2, tally), Thumbnails(warehouse, CELL, tally)
    title, *more = found.head(found.path.rsplit("/", 1)[-1])
    lines = [Line(title, 22), *(Line(text) for text in more), *_legend(found, k)]
    shown = [_column(warehouse, small, found, part) for part in found.parts[:k]]
    return drawn_sheet(lines, [[Cell([large.of(found.image_id)], ())], *cells_in_rows(shown, N_COLUMNS)])


def _legend(found: Explanation, k: int) -> list[Line]:
    rest = found.parts[k:]
    lines = [Line(f"each concept: {found.predicted} / {found.runner_up} = weight x activation for either", 14)]
    if found.has_maps:
        lines.append(Line("above where it is on this image, below its strongest image", 14))
    if rest:
        own, other = (sum(part.contribution for part in rest), sum(part.contribution_runner_up for part in rest))
        lines.append(Line(f"{len(rest)} more concept{'' if len(rest) == 1 else 's'}: {own:+.2f} / {other:+.2f}", 14))
    return lines


def _column(warehouse: WarehouseReads, small: Thumbnails, found: Explanation, part: Part) -> Cell:
    pictures: list[Thumbnail] = []
    if found.has_maps:
        pictures.append(small.heat(found.space, part.feature_id, found.image_id, None))
    strongest = warehouse.top_images(found.space, part.feature_id, 1)["image_id"]
    pictures += [small.heat(found.space, part.feature_id, int(image), None) for image in strongest]
    named = part.name or f"feature {part.feature_id}"
    figures = f"{part.contribution:+.2f} / {part.contribution_runner_up:+.2f}"
    return Cell(pictures, (named, figures, f"{found.space}:{part.feature_id}"))
