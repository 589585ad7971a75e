"""Ctrl-C while DuckDB works: the same words and exit code as everywhere else."""

from __future__ import annotations

import threading
from collections.abc import Callable

import duckdb
import pytest

from glasshouse.cli import main
from glasshouse.schema.errors import WarehouseError

LONG = "SELECT sum(a.range * b.range) FROM range(10_000_000) a, range(100_000) b"


def during_a_query(error: type[Exception] | None) -> None:
    connection = duckdb.connect()
    # As a plain interrupt of the connection: the signal itself would reach the test's runner as well.
    timer = threading.Timer(0.2, connection.interrupt)
    timer.start()
    try:
        connection.execute(LONG).fetchall()
    except duckdb.Error as found:
        if error is None:
            raise
        raise error("it could not be read") from found
    finally:
        timer.join()
        connection.close()


@pytest.mark.parametrize("wrapped", [None, WarehouseError])
def test_an_interrupted_query_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrapped: type[Exception] | None
) -> None:
    assert exit_code_of(monkeypatch, lambda: during_a_query(wrapped)) == 130
    assert capsys.readouterr().err.startswith("glasshouse: Stopped.")


def test_an_interrupt_that_comes_as_a_runtime_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(words: str) -> None:
        raise RuntimeError(words)

    assert exit_code_of(monkeypatch, lambda: fails("Query interrupted")) == 130
    assert capsys.readouterr().err.startswith("glasshouse: Stopped.")
    assert exit_code_of(monkeypatch, lambda: fails("another fault")) == 1
    assert "Unexpected RuntimeError: another fault" in capsys.readouterr().err


def exit_code_of(monkeypatch: pytest.MonkeyPatch, run: Callable[[], None]) -> int:
    monkeypatch.setattr(main.cli, "main", lambda standalone_mode: run())
    return main.exit_code()
