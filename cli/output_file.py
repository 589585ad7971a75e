"""Files that commands write where the user says: mistakes are said before the work begins, with the user's own path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glasshouse.schema.errors import UsageError


def check_output(path: Path, example: str) -> None:
    """See that a file can be named so.

    Args:
        path: that the user gave.
        example: a file name that would fit, e.g. `report.html`.

    Raises:
        UsageError: it is a folder, or its folder is not there.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder. Name a file in it, e.g. {path / example}.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent} for {path.name}. Make it first, or name another place.")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Write a file inside this context; what the system refuses is said of `path`, not of a temporary beside it.

    Raises:
        OSError: as it came, with the user's path.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is None or Path(error.filename).parent != path.parent:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
