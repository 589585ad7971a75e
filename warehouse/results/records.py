"""What is known about a run and about the table that an analyzer fills."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

OWN_COLUMNS = ("run_id", "space", "stale")
"""Columns of every result view that the runner adds."""


class Input(NamedTuple):
    """Something that a run has read, and its state then.

    `kind` is `space`, `embedding`, `table` (of the catalogue), `run`, `newest` or `file`. The name of a run is its
    slot; of the newest run of an analyzer on a space, whatever its facets, it is these two; of a file it is the path,
    from the warehouse on where it lies inside.
    """

    kind: str
    name: str
    state: str


@dataclass(frozen=True)
class ResultTable:
    """The table of one analyzer; see `glasshouse.plugins.analyzer.Analyzer` for the fields' meaning."""

    analyzer: str
    schema: pa.Schema
    in_features: Sequence[str] = ()
    strongest: str | None = None
    is_incremental: bool = False


@dataclass(frozen=True)
class Request:
    """What is to be computed. Two requests that are equal give the same rows as long as nothing they read changes."""

    analyzer: str
    version: str
    space: str
    parameters: Mapping[str, Any]
    facets: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slot(self) -> str:
        """Name of the place that the newest of such runs takes: analyzer, space and facets."""
        return "|".join((self.analyzer, self.space, as_json(self.facets)))


@dataclass(frozen=True)
class Run:
    """A run that was committed. `duration_s` in seconds, `started_at` in UTC.

    `is_latest`: it is the newest of its slot; where runs add to each other, also when some of its rows still count.
    """

    run_id: int
    analyzer: str
    version: str
    space: str
    parameters: dict[str, Any]
    facets: dict[str, Any]
    seed: int | None
    notes: dict[str, Any]
    n_rows: int
    vectors: str | None
    started_at: datetime
    duration_s: float
    is_latest: bool
    is_stale: bool

    @property
    def slot(self) -> str:
        """As of `Request`."""
        return "|".join((self.analyzer, self.space, as_json(self.facets)))


def as_json(value: Any) -> str:
    """Return the one JSON text of a value, so that equal values are equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
