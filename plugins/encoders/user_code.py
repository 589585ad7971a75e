"""Running a user's own Python: which file, and one line where it fails."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from glasshouse.plugins.encoders.tapping import PassEnds
from glasshouse.plugins.hub import one_line
from glasshouse.schema.errors import GlasshouseError, ModelError

EXAMPLE = "A spec reads python:FILE:FUNCTION, e.g. python:model.py:build."


class _Source(SourceFileLoader):
    """Reads the source each time: byte code that lies beside it may be of what the file was a moment ago."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Know nothing of the file's age, so that no byte code is believed or written."""
        raise OSError(f"{path} is always compiled anew")


def checked_file(name: str) -> tuple[Path, str]:
    """Take `FILE:FUNCTION` apart; the file's path becomes absolute.

    Raises:
        ModelError: it has another form, there is no such file, or it lies inside a warehouse.
    """
    path, _, function = name.rpartition(":")
    if not path or not function.isidentifier():
        raise ModelError(f"'python:{name}' names no file and function. {EXAMPLE}")
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ModelError(f"There is no file {file}. {EXAMPLE}")
    from glasshouse.warehouse.catalogue import CATALOGUE_FILE  # late: it imports DuckDB, which not every command needs

    inside = next((folder for folder in file.parents if (folder / CATALOGUE_FILE).is_file()), None)
    if inside is not None:
        raise ModelError(
            f"{file} lies inside the warehouse {inside}, and nothing in a warehouse is run. Keep your code elsewhere."
        )
    return file, function


def digest(file: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run_function(spec: str, file: Path, function: str) -> Any:
    """Run a file and call one of its functions; modules beside the file can be imported meanwhile.

    Raises:
        ModelError: the code fails, or has no such function.
    """
    from glasshouse.plugins.encoders.torchvision_shim import ensure_torchvision_operators  # late: it imports torch

    ensure_torchvision_operators()  # the user's code may well begin with torchvision
    name = f"glasshouse_user_{file.stem}_{digest(file)[:12]}"
    found = importlib.util.spec_from_file_location(name, file, loader=_Source(name, str(file)))
    if found is None or found.loader is None or file.suffix != ".py":
        raise ModelError(f"{file} is no Python file. {EXAMPLE}")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    sys.path.insert(0, str(file.parent))
    try:
        with user_errors(spec, file):
            found.loader.exec_module(module)
        made: Callable[[], Any] | None = getattr(module, function, None)
        if not callable(made):
            raise ModelError(_no_function(file, function, module, name))
        with user_errors(spec, file):
            return made()
    finally:
        sys.path.remove(str(file.parent))


def _no_function(file: Path, function: str, module: Any, name: str) -> str:
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and not isinstance(value, type) and getattr(value, "__module__", None) == name
    ]
    return f"{file} has no function '{function}'. Its functions: {', '.join(own) or 'none'}."


@contextmanager
def user_errors(spec: str, file: Path) -> Iterator[None]:
    """Turn what a user's code raises into one line with the place in it.

    Raises:
        ModelError: anything but the project's own errors, and what ends a pass on purpose.
    """
    try:
        yield
    except (GlasshouseError, PassEnds):
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"{spec} failed in {_place(error, file)}: {type(error).__name__}: {one_line(error)}."
        ) from error


def _place(error: BaseException, file: Path) -> str:
    """File and line: the last ones in the user's file, in its folder, or anywhere."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(file)]
    near = [frame for frame in frames if Path(frame.filename).parent == file.parent]
    frame = (own or near or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"
