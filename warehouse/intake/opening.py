"""Reading a whole source file: local, or from a URL (always the newest, not cached)."""

from __future__ import annotations

from pathlib import Path

from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.intake.download import Downloader, DownloadError
from glasshouse.warehouse.intake.paths import encodable, is_url


def read_source(path: str) -> bytes:
    """Return the bytes of a table or JSON file.

    Raises:
        SourceError: it cannot be read or downloaded.
    """
    if is_url(path):
        try:
            return Downloader(Path()).download(path)
        except DownloadError as error:
            raise SourceError(f"{path}: {error}.") from error
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SourceError(f"{encodable(path)} cannot be read: {error.strerror}.") from error
