"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give a temporary path beside `file`, which takes its place when the block ends without an error.

    Whoever reads `file` meanwhile sees the old content; whatever ends the block early leaves it as it was. After a
    kill the temporary, `.NAME.tmp-…`, stays behind.

    Raises:
        OSError: it cannot be written; named `file`.
    """
    temporary = file.with_name(f".{file.name}.tmp-{os.getpid()}-{threading.get_ident()}")
    try:
        yield temporary
        temporary.replace(file)
    except OSError as error:
        # A full disk or a limit on files names none, and nobody knows the temporary's name.
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        temporary.unlink(missing_ok=True)
