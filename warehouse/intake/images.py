"""Pictures on their way into the catalogue: read, hashed, decoded once, and written in short transactions.

Rules: records are written in the order given, so that image_id does not depend on threads, on the size of a
transaction or on where an earlier run was killed. Threads only read and decode; the catalogue is held by nobody
meanwhile. A picture is known by the SHA-256 of its bytes and is not decoded again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.intake.download import N_DOWNLOADS, Downloader, DownloadError
from glasshouse.warehouse.intake.image_rows import Arrival, Facts, write_images
from glasshouse.warehouse.intake.paths import encodable, stored
from glasshouse.warehouse.intake.pictures import PictureError, decode_picture, measure, read_file, read_slice
from glasshouse.warehouse.intake.records import CopiedFile, Location, PlainFile, TarMember, Url
from glasshouse.warehouse.intake.report import AddReport

BATCH_SIZE = 500
BATCH_SECONDS = 5.0
_N_AHEAD = 64

Progress = Callable[[int, int | None], None]


class Inspected(NamedTuple):
    """What a thread found: a hash and where the bytes lie, or a failure."""

    sha256: str = ""
    byte_count: int = 0
    cached: str | None = None
    failure: str | None = None


class Failure(NamedTuple):
    """A file that could not be used; `path` as stored."""

    path: str
    reason: str
    source: str


class Item(NamedTuple):
    """One record of one source, or a failure that the source has found itself. `source` as stored."""

    source: str
    path: str
    location: Location | None
    failure: str | None = None


class ImageIntake:
    """Takes the pictures of one `add` into the catalogue of `root`."""

    def __init__(self, root: Path, downloader: Downloader, report: AddReport, n_workers: int | None = None) -> None:
        self.root = root
        self.catalogue = Catalogue(root)
        self.downloader = downloader
        self.report = report
        self.n_workers = n_workers or len(os.sched_getaffinity(0))
        self.failures: list[Failure] = []
        self.n_used: dict[str, int] = {}
        self._known = self._known_hashes()
        self._facts: dict[str, Facts] = {}
        self._broken: dict[str, str] = {}
        self._outcome_of: dict[str, tuple[Location, str | None]] = {}

    def run(self, items: Sequence[Item], progress: Progress | None = None) -> None:
        """Take in `items`, in order; fills `report`, `failures` and `n_used`.

        Raises:
            WarehouseError: the catalogue or the cache cannot be written. What was committed before stays.
        """
        batch: list[Arrival] = []
        last_write = time.monotonic()
        for done, (item, found) in enumerate(self._inspected(items), start=1):
            self._take(item, found, batch)
            if len(batch) >= BATCH_SIZE or (batch and time.monotonic() - last_write > BATCH_SECONDS):
                self._write(batch)
                batch, last_write = [], time.monotonic()
            if progress is not None:
                progress(done, len(items))
        if batch:
            self._write(batch)

    def _inspected(self, items: Iterable[Item]) -> Iterator[tuple[Item, Inspected | None]]:
        """Yield items in order with what threads found, working at most `_N_AHEAD` items ahead.

        None stands for a path that came before in this call.
        """
        pending: deque[tuple[Item, Future[Inspected] | None]] = deque()
        seen: set[str] = set()
        local = ThreadPoolExecutor(self.n_workers, "intake")
        web = ThreadPoolExecutor(N_DOWNLOADS, "download")
        try:
            for item in items:
                pending.append((item, self._submit(item, seen, local, web)))
                if len(pending) >= _N_AHEAD:
                    yield _finished(pending)
            while pending:
                yield _finished(pending)
        finally:
            local.shutdown(wait=True, cancel_futures=True)
            web.shutdown(wait=True, cancel_futures=True)

    def _submit(
        self, item: Item, seen: set[str], local: ThreadPoolExecutor, web: ThreadPoolExecutor
    ) -> Future[Inspected] | None:
        if item.path in seen:
            return None
        seen.add(item.path)
        if item.location is None:
            done: Future[Inspected] = Future()
            done.set_result(Inspected(failure=item.failure))
            return done
        pool = web if isinstance(item.location, Url) else local
        return pool.submit(self._inspect, item.location)

    def _inspect(self, location: Location) -> Inspected:
        """Read, hash and, when it is new, decode and measure one picture. Runs in a thread."""
        try:
            data, cached = self._read(location)
        except (PictureError, DownloadError) as error:
            return Inspected(failure=str(error))
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in self._known and sha256 not in self._facts and sha256 not in self._broken:
            try:
                picture = decode_picture(data)
                facts = Facts(*picture.image.size, picture.format, picture.mode, *measure(picture.image))
                self._facts[sha256] = facts
            except PictureError as error:
                self._broken[sha256] = str(error)
        if cached is not None and isinstance(location, Url) and sha256 in self._broken:
            (self.root / cached).unlink(missing_ok=True)  # an error page, say: ask again next time
        return Inspected(sha256, len(data), cached, self._broken.get(sha256))

    def _read(self, location: Location) -> tuple[bytes, str | None]:
        """Return a picture's bytes, and its copy's path relative to the warehouse where there is one."""
        match location:
            case Url(url):
                file, data = self.downloader.fetch(url)
                return data, stored(file.as_posix(), self.root)
            case CopiedFile(path):
                return read_file(Path(path)), stored(path, self.root)
            case TarMember(tar, byte_offset, byte_count):
                return read_slice(Path(tar), byte_offset, byte_count), None
            case PlainFile(path):
                return read_file(Path(path)), None

    def _take(self, item: Item, found: Inspected | None, batch: list[Arrival]) -> None:
        """Sort one item into the batch or the failures."""
        if found is None:
            self._take_repeated(item)
            return
        failure = found.failure
        if failure is None and encodable(item.path) != item.path:
            failure = "its name is no valid UTF-8; rename it"
        if item.location is not None:
            self._outcome_of[item.path] = (item.location, failure)
        if failure is not None:
            self._fail(item, failure)
            return
        self.n_used[item.source] = self.n_used.get(item.source, 0) + 1
        batch.append(self._arrival(item, found))

    def _take_repeated(self, item: Item) -> None:
        """Treat a path that came before: the same file says nothing new, another one cannot share its name."""
        first = self._outcome_of.get(item.path)
        if first is None or item.location is None:
            self._fail(item, item.failure or "the same path has failed before in this call")
        elif first[0] != item.location:
            self._fail(item, "another picture has the same path in this call; the first one counts")
        elif first[1] is not None:
            self._fail(item, first[1])
        else:
            self.report.n_repeated += 1
            self.n_used[item.source] = self.n_used.get(item.source, 0) + 1

    def _fail(self, item: Item, reason: str) -> None:
        path = encodable(stored(item.path, self.root))
        self.failures.append(Failure(path, encodable(reason), item.source))
        self.report.count_failure(path, encodable(reason))

    def _arrival(self, item: Item, found: Inspected) -> Arrival:
        place = item.location if isinstance(item.location, TarMember) else None
        return Arrival(
            path=stored(item.path, self.root),
            sha256=found.sha256,
            file_bytes=found.byte_count,
            container=stored(place.tar, self.root) if place else None,
            byte_offset=place.byte_offset if place else None,
            byte_count=place.byte_count if place else None,
            cached=found.cached,
            source=item.source,
        )

    def _write(self, batch: Sequence[Arrival]) -> None:
        """Write a batch in one transaction and forget the measurements of what is in the catalogue now."""
        written = write_images(self.catalogue, batch, self._facts)
        self.report.n_new_images += written.n_new
        self.report.n_duplicate_pictures += written.n_duplicates
        self.report.n_known += written.n_known
        self.report.changed_paths.extend(written.changed_paths)
        hashes = {arrival.sha256 for arrival in batch}
        self._known |= hashes
        for sha256 in hashes:
            self._facts.pop(sha256, None)

    def _known_hashes(self) -> set[str]:
        with self.catalogue.reading() as connection:
            return {row[0] for row in connection.execute("SELECT sha256 FROM images").fetchall()}


def _finished(
    pending: deque[tuple[Item, Future[Inspected] | None]],
) -> tuple[Item, Inspected | None]:
    item, future = pending.popleft()
    return item, None if future is None else future.result()
