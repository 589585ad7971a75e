"""Downloading pictures: a few at a time, patient with busy servers, every URL once.

The cache is `<warehouse>/cache/<SHA-256 of the URL>`; a file is written under a temporary name and renamed, so that
what is there is whole and a second run downloads nothing.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from glasshouse.schema.errors import SourceError, WarehouseError
from glasshouse.warehouse.intake.paths import is_web_address
from glasshouse.warehouse.intake.records import NO_SUCH_FILE

N_DOWNLOADS = 8
"""How many downloads run at a time."""


class DownloadError(SourceError):
    """A URL could not be downloaded; the message is one clause that says why."""


@dataclass(frozen=True)
class Patience:
    """How long to try: at most `n_tries` requests, each of `timeout_s` seconds, pauses doubling from `pause_s`."""

    n_tries: int = 5
    timeout_s: float = 60.0
    pause_s: float = 1.0
    longest_pause_s: float = 60.0


class Downloader:
    """Downloads into a warehouse's cache. One instance serves all threads of one `add`."""

    def __init__(self, cache: Path, patience: Patience | None = None) -> None:
        self.cache = cache
        self.patience = patience or Patience()
        self._file_systems: dict[str, Any] = {}

    def prepare(self, url: str) -> None:
        """Load what the URL's protocol needs; call it before threads start.

        Raises:
            SourceError: fsspec does not know the protocol or lacks a package for it.
        """
        protocol = urlsplit(url).scheme.lower()
        if protocol not in self._file_systems:
            self._file_systems[protocol] = self._open(protocol, url)

    def cached_file(self, url: str) -> Path:
        """Return where the copy of `url` is, or will be."""
        return self.cache / hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()

    def fetch(self, url: str) -> tuple[Path, bytes]:
        """Return the cached copy of `url` and its bytes; download it when it is not there.

        Raises:
            DownloadError: not found, refused, or still failing after the last try.
            WarehouseError: the cache cannot be written.
        """
        file = self.cached_file(url)
        try:
            return file, file.read_bytes()
        except FileNotFoundError:
            data = self.download(url)
        write_whole(file, data)
        return file, data

    def download(self, url: str) -> bytes:
        """Return the bytes of `url` with up to `patience.n_tries` tries. Raises DownloadError as `fetch` does."""
        self.prepare(url)
        for n_tried in range(1, self.patience.n_tries + 1):
            try:
                return bytes(self._file_systems[urlsplit(url).scheme.lower()].cat_file(url))
            except Exception as error:  # every protocol has errors of its own
                reason, is_passing = _judge(error)
                if not is_passing:
                    raise DownloadError(reason) from error
                if n_tried == self.patience.n_tries:
                    raise DownloadError(f"{reason}, {n_tried} times") from error
                time.sleep(self._pause(n_tried, error))
        raise DownloadError("no try was allowed")

    def _pause(self, n_tried: int, error: Exception) -> float:
        """Seconds to wait: what the server asks for, else doubling with jitter; never longer than the longest."""
        asked = _retry_after(error)
        doubled = self.patience.pause_s * 2 ** (n_tried - 1) * random.uniform(0.5, 1.5)
        return min(self.patience.longest_pause_s, doubled if asked is None else asked)

    def _open(self, protocol: str, url: str) -> Any:
        import fsspec

        options: dict[str, Any] = {"skip_instance_cache": True}
        if is_web_address(url):
            import aiohttp

            options["client_kwargs"] = {
                "timeout": aiohttp.ClientTimeout(total=self.patience.timeout_s),
                "trust_env": True,  # proxies
            }
        try:
            return fsspec.filesystem(protocol, **options)
        except ImportError as error:
            raise SourceError(f"{url} cannot be read: {error}.") from error
        except ValueError as error:
            raise SourceError(f"{url} cannot be read: the protocol '{protocol}' is unknown.") from error


def write_whole(file: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename it: at `file` there is all of it or nothing.

    Raises:
        WarehouseError: no space, no permission.
    """
    temporary = file.with_name(f".{file.name}.{threading.get_ident()}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise WarehouseError(
            f"Could not write {file}: {error.strerror}. Free some space or check permissions, "
            "then run the same command again."
        ) from error


def sweep(cache: Path) -> None:
    """Remove temporary files of downloads whose process is gone."""
    if not cache.is_dir():
        return
    for part in cache.glob(".*.part"):
        pid = part.name.split(".")[-2]
        if pid.isdigit() and not _is_running(int(pid)):
            with suppress(OSError):
                part.unlink()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _judge(error: Exception) -> tuple[str, bool]:
    """Return a clause that says what went wrong, and whether it may pass."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and status > 0:
        message = str(getattr(error, "message", "")).strip()
        reason = f"the server answered {status}{f' ({message})' if message else ''}"
        return reason, status in (408, 425, 429) or status >= 500
    if isinstance(error, FileNotFoundError):
        return "the server answered 404 (not found)" if is_web_address(str(error)) else NO_SUCH_FILE, False
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "the server did not answer in time", True
    if isinstance(error, (PermissionError, IsADirectoryError)):
        return str(error) or "no permission", False
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    is_connection = isinstance(error, OSError) or type(error).__module__.startswith("aiohttp")
    is_misspelt = type(error).__name__ in ("InvalidURL", "InvalidUrlClientError", "NonHttpUrlClientError")
    return f"it cannot be downloaded: {text}", is_connection and not is_misspelt


def _retry_after(error: Exception) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3), as a number or as a date."""
    headers = getattr(error, "headers", None)
    text = headers.get("Retry-After") if headers is not None else None
    if not text:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
