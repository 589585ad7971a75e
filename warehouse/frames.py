"""DuckDB results as polars frames, by way of Arrow and without copying the columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb
    import polars as pl


def frame_of(result: duckdb.DuckDBPyRelation) -> pl.DataFrame:
    """Return a pending query as a polars frame."""
    import polars as pl

    frame = pl.from_arrow(result.to_arrow_table())
    if isinstance(frame, pl.Series):  # from_arrow's other return type; a table always gives a frame
        return frame.to_frame()
    return frame
