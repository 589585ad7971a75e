"""One extraction per target at a time. The lock is the system's: it ends with the process, however that ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from glasshouse.schema.errors import LockedError, WarehouseError
from glasshouse.warehouse.catalogue import LOCK_TIMEOUT_VARIABLE, lock_timeout


@contextmanager
def exclusive(files: Sequence[Path], timeout: float | None = None) -> Iterator[None]:
    """Hold a lock on every file for as long as the block runs; wait for another process that holds one.

    Args:
        files: lock files; they stay, since removing one would let two processes hold two files of one name.
        timeout: seconds to wait; $GLASSHOUSE_LOCK_TIMEOUT, else 60, when None.

    Raises:
        LockedError: still held; the message says by whom.
    """
    with ExitStack() as stack:
        # Always in the same order, so that two processes that want the same pair cannot wait for each other.
        for file in sorted(files):
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(filelock.FileLock(file, timeout=lock_timeout() if timeout is None else timeout))
            except filelock.Timeout:
                raise LockedError(
                    f"{file.stem} is being written by {_holder(file)}. Wait until it is done or stop it, then try "
                    f"again; {LOCK_TIMEOUT_VARIABLE}=SECONDS waits longer."
                ) from None
            except OSError as error:
                raise WarehouseError(
                    f"Cannot write {file}: {error.strerror or error}. Check the permissions of the warehouse."
                ) from error
            _note(file).write_text(f"{os.getpid()} {' '.join(sys.argv)}"[:300], encoding="utf-8")
        yield


def _note(file: Path) -> Path:
    return file.with_suffix(".holder")


def _holder(file: Path) -> str:
    try:
        pid, _, command = _note(file).read_text(encoding="utf-8").partition(" ")
    except OSError:
        return "another process"
    return f"process {pid} ({command})"
