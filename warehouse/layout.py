"""Where things lie in a warehouse folder, and which warehouse is meant."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from glasshouse.schema.errors import UsageError, WarehouseError
from glasshouse.warehouse.catalogue import CATALOGUE_FILE

WAREHOUSE_VARIABLE = "GLASSHOUSE"
WAREHOUSE_SUFFIX = ".glasshouse"


@dataclass(frozen=True)
class Layout:
    """The paths of one warehouse."""

    root: Path

    @property
    def catalogue(self) -> Path:
        """The catalogue file."""
        return self.root / CATALOGUE_FILE

    @property
    def spaces(self) -> Path:
        """The folder of finalised spaces."""
        return self.root / "spaces"

    @property
    def vectors(self) -> Path:
        """LanceDB's folder."""
        return self.root / "vectors"

    @property
    def shards(self) -> Path:
        """The folder of extractions under way."""
        return self.root / "shards"

    @property
    def attach_sql(self) -> Path:
        """The script that opens the same views in any DuckDB client."""
        return self.root / "attach.sql"

    def space_file(self, name: str) -> Path:
        """The finalised file of one space."""
        return self.spaces / f"{name}.duckdb"

    def shard_folder(self, kind: str, name: str) -> Path:
        """The shards of one target; `kind` is `space` or `embedding`, so that their names cannot meet."""
        return self.shards / f"{kind}-{name}"

    def lock_file(self, kind: str, name: str) -> Path:
        """The lock of one target: whoever writes its shards or finalises them holds it."""
        return self.shards / f"{kind}-{name}.lock"


def find_warehouse(given: str | None, here: Path | None = None) -> Path:
    """Say which warehouse is meant: the one given, else $GLASSHOUSE, else the only `*.glasshouse` folder here.

    Raises:
        UsageError: none or several are here.
        WarehouseError: the named folder is no warehouse.
    """
    name = given or os.environ.get(WAREHOUSE_VARIABLE)
    if name:
        root = Path(name)
        if not (root / CATALOGUE_FILE).is_file():
            origin = "" if given else f" (from ${WAREHOUSE_VARIABLE})"
            what = "has no " + CATALOGUE_FILE if root.is_dir() else "does not exist"
            raise WarehouseError(
                f"{root}{origin} is not a warehouse: it {what}. Create one with `glasshouse init {root}`."
            )
        return root
    here = here or Path()
    found = sorted(path.parent for path in here.glob(f"*{WAREHOUSE_SUFFIX}/{CATALOGUE_FILE}"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"No warehouse was named and there is no *{WAREHOUSE_SUFFIX} folder here. Name one with -w DIR or "
            f"${WAREHOUSE_VARIABLE}, or create one with `glasshouse init DIR`."
        )
    names = ", ".join(path.name for path in found)
    raise UsageError(f"Several warehouses are here: {names}. Name one with -w DIR or ${WAREHOUSE_VARIABLE}.")
