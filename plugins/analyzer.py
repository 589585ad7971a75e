"""What an analysis is: its parameters, the table it fills, what it needs, and its `run`.

An analyzer computes one table for one space. Everything else is the runner's: the command line and its help come from
`parameters`, the rows are committed with their provenance in one transaction, and every input that the view hands out
is noted, so that a result knows when it has become stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView


class Parameters(BaseModel):
    """Base of an analyzer's parameters. Each field needs a default and a description: it becomes an option.

    Fields can be int, float, bool, str, Literal, Path, a tuple of str or int (an option that can be repeated), and
    `… | None`. A field called `seed` is recorded as the run's seed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


ParametersT = TypeVar("ParametersT", bound=Parameters)

Rows: TypeAlias = "pa.Table | Iterable[pa.RecordBatch]"
"""What `run` gives: a whole table, or batches one after the other."""


class Analyzer(Generic[ParametersT]):
    """Base of an analyzer. The name under which it is registered is that of its command, its table and its view.

    Attributes:
        version: changes when the same inputs give another result; older results are then computed anew.
        summary: one line for `glasshouse analyze --help`.
        parameters: the model of its parameters.
        schema: the columns of its table; `feature_id` (int32) first. A column `vector`, a list of float32 of equal
            lengths (or null in every row), goes to LanceDB instead; with it a feature has one row, or several that a
            column `rank` (int32) counts from 0. `space`, `run_id` and `stale` are added by the runner.
        requires: analyzers whose latest result it reads; missing or stale ones are run first, with their defaults.
        facets: names of parameters for whose values results stand side by side: `monosemanticity` keeps its variants
            `top` and `all` apart. Of runs that differ in other parameters the newest counts. Put the facets into the
            table too, as columns, so that queries can tell the rows apart.
        in_features: columns that the view `features` shows, from the newest run of each space.
        strongest: for tables with several rows for each feature: `features` shows the row where the absolute value of
            this column is largest.
        is_incremental: runs add to each other: of each feature the newest row counts (`labels`).
    """

    version: ClassVar[str] = "1"
    summary: ClassVar[str] = ""
    parameters: ClassVar[type[Parameters]] = Parameters
    schema: ClassVar[pa.Schema]
    requires: ClassVar[tuple[str, ...]] = ()
    facets: ClassVar[tuple[str, ...]] = ()
    in_features: ClassVar[tuple[str, ...]] = ()
    strongest: ClassVar[str | None] = None
    is_incremental: ClassVar[bool] = False

    def resolve(self, view: AnalysisView, parameters: ParametersT) -> ParametersT:
        """Fill in what depends on the warehouse, e.g. which embedding is taken when none is named.

        Called before the run and before looking for an identical earlier one; what it returns is recorded. Cheap: it
        must not compute anything. Its errors are what `glasshouse analyze --all` gives as the reason for leaving the
        analyzer out.

        Raises:
            UsageError: the analysis is not possible here (no ratings, no such embedding); says what to type.
        """
        return parameters

    def requires_with(self, view: AnalysisView, parameters: ParametersT) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Name what it reads on top of `requires` with these parameters: analyzers, and the parameters they need.

        They are run first unless the same run is there. Reading such a result finds it by its facets.

        Args:
            view: as for `run`.
            parameters: as `resolve` returned them.
        """
        return ()

    def asks_a_service(self, view: AnalysisView, parameters: ParametersT) -> bool:
        """Say whether a run would call somebody else's service, which can cost money: `--all` leaves it out then."""
        return False

    def preview(self, view: AnalysisView, parameters: ParametersT) -> str:
        """Say what a run would do, for `--dry-run`: e.g. the prompt that would be sent and how often.

        Must not compute anything costly, call a service or write.

        Args:
            view: as for `run`.
            parameters: as `resolve` returned them.
        """
        return f"Would run on the space '{view.space}', on this machine only, with {parameters.model_dump_json()}."

    def run(self, view: AnalysisView, parameters: ParametersT) -> Rows:
        """Compute the table of one space.

        Nothing is written before it has returned everything; an error or Ctrl-C leaves no trace. A run that could not
        do all that it was asked for notes so, `view.note(incomplete="why")`: it is stored, and the same request then
        goes on.

        Args:
            view: reads of the space and the warehouse; records what was read.
            parameters: as `resolve` returned them.
        """
        raise NotImplementedError
