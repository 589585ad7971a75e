"""The catalogue file: connecting to it, locks, migrations.

Rules: nobody holds the catalogue while computing. Reading opens it read-only for as long as one query takes; every
write is one short transaction. A lock held by another process is waited for with back-off, then reported with who
holds it.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from glasshouse.schema.errors import LockedError, WarehouseError

T = TypeVar("T")

CATALOGUE_FILE = "catalog.duckdb"
LOCK_TIMEOUT_VARIABLE = "GLASSHOUSE_LOCK_TIMEOUT"
DEFAULT_LOCK_TIMEOUT_S = 60.0

_HOLDER = re.compile(r"held in (?P<program>.+?) \(PID (?P<pid>\d+)\)")


class Catalogue:
    """The catalogue of one warehouse folder. Holds no connection of its own."""

    def __init__(self, root: Path) -> None:
        self.path = root / CATALOGUE_FILE
        self._remembered: dict[str, tuple[object, Any]] = {}
        self._lock = threading.RLock()

    def remembered(self, what: str, read: Callable[[], T]) -> T:
        """Return what `read` gives, kept in memory until the catalogue's file or its log changes.

        Args:
            what: names it; one name, one reading.
            read: reads it from the catalogue.
        """
        state = _state(self.path), _state(self.path.with_name(f"{self.path.name}.wal"))
        with self._lock:
            found = self._remembered.get(what)
            if found is None or found[0] != state:
                found = self._remembered[what] = (state, read())
        value: T = found[1]
        return value

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a read-only connection, closed at the end of the block."""
        connection = self._connect(read_only=True)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection inside one transaction: committed at the end of the block, rolled back on an error.

        One at a time: DuckDB would let two threads of a process in together, and fail one of them at its commit.
        """
        with _writers[self.path], clear_write_errors(self.path):
            connection = self._connect(read_only=False)
            try:
                connection.execute("BEGIN TRANSACTION")
                try:
                    yield connection
                except BaseException:
                    # After a fatal error there is nothing left to roll back; the first error is the one to report.
                    with contextlib.suppress(duckdb.Error):
                        connection.execute("ROLLBACK")
                    raise
                commit(connection, self.path)
            finally:
                connection.close()

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        if not self.path.is_file():
            raise WarehouseError(
                f"{self.path.parent} is not a warehouse: it has no {CATALOGUE_FILE}. "
                f"Create one with `glasshouse init {self.path.parent}`."
            )
        return connect_with_patience(self.path, read_only=read_only)


def _state(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def commit(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Commit, turning a full disk or a read-only folder into a clear error. The transaction is then undone."""
    with clear_write_errors(path):
        connection.execute("COMMIT")


@contextmanager
def clear_write_errors(path: Path) -> Iterator[None]:
    """Turn what DuckDB says of a write that the system refused into a `WarehouseError`."""
    try:
        yield
    except (
        duckdb.IOException,
        duckdb.OutOfMemoryException,
        duckdb.FatalException,
        duckdb.TransactionException,
    ) as error:
        raise WarehouseError(
            f"Could not write {path}: {first_line(error)} Nothing of this step was stored, what was stored before is "
            "kept; free some space or check permissions, then run the same command again."
        ) from error


def connect_with_patience(path: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file, waiting with back-off while someone else holds its lock.

    Raises:
        LockedError: still locked after GLASSHOUSE_LOCK_TIMEOUT seconds (60 by default).
        WarehouseError: not a DuckDB file, no permission, or a newer storage format.
    """

    def attempt() -> duckdb.DuckDBPyConnection:
        return duckdb.connect(str(path), read_only=read_only)

    return wait_for_lock(attempt, path)


_writers: dict[Path, threading.Lock] = defaultdict(threading.Lock)
"""One per catalogue and process: held for the length of a transaction."""

_turnstiles: dict[Path, threading.Lock] = defaultdict(threading.Lock)
"""One per catalogue and process. All pass it on their way in, so that a waiting writer holds up those behind it."""

TURNSTILE_S = 0.5
"""How long a waiting writer keeps others out at a time: a reader inside that wants in again must not wait forever."""


def wait_for_lock(attempt: Callable[[], duckdb.DuckDBPyConnection], path: Path) -> duckdb.DuckDBPyConnection:
    """Call `attempt` until it succeeds, fails for another reason than a lock, or time is up."""
    deadline = time.monotonic() + lock_timeout()
    pause = 0.01
    while True:
        with _turnstiles[path]:
            try:
                return _attempt_for(attempt, path, TURNSTILE_S)
            except LockedError:
                if time.monotonic() >= deadline:
                    raise
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(pause * 1.6, 0.5)


def _attempt_for(
    attempt: Callable[[], duckdb.DuckDBPyConnection], path: Path, seconds: float
) -> duckdb.DuckDBPyConnection:
    """Call `attempt` again and again for some time while another connection is in the way."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except (duckdb.IOException, duckdb.ConnectionException) as error:
            if not _is_lock(error):
                raise WarehouseError(f"Cannot open {path}: {_reason(error)}") from error
            if time.monotonic() >= deadline:
                raise LockedError(_who(error, path)) from error
        time.sleep(random.uniform(0.005, 0.02))


def lock_timeout() -> float:
    """Seconds to wait for a lock: $GLASSHOUSE_LOCK_TIMEOUT, else 60."""
    text = os.environ.get(LOCK_TIMEOUT_VARIABLE, "")
    try:
        return float(text) if text else DEFAULT_LOCK_TIMEOUT_S
    except ValueError:
        raise WarehouseError(
            f"{LOCK_TIMEOUT_VARIABLE} is '{text}', which is no number of seconds. Unset it or give a number."
        ) from None


def _is_lock(error: Exception) -> bool:
    message = str(error)
    return "Could not set lock" in message or "different configuration" in message


def _who(error: Exception, path: Path) -> str:
    """Say who holds the lock, with the command line where the system tells it."""
    match = _HOLDER.search(str(error))
    if match is None:
        return f"{path} is in use by this very process. Close the other connection and try again."
    pid = match["pid"]
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ").split()
        program = " ".join(words)[:120] or match["program"]
    except OSError:
        program = match["program"]
    return (
        f"{path} is held by process {pid} ({program}). Wait until it is done or stop it, then try again; "
        f"{LOCK_TIMEOUT_VARIABLE}=SECONDS waits longer."
    )


def _reason(error: Exception) -> str:
    text = first_line(error)
    if "not a valid DuckDB database" in text:
        return "it is not a DuckDB file. Was it damaged or overwritten? Restore it from a copy."
    return text


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, without its class prefix such as `IO Error:`."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^[A-Z][A-Za-z ]+ Error: ", "", line)


def migrations() -> list[tuple[int, str, str]]:
    """Every migration as (number, name, SQL), in order."""
    folder = resources.files("glasshouse.schema") / "migrations"
    found = []
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".sql"):
            number, _, name = file.name.removesuffix(".sql").partition("_")
            found.append((int(number), name, file.read_text(encoding="utf-8")))
    return found


def schema_version(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the number of the last migration applied to this catalogue; 0 for an empty one."""
    known = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'schema_migrations'").fetchone()
    if known is None or known[0] == 0:
        return 0
    row = connection.execute("SELECT coalesce(max(number), 0) FROM schema_migrations").fetchone()
    return int(row[0]) if row else 0


def migrate(path: Path) -> list[str]:
    """Bring a catalogue to the newest schema; create it when it does not exist. Returns the names applied.

    Each migration and the record of it commit together.

    Raises:
        WarehouseError: the catalogue was written by a newer glasshouse.
    """
    connection = connect_with_patience(path, read_only=False)
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations "
            "(number INTEGER PRIMARY KEY, name VARCHAR NOT NULL, applied_at TIMESTAMP NOT NULL)"
        )
        check_version(connection, path)
        version = schema_version(connection)
        applied = []
        for number, name, sql in migrations():
            if number > version:
                connection.execute("BEGIN TRANSACTION")
                connection.execute(sql)
                connection.execute(
                    "INSERT INTO schema_migrations VALUES ($number, $name, now()::TIMESTAMP)",
                    {"number": number, "name": name},
                )
                commit(connection, path)
                applied.append(name)
        # Closing would write the log into the file too, but say nothing when the disk is full.
        with clear_write_errors(path):
            connection.execute("CHECKPOINT")
        return applied
    finally:
        connection.close()


def check_version(connection: duckdb.DuckDBPyConnection, path: Path) -> bool:
    """Return True when the schema is current, False when it is older.

    Raises:
        WarehouseError: the schema is newer than this glasshouse knows.
    """
    version, newest = schema_version(connection), migrations()[-1][0]
    if version > newest:
        raise WarehouseError(
            f"{path} has schema version {version}; this glasshouse knows versions up to {newest}. "
            "Upgrade it with `pip install --upgrade glasshouse`."
        )
    return version == newest
