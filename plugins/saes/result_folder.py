"""The folder that an SAE is written into: mistakes are said before the work begins."""

from __future__ import annotations

from pathlib import Path

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.catalogue import CATALOGUE_FILE


def check_folder(folder: Path) -> None:
    """See that a folder can be made there, or is one, and is none of a warehouse's own.

    Raises:
        UsageError: it or a folder above it is a file, or it lies within a warehouse.
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise UsageError(f"{path} is a file, and a folder is needed. Name another one.")
    whole = folder.resolve()
    for path in (whole, *whole.parents):
        if (path / CATALOGUE_FILE).is_file():
            raise UsageError(
                f"{folder} lies within the warehouse {path}, which keeps its own files there. Name a folder beside it, "
                f"e.g. {path.parent / 'sae-mine'}."
            )
