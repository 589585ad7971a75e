"""What a source yields: pictures and rows about pictures, as records, and the contract of a source.

Rules: a source only reads; it resolves no keys, decodes no pictures and writes nothing but copies in the cache
folder. Order is deterministic: the same files give the same records. What a source cannot use becomes a
`RejectedRecord` with its reason, what it passes over on purpose a `SkippedRecord`; nothing is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["images", "ratings", "captions", "labels", "annotations"]

NO_SUCH_FILE = "no such file"
"""The reason for a file that is listed and absent."""

ROW_KINDS: tuple[Kind, ...] = ("ratings", "captions", "labels", "annotations")
"""The kinds of rows about pictures, in the order in which they are stored."""


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A file on this machine."""

    path: str


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A copy in the warehouse's cache, made because the original has no address of its own (`.tar.gz` members)."""

    path: str


@dataclass(frozen=True, slots=True)
class Url:
    """Something to download: http, https, or any other protocol that fsspec knows."""

    url: str


@dataclass(frozen=True, slots=True)
class TarMember:
    """A slice of an uncompressed tar: `byte_count` bytes from `byte_offset`."""

    tar: str
    byte_offset: int
    byte_count: int


Location = PlainFile | CopiedFile | Url | TarMember


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """A picture. `path` is its name in the warehouse: an absolute path, a URL, or `<tar>/<member>`."""

    path: str
    location: Location


@dataclass(frozen=True, slots=True)
class RatingRecord:
    """What one rater ('' where there is none) said of one picture on one dimension; `value` is still text."""

    key: str
    dimension: str
    rater: str
    value: str
    row_number: int


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """One caption of one picture."""

    key: str
    caption: str
    row_number: int


@dataclass(frozen=True, slots=True)
class LabelRecord:
    """One attribute of one picture; several values of the same attribute are several records."""

    key: str
    attribute: str
    value: str
    row_number: int


@dataclass(frozen=True, slots=True)
class AnnotationRecord:
    """An object or region in a picture, as COCO writes it.

    Attributes:
        bbox: (x, y, width, height) in pixels, x and y of the top left corner; as found, not yet checked.
        segmentation: polygons, uncompressed or compressed run lengths; as found, not yet checked.
        image_size: (height, width) of the picture the mask was drawn on, where the source says it.
        attributes: whatever else the source says of it; must be serialisable as JSON.
    """

    key: str
    annotation_id: int
    category: str
    supercategory: str | None
    bbox: Any
    area: Any
    is_crowd: bool
    segmentation: Any
    image_size: tuple[int, int] | None
    attributes: Mapping[str, Any]
    row_number: int


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """Something that cannot be used, with its reason: a picture that is not there, a ragged row of a table."""

    kind: Kind
    key: str
    reason: str
    row_number: int = 0


@dataclass(frozen=True, slots=True)
class MissingRecord:
    """An empty row, which is no error."""

    kind: Kind
    row_number: int


@dataclass(frozen=True, slots=True)
class SkippedRecord:
    """A file passed over on purpose, since it cannot be a picture (hidden, a table, a text)."""

    path: str


@dataclass(frozen=True, slots=True)
class NoteRecord:
    """One sentence about how the source was read, for the report."""

    text: str


RowRecord = RatingRecord | CaptionRecord | LabelRecord | AnnotationRecord
Record = ImageRecord | RowRecord | RejectedRecord | MissingRecord | SkippedRecord | NoteRecord


@dataclass(frozen=True)
class ReadOptions:
    """What the user said about how to read.

    Attributes:
        warehouse: the warehouse's folder; a source must not read pictures from inside it.
        image_column: the column that names the pictures, instead of finding it.
        image_root: the folder that file names in tables and COCO files start from, instead of finding it.
    """

    warehouse: Path = field(default_factory=Path)
    image_column: str | None = None
    image_root: str | None = None

    @property
    def cache(self) -> Path:
        """The folder for copies and downloads."""
        return self.warehouse / "cache"


class Source(Protocol):
    """A kind of file or folder that pictures and rows about them come from."""

    @property
    def summary(self) -> str:
        """One line for listings: what it reads."""

    def claims(self, path: str) -> bool:
        """Return True when this source reads `path`, an absolute local path or a URL. Must be quick."""

    def read(self, path: str, want: frozenset[str], options: ReadOptions) -> Iterator[Record]:
        """Yield the records of `path` that are of a kind in `want`, a subset of images and `ROW_KINDS`.

        `want` contains `images` when `path` was given to be added, together with whatever it brings along; it is
        a single other kind when the file was given for that kind. Keys may be anything `joining.Joiner` resolves.

        Raises:
            SourceError: the file cannot be read at all, or has nothing of the one kind that is wanted.
        """
