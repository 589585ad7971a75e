"""COCO JSON: instances (boxes, masks, categories) and captions, with the pictures they are about.

Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glasshouse.plugins import hookimpl
from glasshouse.plugins.hookspecs import Register
from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.intake.opening import read_source
from glasshouse.warehouse.intake.paths import absolute, choose_root, extension, is_url, likely_roots
from glasshouse.warehouse.intake.records import (
    AnnotationRecord,
    CaptionRecord,
    ImageRecord,
    Kind,
    PlainFile,
    ReadOptions,
    Record,
    RejectedRecord,
    Source,
    Url,
)

_OWN_KEYS = frozenset({"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "caption"})


@dataclass(frozen=True)
class _Image:
    """One entry of `images`: the key that joins it, and its (height, width) where it is told."""

    key: str
    size: tuple[int, int] | None


class CocoSource:
    """A COCO file. Added itself, it brings its pictures, captions and annotations."""

    summary = "COCO JSON: instances and captions, with the pictures they name"

    def claims(self, path: str) -> bool:
        """Claim .json files."""
        return extension(path) == ".json" and not Path(path).is_dir()

    def read(self, path: str, want: frozenset[str], options: ReadOptions) -> Iterator[Record]:
        """Yield pictures first, then captions and annotations in the order of the file."""
        unknown = want - {"images", "captions", "annotations"}
        if unknown and "images" not in want:
            kind = min(unknown)
            raise SourceError(f"{path}: COCO JSON has no {kind}; give a table (.csv, .tsv, .parquet) of {kind}.")
        content = _content(path)
        is_added = "images" in want
        root = _image_root(path, content, options) if is_added else None
        images: dict[Any, _Image] = {}
        for number, entry in enumerate(content["images"], start=1):
            if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
                if is_added:
                    reason = "the entry has no file_name"
                    yield RejectedRecord("images", f"{path} image {number}", reason, number)
                continue
            picture = _picture(entry["file_name"], root) if root is not None else None
            key = picture.path if picture is not None else entry["file_name"]
            images[_identity(entry.get("id"))] = _Image(key, _size(entry))
            if picture is not None:
                yield picture
        found = False
        for record in _rows(content, images):
            kind = _kind(record)
            found = found or kind in want
            if kind in want:
                yield record
        if not found and not is_added:
            raise SourceError(f"{path} has no {min(want)}: its annotations hold none.")


def _content(path: str) -> dict[str, Any]:
    """Parse the file and check its outline.

    Raises:
        SourceError: no JSON, or no COCO file.
    """
    try:
        content = json.loads(read_source(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 text, which JSON must be.") from error
    except json.JSONDecodeError as error:
        raise SourceError(f"{path} is not JSON: {error.msg} in line {error.lineno}.") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise SourceError(f"{path} holds something that cannot be read: {error}.") from error
    except RecursionError as error:
        raise SourceError(f"{path} is nested too deeply to be a COCO file.") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise SourceError(f"{path} is JSON, but no COCO file: it has no list 'images'.")
    for name in ("annotations", "categories"):
        if not isinstance(content.setdefault(name, []), list):
            raise SourceError(f"{path} is no COCO file: '{name}' is not a list.")
    return content


def _image_root(path: str, content: Mapping[str, Any], options: ReadOptions) -> str:
    if options.image_root is not None:
        return absolute(options.image_root)
    entries = [entry for entry in content["images"] if isinstance(entry, dict)]
    names = [str(entry.get("file_name", "")) for entry in entries]
    local = [name for name in names if not is_url(name)]
    return choose_root(local, likely_roots(posixpath.dirname(path), Path(path).stem))


def _picture(file_name: str, root: str) -> ImageRecord:
    name = file_name.strip()
    if is_url(name):
        return ImageRecord(name, Url(name))
    file = absolute(posixpath.join(root, name.replace("\\", "/")))
    return ImageRecord(file, PlainFile(file))


def _size(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _identity(value: Any) -> Any:
    """Make `7` and `"7"` one id, as converters between formats mix them."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else _hashable(value)


def _hashable(value: Any) -> Any:
    return value if isinstance(value, (int, str, float, type(None))) else json.dumps(value)


def _rows(content: Mapping[str, Any], images: Mapping[Any, _Image]) -> Iterator[Record]:
    categories = {_identity(entry.get("id")): entry for entry in content["categories"] if isinstance(entry, dict)}
    for number, entry in enumerate(content["annotations"], start=1):
        if not isinstance(entry, dict):
            yield RejectedRecord("annotations", "", "the annotation is no JSON object", number)
            continue
        identity = _identity(entry.get("image_id"))
        image = images.get(identity) or _Image("" if identity is None else str(identity), None)
        if "caption" in entry:
            yield CaptionRecord(image.key, str(entry["caption"] or ""), number)
        if "category_id" in entry or "caption" not in entry:
            yield _annotation(entry, image, categories, number)


def _annotation(
    entry: Mapping[str, Any], image: _Image, categories: Mapping[Any, Mapping[str, Any]], number: int
) -> Record:
    category = categories.get(_identity(entry.get("category_id")))
    if category is None:
        reason = f"there is no category with the id {entry.get('category_id')}"
        return RejectedRecord("annotations", image.key, reason, number)
    identity = _identity(entry.get("id"))
    is_number = isinstance(identity, int) and abs(identity) < 2**63
    extra = {key: value for key, value in entry.items() if key not in _OWN_KEYS}
    nested = extra.get("attributes")
    if isinstance(nested, dict):
        # CVAT and others keep what they know beyond COCO in one object of this name.
        extra = {**{key: value for key, value in extra.items() if key != "attributes"}, **nested}
    if not is_number and identity is not None:
        extra["id"] = identity
    supercategory = category.get("supercategory")
    return AnnotationRecord(
        key=image.key,
        annotation_id=identity if is_number else number,
        category=str(category.get("name", entry.get("category_id"))),
        supercategory=str(supercategory) if supercategory is not None else None,
        bbox=entry.get("bbox"),
        area=entry.get("area"),
        is_crowd=bool(entry.get("iscrowd", False)),
        segmentation=entry.get("segmentation"),
        image_size=image.size,
        attributes=extra,
        row_number=number,
    )


def _kind(record: Record) -> Kind:
    if isinstance(record, RejectedRecord):
        return record.kind
    return "captions" if isinstance(record, CaptionRecord) else "annotations"


@hookimpl
def register_sources(register: Register[Source]) -> None:
    """Register COCO files."""
    register("coco", CocoSource())
