"""Writing what one source says: a source's rows are replaced as a whole, and left alone when they are the same.

So the same `add` again changes nothing, and a run that was killed is completed by the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import duckdb

from glasshouse.warehouse.quoting import identifier

if TYPE_CHECKING:
    from glasshouse.warehouse.intake.report import RowCounts


_N_DIFFERENT = """
    SELECT count(*) FROM (SELECT * FROM :table WHERE :condition EXCEPT ALL SELECT * FROM incoming)
    UNION ALL
    SELECT count(*) FROM (SELECT * FROM incoming EXCEPT ALL SELECT * FROM :table WHERE :condition)
"""


def replace_rows(connection: duckdb.DuckDBPyConnection, table: str, rows: Any, condition: str, **values: str) -> bool:
    """Make the rows of `table` that meet `condition` those of the Arrow table `rows`; return True if they were not.

    Args:
        connection: inside a transaction.
        table: name of a table of the catalogue.
        rows: an Arrow table with the columns of `table`, in its order.
        condition: SQL with `$name` parameters for `values`.
        **values: the values of the parameters.
    """
    connection.register("incoming", rows)
    counts = connection.execute(_sql(_N_DIFFERENT, table, condition), values).fetchall()
    is_different = any(count for (count,) in counts)
    if is_different:
        connection.execute(_sql("DELETE FROM :table WHERE :condition", table, condition), values)
        connection.execute(_sql("INSERT INTO :table FROM incoming", table, condition))
        connection.execute(
            "INSERT INTO revisions VALUES ($table, 1) ON CONFLICT DO UPDATE SET revision = revision + 1",
            {"table": table},
        )
    connection.unregister("incoming")
    return is_different


def _sql(statement: str, table: str, condition: str) -> str:
    """Put a table's quoted name and a condition of this package's own into a statement."""
    return statement.replace(":table", identifier(table)).replace(":condition", condition)


def record_intake(connection: duckdb.DuckDBPyConnection, counts: RowCounts) -> None:
    """Write the line of `intakes` for one source and kind."""
    connection.execute(
        "INSERT OR REPLACE INTO intakes VALUES ($source, $kind, $n_rows, $n_used, $n_rejected, $n_missing)",
        {
            "source": counts.source,
            "kind": counts.kind,
            "n_rows": counts.n_rows,
            "n_used": counts.n_used,
            "n_rejected": counts.n_rejected,
            "n_missing": counts.n_missing,
        },
    )


def replace_failures(connection: duckdb.DuckDBPyConnection, source: str, failures: Sequence[tuple[str, str]]) -> None:
    """Make (path, reason) the failures of `source` in the stage `add`."""
    import pyarrow as pa

    rows = pa.table(
        {
            "path": pa.array([path for path, _ in failures], pa.string()),
            "stage": pa.array(["add"] * len(failures), pa.string()),
            "reason": pa.array([reason for _, reason in failures], pa.string()),
            "source": pa.array([source] * len(failures), pa.string()),
        }
    )
    replace_rows(connection, "failures", rows, "source = $source AND stage = 'add'", source=source)
