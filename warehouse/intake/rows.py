"""Rows about pictures, from records to the tables of the catalogue.

Rules: the rows of one kind from one source are stored together, in one transaction with the rejected ones and the
counts. A line that finds no image is rejected once, however many values it has.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.intake.joining import Unjoined
from glasshouse.warehouse.intake.masks import MaskError, encode_mask
from glasshouse.warehouse.intake.numbers import BadValueError, parse_number
from glasshouse.warehouse.intake.paths import encodable
from glasshouse.warehouse.intake.records import (
    AnnotationRecord,
    CaptionRecord,
    Kind,
    LabelRecord,
    MissingRecord,
    RatingRecord,
    Record,
    RejectedRecord,
)
from glasshouse.warehouse.intake.report import N_EXAMPLES, RowCounts
from glasshouse.warehouse.intake.storing import record_intake, replace_rows

_LARGEST = sys.float_info.max

Resolve = Callable[[str], int | Unjoined]


@dataclass
class RowTaker:
    """Takes the records of one kind from one source; ends as columns and counts.

    `size_of` is (height, width) by image_id, for masks whose source does not tell the size. `tuples` are rows of the
    kind's table without `source`; `rejected` are (row_number, key, reason).
    """

    kind: Kind
    source: str
    resolve: Resolve
    size_of: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    counts: RowCounts = field(init=False)
    tuples: list[tuple[Any, ...]] = field(default_factory=list)
    rejected: list[tuple[int, str, str]] = field(default_factory=list)
    _values: dict[tuple[int, str, str], tuple[float, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counts = RowCounts(self.source, self.kind)

    def take_all(self, records: Iterable[Record]) -> None:
        """Take records one by one."""
        for record in records:
            self.take(record)

    def take(self, record: Record) -> None:
        """Take one record: it ends as used, rejected or missing."""
        match record:
            case RejectedRecord():
                self._reject(record.row_number, record.key, record.reason)
            case MissingRecord():
                self.counts.n_missing += 1
            case RatingRecord() | CaptionRecord() | LabelRecord() | AnnotationRecord():
                image_id = self.resolve(record.key)
                if isinstance(image_id, Unjoined):
                    self._reject(record.row_number, record.key, image_id.reason)
                else:
                    self._take_joined(record, image_id)

    def _take_joined(
        self, record: RatingRecord | CaptionRecord | LabelRecord | AnnotationRecord, image_id: int
    ) -> None:
        match record:
            case RatingRecord():
                self._take_rating(record, image_id)
            case CaptionRecord():
                self._take_text(image_id, record.caption.strip())
            case LabelRecord():
                self._take_text(image_id, record.attribute.strip(), record.value.strip())
            case AnnotationRecord():
                self._take_annotation(record, image_id)

    def _take_rating(self, record: RatingRecord, image_id: int) -> None:
        dimension, rater = encodable(record.dimension.strip()), encodable(record.rater.strip())
        if not dimension:
            self._reject(record.row_number, record.key, "the row names no dimension")
            return
        try:
            number = parse_number(record.value)
        except BadValueError as error:
            self._reject(record.row_number, record.key, f"{dimension}: {error}")
            return
        if number is None:
            self.counts.n_missing += 1
            return
        first = self._values.setdefault((image_id, dimension, rater), (number, record.row_number))
        if first[0] != number:
            by = f" by {rater}" if rater else ""
            reason = f"{dimension}{by}: {number:g}, but row {first[1]} says {first[0]:g} of the same picture"
            self._reject(record.row_number, record.key, reason)
            return
        if first[1] == record.row_number:
            self.tuples.append((image_id, dimension, rater, number))
        self.counts.n_used += 1

    def _take_text(self, image_id: int, *texts: str) -> None:
        """Take a caption, or an attribute and its value; an empty last text is a missing value."""
        if not texts[-1]:
            self.counts.n_missing += 1
            return
        self.tuples.append((image_id, *map(encodable, texts)))
        self.counts.n_used += 1

    def _take_annotation(self, record: AnnotationRecord, image_id: int) -> None:
        try:
            mask = encode_mask(record.segmentation, record.image_size or self.size_of.get(image_id))
            x, y, width, height = _bbox(record.bbox)
            area = _optional_number(record.area, "area")
        except (MaskError, BadValueError) as error:
            self._reject(record.row_number, record.key, f"annotation {record.annotation_id}: {error}")
            return
        if area is None and mask is not None:
            area = float(mask.area)
        shape = (mask.height, mask.width, mask.rle) if mask is not None else (None, None, None)
        extra = _as_json(record.attributes) if record.attributes else None
        supercategory = encodable(record.supercategory) if record.supercategory is not None else None
        names = (encodable(record.category), supercategory)
        box = (x, y, width, height, area, record.is_crowd)
        self.tuples.append((record.annotation_id, image_id, *names, *box, *shape, extra))
        self.counts.n_used += 1

    def _reject(self, row_number: int, key: str, reason: str) -> None:
        """Keep a row that cannot be used; the values of one line share one reason when they share it."""
        row = (row_number, encodable(key), encodable(reason))
        if self.rejected and self.rejected[-1] == row:
            return
        self.rejected.append(row)
        self.counts.n_rejected += 1
        if len(self.counts.examples) < N_EXAMPLES:
            self.counts.examples.append(f"row {row_number} ({row[1]}): {row[2]}")


def _as_json(attributes: Mapping[str, Any]) -> str:
    """Write attributes as strict JSON: NaN and infinities, which Python's reader lets pass, become null."""

    def strict(value: Any) -> Any:
        if isinstance(value, float) and not -_LARGEST <= value <= _LARGEST:
            return None
        if isinstance(value, dict):
            return {key: strict(item) for key, item in value.items()}
        return [strict(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(strict(dict(attributes)), sort_keys=True, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode("utf-8")


def _bbox(bbox: Any) -> tuple[float | None, ...]:
    if bbox is None or bbox == []:
        return (None, None, None, None)
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise BadValueError("the box is no list of x, y, width and height")
    return tuple(_optional_number(number, "box") for number in bbox)


def _optional_number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_LARGEST <= value <= _LARGEST:
        raise BadValueError(f"the {name} holds '{str(value)[:40]}', which is no finite number")
    return float(value)


def write_rows(catalogue: Catalogue, taker: RowTaker) -> None:
    """Replace what the catalogue has of this source and kind, in one transaction.

    Raises:
        WarehouseError: the catalogue cannot be written; what it had is kept.
    """
    import pyarrow as pa

    table, schema = _TABLES[taker.kind], _arrow_schema(taker.kind)
    columns = list(zip(*taker.tuples, strict=True)) or [()] * (len(schema) - 1)
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=False)]
    arrays.append(pa.array([taker.source] * len(taker.tuples), pa.string()))
    rows = pa.Table.from_arrays(arrays, schema=schema)
    rejected = pa.table(
        {
            "kind": pa.array([taker.kind] * len(taker.rejected), pa.string()),
            "source": pa.array([taker.source] * len(taker.rejected), pa.string()),
            "row_number": pa.array([row[0] for row in taker.rejected], pa.int64()),
            "key": pa.array([row[1] for row in taker.rejected], pa.string()),
            "reason": pa.array([row[2] for row in taker.rejected], pa.string()),
        }
    )
    source, kind = taker.source, taker.kind
    with catalogue.writing() as connection:
        replace_rows(connection, table, rows, "source = $source", source=source)
        about = "source = $source AND kind = $kind"
        replace_rows(connection, "rejected_rows", rejected, about, source=source, kind=kind)
        record_intake(connection, taker.counts)


_TABLES: dict[Kind, str] = {
    "ratings": "ratings",
    "captions": "captions",
    "labels": "image_labels",
    "annotations": "annotations",
}


def _arrow_schema(kind: Kind) -> Any:
    """Return the columns of a kind's table, in its order; `source` is the last of each."""
    import pyarrow as pa

    text, number, integer, long = pa.string(), pa.float64(), pa.int32(), pa.int64()
    columns: dict[str, list[tuple[str, Any]]] = {
        "ratings": [("image_id", integer), ("dimension", text), ("rater", text), ("value", number)],
        "captions": [("image_id", integer), ("caption", text)],
        "labels": [("image_id", integer), ("attribute", text), ("value", text)],
        "annotations": [
            *[("annotation_id", long), ("image_id", integer), ("category", text), ("supercategory", text)],
            *[(f"bbox_{name}", number) for name in ("x", "y", "width", "height")],
            *[("area", number), ("is_crowd", pa.bool_()), ("mask_height", integer), ("mask_width", integer)],
            *[("mask_rle", text), ("attributes", text)],
        ],
    }
    return pa.schema([*columns[kind], ("source", text)])
