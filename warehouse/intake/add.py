"""`add`: pictures and what is known about them, from the files a user names into the catalogue.

First every source is read, so that a wrong path or a table without an image column stops it before anything is
written. Then the pictures go in, batch by batch; then the failures; then the rows, joined to all pictures there are.
"""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.intake.download import Downloader, Patience, sweep
from glasshouse.warehouse.intake.images import ImageIntake, Item, Progress
from glasshouse.warehouse.intake.joining import Joiner
from glasshouse.warehouse.intake.paths import absolute, encodable, is_url, stored
from glasshouse.warehouse.intake.records import (
    NO_SUCH_FILE,
    ROW_KINDS,
    AnnotationRecord,
    CaptionRecord,
    ImageRecord,
    Kind,
    LabelRecord,
    MissingRecord,
    NoteRecord,
    RatingRecord,
    ReadOptions,
    Record,
    RejectedRecord,
    SkippedRecord,
    Source,
    Url,
)
from glasshouse.warehouse.intake.report import AddReport, RowCounts
from glasshouse.warehouse.intake.rows import RowTaker, write_rows
from glasshouse.warehouse.intake.storing import record_intake, replace_failures

_KIND_OF: dict[type, Kind] = {
    RatingRecord: "ratings",
    CaptionRecord: "captions",
    LabelRecord: "labels",
    AnnotationRecord: "annotations",
}
_BROUGHT_ALONG = frozenset({"images", "captions", "labels", "annotations"})


@dataclass
class _Scan:
    """Everything that was read, before anything is written."""

    items: list[Item] = field(default_factory=list)
    image_sources: list[str] = field(default_factory=list)
    rows: dict[tuple[Kind, str], list[Record]] = field(default_factory=dict)
    base_of: dict[str, str] = field(default_factory=dict)


def add(
    root: Path,
    paths: Sequence[str | Path],
    sources: Sequence[Source],
    *,
    ratings: Sequence[str | Path] = (),
    captions: Sequence[str | Path] = (),
    labels: Sequence[str | Path] = (),
    annotations: Sequence[str | Path] = (),
    options: ReadOptions | None = None,
    patience: Patience | None = None,
    progress: Progress | None = None,
    n_workers: int | None = None,
) -> AddReport:
    """Add pictures, and rows about pictures, to the warehouse in `root`.

    The same call again changes nothing; after a kill it completes what was begun, with the same result as an
    undisturbed run. What cannot be used is in `failures` and `rejected_rows`, with its reason.

    Args:
        root: the warehouse's folder, with a catalogue.
        paths: folders, pictures, tables, COCO files, tars and URLs to add pictures from.
        sources: asked in this order; the first that claims a path reads it.
        ratings: tables of ratings; `captions`, `labels` and `annotations` likewise.
        captions: see `ratings`.
        labels: see `ratings`.
        annotations: see `ratings`.
        options: how to read; its `warehouse` is set to `root`.
        patience: how long to try downloads.
        progress: called with (pictures done, pictures in all).
        n_workers: threads that decode; by default one for each processor this process may use.

    Raises:
        SourceError: a path is not there, nothing reads it, or it lacks what is wanted. Nothing was written.
        WarehouseError: no warehouse, no space, no permission. What was written before stays.
    """
    root = Path(absolute(root))
    options = dataclasses.replace(options or ReadOptions(), warehouse=root)
    report = AddReport()
    images = ImageIntake(root, Downloader(options.cache, patience), report, n_workers)
    sweep(options.cache)
    scan = _Scan()
    tables = (ratings, captions, labels, annotations)
    for path in _once(paths):
        _scan_path(scan, report, path, sources, options, _BROUGHT_ALONG)
    for kind, files in zip(ROW_KINDS, tables, strict=True):
        for path in _once(files):
            _scan_path(scan, report, path, sources, options, frozenset({kind}))
    scan.items = [_prepared(item, images.downloader) for item in scan.items]
    images.run(scan.items, progress)
    _write_image_intakes(images, scan.image_sources)
    if scan.rows:
        _add_rows(images.catalogue, root, scan, report)
    return report


def _prepared(item: Item, downloader: Downloader) -> Item:
    """Load what a URL's protocol needs; one that nothing here can read is a failure, and the others go on."""
    if isinstance(item.location, Url):
        try:
            downloader.prepare(item.location.url)
        except SourceError as error:
            return item._replace(location=None, failure=str(error))
    return item


def _once(paths: Iterable[str | Path]) -> list[str]:
    """Make paths absolute; the same one twice counts once."""
    return list(dict.fromkeys(absolute(path) for path in paths))


def _scan_path(
    scan: _Scan,
    report: AddReport,
    path: str,
    sources: Sequence[Source],
    options: ReadOptions,
    want: frozenset[str],
) -> None:
    """Read one path's records into `scan`."""
    source = _source_for(path, sources)
    name = encodable(stored(path, options.warehouse))
    kinds: list[Kind] = [kind for kind in ROW_KINDS if kind in want]
    found: dict[Kind, list[Record]] = defaultdict(list)
    n_items_before = len(scan.items)
    if "images" in want:
        scan.image_sources.append(name)
    for record in source.read(path, want, options):
        _sort(record, name, scan, found, report)
    if "images" in want and len(scan.items) == n_items_before:
        report.notes.append(f"{name} holds no pictures.")
    scan.base_of[name] = path if Path(path).is_dir() else str(Path(path).parent)
    for kind in kinds:
        if found[kind] or "images" not in want:
            scan.rows.setdefault((kind, name), found[kind])


def _sort(record: Record, name: str, scan: _Scan, found: dict[Kind, list[Record]], report: AddReport) -> None:
    """Put one record of the source `name` where it belongs: pictures, rows by kind, or the report."""
    match record:
        case ImageRecord():
            scan.items.append(Item(name, record.path, record.location))
        case RejectedRecord(kind="images"):
            scan.items.append(Item(name, record.key, None, record.reason))
        case RejectedRecord() | MissingRecord():
            found[record.kind].append(record)
        case SkippedRecord():
            report.n_skipped += 1
        case NoteRecord():
            report.notes.append(record.text)
        case _:
            found[_KIND_OF[type(record)]].append(record)


def _source_for(path: str, sources: Sequence[Source]) -> Source:
    if not is_url(path) and not os.path.exists(path):  # noqa: PTH110 - False, not an error, where it may not look
        raise SourceError(f"There is no file or folder {encodable(path)}. Check the path and try again.")
    for source in sources:
        if source.claims(path):
            return source
    raise SourceError(
        f"Nothing here can read {encodable(path)}. Known are folders, pictures, tables (.csv, .tsv, .txt, .parquet), "
        "COCO JSON (.json) and webdataset tars (.tar, .tar.gz, .tgz); a plugin can add other kinds."
    )


def _write_image_intakes(images: ImageIntake, names: Sequence[str]) -> None:
    """Record failures and counts of every source of pictures, in one transaction."""
    if not names:
        return
    failures: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for failure in images.failures:
        failures[failure.source].append((failure.path, failure.reason))
    with images.catalogue.writing() as connection:
        for name in names:
            replace_failures(connection, name, failures[name])
            counts = RowCounts(name, "images", images.n_used.get(name, 0), len(failures[name]))
            record_intake(connection, counts)


def _add_rows(catalogue: Catalogue, root: Path, scan: _Scan, report: AddReport) -> None:
    """Join the rows of each source and kind and write them, one transaction each."""
    joiner = load_joiner(catalogue, root)
    has_masks = any(kind == "annotations" for kind, _ in scan.rows)
    size_of = _image_sizes(catalogue) if has_masks else {}
    for kind in ROW_KINDS:
        for (of_kind, name), records in scan.rows.items():
            if of_kind != kind:
                continue
            base = scan.base_of[name]
            taker = RowTaker(kind, name, lambda key, base=base: joiner.resolve(key, base), size_of)  # type: ignore[misc]
            taker.take_all(records)
            write_rows(catalogue, taker)
            report.rows.append(taker.counts)


def _image_sizes(catalogue: Catalogue) -> dict[int, tuple[int, int]]:
    """Return (height, width) of every picture."""
    with catalogue.reading() as connection:
        rows = connection.execute("SELECT image_id, height, width FROM images").fetchall()
    return {image_id: (height, width) for image_id, height, width in rows}


def load_joiner(catalogue: Catalogue, root: Path) -> Joiner:
    """Load what is needed to join keys to the pictures of a warehouse; also for imports of features by path.

    Raises:
        WarehouseError: the catalogue cannot be read.
    """
    with catalogue.reading() as connection:
        images = connection.execute("SELECT path, image_id FROM image_paths ORDER BY image_id, path").fetchall()
        hashes = dict(connection.execute("SELECT sha256, image_id FROM images").fetchall())
        sources = connection.execute("SELECT DISTINCT source FROM image_paths ORDER BY source").fetchall()
        failures = connection.execute(
            "SELECT path, min(reason) FROM failures WHERE stage = 'add' "
            # A file that is not there is no picture that a row could mean: it must not hide one that is.
            "AND reason <> $absent AND path NOT IN (SELECT path FROM image_paths) GROUP BY path ORDER BY path",
            {"absent": NO_SUCH_FILE},
        ).fetchall()
    return Joiner(root, images, hashes, [source for (source,) in sources], failures)
