"""Running analyses: parameters checked, requirements first, nothing done twice, results committed whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pydantic

from glasshouse.plugins.analyzer import Analyzer, Parameters
from glasshouse.plugins.conforming import conforming
from glasshouse.plugins.contracts import Registry
from glasshouse.plugins.view import AnalysisView
from glasshouse.schema.errors import GlasshouseError, ModelError, PluginError, UsageError
from glasshouse.warehouse.extraction.locks import exclusive
from glasshouse.warehouse.results.records import Request, ResultTable, Run
from glasshouse.warehouse.results.store import Outcome, all_runs, commit_run, identical_run, latest_run

if TYPE_CHECKING:
    from glasshouse.warehouse.warehouse import Progress, Warehouse

Analyzers = Registry[Analyzer[Any]]


@dataclass(frozen=True)
class AnalysisReport:
    """What came of one request: the run and whether it is new, why it was left out, or how it failed.

    `replaced` is the run whose place in the views a new one has taken, when it had other parameters.
    """

    analyzer: str
    space: str
    run: Run | None
    is_new: bool = False
    left_out: str = ""
    failure: str = ""
    replaced: Run | None = None


@dataclass(frozen=True)
class Runner:
    """Runs analyses on one warehouse.

    Attributes:
        warehouse: that is read and written.
        analyzers: by name.
        step: told `NAME on SPACE` when one begins; gives the progress function for it.
    """

    warehouse: Warehouse
    analyzers: Analyzers
    step: Callable[[str], Progress] = lambda title: lambda done, total: None

    def run(
        self, name: str, space: str, given: Mapping[str, Any] | None = None, *, force: bool = False
    ) -> Iterator[AnalysisReport]:
        """Run one analysis on one space, and before it those whose results it reads and that are missing or stale.

        Args:
            name: of the analyzer.
            space: name of a finished space.
            given: parameters by name; the others have their defaults.
            force: compute it although an identical result is there.

        Yields:
            A report for each that was needed, in the order of running; the one asked for comes last.

        Raises:
            UsageError: unknown names, parameters out of range, or what the analysis needs is not there.
            PluginError: the analyzer failed; the message names it. Nothing of it is stored.
        """
        analyzer = self.analyzers.get(name, "`glasshouse analyze --help` lists them.")
        parameters = parse_parameters(name, analyzer.parameters, given or {})
        for required in self._order(name)[:-1]:
            try:
                yield from self._ensure(required, space)
            except UsageError as error:
                raise UsageError(f"'{name}' reads the result of '{required}', which cannot be run: {error}") from error
        for required, needed in self._required_with(name, space, parameters):
            for report in self.run(required, space, needed):
                if report.is_new:
                    yield report
        yield self._run_one(name, space, parameters, force=force)

    def _required_with(self, name: str, space: str, parameters: Parameters) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Ask an analyzer what it reads with these parameters."""
        analyzer = self.analyzers.get(name)
        view = AnalysisView(self.warehouse, space)
        with self._blamed(name):
            return analyzer.requires_with(view, analyzer.resolve(view, parameters))

    def run_on(
        self, name: str, spaces: Sequence[str], given: Mapping[str, Any] | None = None, *, force: bool = False
    ) -> Iterator[AnalysisReport]:
        """Run one analysis on the named spaces, or on every finished one that it fits.

        Of spaces that were not named, those that it does not fit are left out and reported with their reason.

        Raises:
            UsageError: as `run`; without named spaces only where it fits none of them.
            PluginError: as `run`.
        """
        chosen = chosen_spaces(self.warehouse, spaces)
        if spaces or len(chosen) == 1:
            for space in chosen:
                yield from self.run(name, space, given, force=force)
            return
        # What is wrong with the request itself is wrong on every space.
        parse_parameters(
            name, self.analyzers.get(name, "`glasshouse analyze --help` lists them.").parameters, given or {}
        )
        reasons = []
        for space in chosen:
            try:
                yield from self.run(name, space, given, force=force)
            except UsageError as error:
                reasons.append(str(error))
                yield AnalysisReport(name, space, None, left_out=str(error))
        if len(reasons) == len(chosen):
            why = reasons[0] if len(set(reasons)) == 1 else f"'{name}' fits none of the spaces {', '.join(chosen)}."
            raise UsageError(why)

    def preview(self, name: str, space: str, given: Mapping[str, Any] | None = None) -> str:
        """Say what a run would do, without doing it.

        Raises:
            UsageError: as `run`.
        """
        analyzer = self.analyzers.get(name, "`glasshouse analyze --help` lists them.")
        view = AnalysisView(self.warehouse, space)
        with self._blamed(name):
            parameters = analyzer.resolve(view, parse_parameters(name, analyzer.parameters, given or {}))
            return str(analyzer.preview(view, parameters))

    def run_all(self, space: str, *, force: bool = False) -> Iterator[AnalysisReport]:
        """Run everything that is possible on a space, requirements first: what is missing or stale.

        What was never run gets default parameters. Yields a report as each is done. One that was left out says why;
        a failure of one does not keep the others.
        """
        reports: dict[str, AnalysisReport] = {}
        for name in self._order(*(name for name, _, _ in self.analyzers)):
            lacking = [r for r in self.analyzers.get(name).requires if reports[r].run is None]
            if lacking:
                why = f"it needs the result of '{lacking[0]}', which is not there"
                reports[name] = AnalysisReport(name, space, None, left_out=why)
                yield reports[name]
                continue
            for given in self._due(name, space, force=force):
                reports[name] = self._try_one(name, space, given, force=force)
                yield reports[name]

    def _due(self, name: str, space: str, *, force: bool) -> list[Mapping[str, Any]]:
        """Return the parameters with which an analysis is to be run: those of its results, or the defaults.

        So what was asked for with other parameters stays as it is, and is renewed as it was when it is stale. Of
        results that stand side by side all stale ones are renewed; where none is stale, the newest is reported.
        """
        runs = self._latest(name, space)
        stale = [run.parameters for run in runs if force or not self._is_current(run)]
        return list(stale or [run.parameters for run in runs[-1:]] or [{}])

    def _latest(self, name: str, space: str) -> list[Run]:
        runs = all_runs(self.warehouse.catalogue)
        return [run for run in runs if run.is_latest and (run.analyzer, run.space) == (name, space)]

    def _is_current(self, run: Run) -> bool:
        """Say whether a run would come out the same now: nothing it has read has changed, nor has the analyzer."""
        return not run.is_stale and run.version == self.analyzers.get(run.analyzer).version

    def _try_one(self, name: str, space: str, given: Mapping[str, Any], *, force: bool) -> AnalysisReport:
        try:
            parameters = parse_parameters(name, self.analyzers.get(name).parameters, given)
            return self._run_one(name, space, parameters, force=force, may_pay=False)
        except UsageError as error:
            again = (
                f" That is how it was run before; `glasshouse analyze {name}` runs it with defaults." if given else ""
            )
            return AnalysisReport(name, space, None, left_out=f"{error}{again}")
        except (PluginError, ModelError) as error:
            return AnalysisReport(name, space, None, failure=str(error))

    def _order(self, *names: str) -> list[str]:
        """Return the names with everything that they require, each after what it requires."""
        ordered: list[str] = []

        def visit(name: str, below: tuple[str, ...]) -> None:
            if name in below:
                circle = " → ".join((*below[below.index(name) :], name))
                raise PluginError(f"Analyzers require each other in a circle: {circle}.")
            if name in ordered:
                return
            for required in self.analyzers.get(name, f"'{below[-1] if below else name}' requires it.").requires:
                visit(required, (*below, name))
            ordered.append(name)

        for name in names:
            visit(name, ())
        return ordered

    def _ensure(self, name: str, space: str) -> Iterator[AnalysisReport]:
        """Run a required analysis with its defaults unless a result of it is there, with whatever parameters."""
        run = latest_run(self.warehouse.catalogue, name, space)
        if run is None or not self._is_current(run):
            given = {} if run is None else run.parameters
            parameters = parse_parameters(name, self.analyzers.get(name).parameters, given)
            yield self._run_one(name, space, parameters)

    def _run_one(
        self, name: str, space: str, parameters: Parameters, *, force: bool = False, may_pay: bool = True
    ) -> AnalysisReport:
        analyzer = self.analyzers.get(name)
        layout = self.warehouse.layout
        with exclusive([layout.lock_file("analysis", f"{name}-{space}")]):
            view = AnalysisView(self.warehouse, space, self.step(f"{name} on {space}"))
            with self._blamed(name):
                parameters = analyzer.resolve(view, parameters)
            values = parameters.model_dump(mode="json")
            facets = {facet: values[facet] for facet in analyzer.facets}
            request = Request(name, analyzer.version, space, values, facets)
            same = identical_run(self.warehouse.catalogue, request, is_incremental=analyzer.is_incremental)
            if same is not None and not force:
                return AnalysisReport(name, space, same)
            if not may_pay and analyzer.asks_a_service(view, parameters):
                why = f"it asks a service, which can cost money; run `glasshouse analyze {name}` yourself"
                return AnalysisReport(name, space, None, left_out=why)
            before = self._in_place(request, analyzer)
            outcome = self.compute(name, analyzer, view, parameters)
            run_id = commit_run(layout, request, _table_of(name, analyzer), outcome)
        run = next(run for run in all_runs(self.warehouse.catalogue) if run.run_id == run_id)
        return AnalysisReport(name, space, run, is_new=True, replaced=before)

    def _in_place(self, request: Request, analyzer: Analyzer[Any]) -> Run | None:
        """Return the run that a new one will push out of the views although it was asked for with other parameters."""
        if analyzer.is_incremental:
            return None
        runs = [run for run in self._latest(request.analyzer, request.space) if run.slot == request.slot]
        return next((run for run in runs if run.parameters != request.parameters), None)

    def compute(self, name: str, analyzer: Analyzer[Any], view: AnalysisView, parameters: Parameters) -> Outcome:
        """Run an analyzer and check its rows; nothing is stored.

        Raises:
            PluginError: it failed, or its rows are not as declared.
        """
        started, clock = datetime.now(UTC).replace(tzinfo=None), time.monotonic()
        with self._blamed(name):
            rows = analyzer.run(view, parameters)
            if rows is None:
                raise PluginError(
                    f"The analyzer '{name}' gave nothing; `run` returns a table or yields record batches."
                )
            batches = [rows] if isinstance(rows, pa.Table) else [pa.table(batch) for batch in rows]
            table = pa.concat_tables(batches) if batches else analyzer.schema.empty_table()
            table = conforming(name, analyzer, table, view.n_features)
        return Outcome(
            table, view.inputs(), started, time.monotonic() - clock, getattr(parameters, "seed", None), view.notes
        )

    def _blamed(self, name: str) -> _Blame:
        return _Blame(name, self.analyzers.owner(name))


@dataclass(frozen=True)
class _Blame:
    """Turns what an analyzer raises into an error that names it and its plugin; the family's own pass."""

    analyzer: str
    plugin: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (Exception, SystemExit)) and not isinstance(error, GlasshouseError):
            words = " ".join(str(error).split())[:300]
            raise PluginError(
                f"The analyzer '{self.analyzer}' of the plugin '{self.plugin}' failed: {type(error).__name__}: "
                f"{words}. Nothing of it was stored; GLASSHOUSE_DEBUG=1 shows where it failed."
            ) from error


def parse_parameters(name: str, model: type[Parameters], given: Mapping[str, Any]) -> Parameters:
    """Check parameters and fill in defaults.

    Raises:
        UsageError: an unknown name or a value that does not fit; says which and why.
    """
    try:
        return model(**given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        option = "--" + "-".join(str(first["loc"][0]).split("_")) if first["loc"] else "the parameters"
        if first["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields) or "none"
            raise UsageError(f"'{name}' has no parameter '{first['loc'][0]}'. It has: {known}.") from None
        said = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{name}: {option}: {said} (not {first['input']!r}).") from None


def _table_of(name: str, analyzer: Analyzer[Any]) -> ResultTable:
    return ResultTable(name, analyzer.schema, analyzer.in_features, analyzer.strongest, analyzer.is_incremental)


def chosen_spaces(warehouse: Warehouse, spaces: Sequence[str]) -> list[str]:
    """Return the spaces that are meant: those named, else every finished one.

    Raises:
        UsageError: none is finished, or a name is unknown.
    """
    if spaces:
        for name in spaces:
            warehouse.space(name)
        return list(spaces)
    ready = warehouse.spaces().filter(state="ready")["name"].to_list()
    if not ready:
        raise UsageError("There is no finished space to analyse. Make one with `glasshouse extract`.")
    return [str(name) for name in ready]
