"""Runs the command line in forks of a process that has imported everything already.

Started as a script, it reads one JSON request a line from stdin and answers each with one line. A fork takes a
twentieth of a second where a new interpreter takes three to import torch, and a kill at a random time hits the
command's work, not its imports. LanceDB is not imported before forking: it keeps a thread of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple


class Done(NamedTuple):
    """What came of one command; `returncode` is negative for a signal, as in subprocess."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float


class Driver:
    """The process that forks, and the way to ask it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self,
        words: list[str],
        cwd: Path,
        *,
        environment: dict[str, str] | None = None,
        input: str = "",
        kill_after: float | None = None,
        die_at: tuple[str, str, bool] | None = None,
    ) -> Done:
        """Run a command; kill it after some seconds, or at a function: (module[:class], name, after its call)."""
        request = {"words": words, "cwd": str(cwd), "environment": dict(os.environ, **(environment or {})),
                   "input": input, "kill_after": kill_after, "die_at": die_at}  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


def serve() -> None:
    """Answer requests until stdin ends."""
    for module in ("torch", "polars", "pyarrow.parquet", "duckdb", "scipy.sparse", "rich.table", "rich.console"):
        importlib.import_module(module)
    for module in ("cli.main", "cli.extraction", "cli.sql_output", "warehouse.extraction.extract",
                   "warehouse.intake.add", "warehouse.checking.check", "warehouse.importing.store",
                   "warehouse.importing.files",
                   "warehouse.summary", "plugins.manager"):  # fmt: skip
        importlib.import_module(f"glasshouse.{module}")
    for line in sys.stdin:
        request = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as given:
            given.write(request["input"].encode())
            given.seek(0)
            started = time.monotonic()
            child = os.fork()
            if child == 0:
                run_child(request, given.fileno(), out.fileno(), err.fileno())
            status = wait(child, request["kill_after"])
            seconds = time.monotonic() - started
            texts = [text_of(file) for file in (out, err)]
        print(json.dumps(Done(os.waitstatus_to_exitcode(status), *texts, seconds)._asdict()), flush=True)


def wait(child: int, kill_after: float | None) -> int:
    deadline = None if kill_after is None else time.monotonic() + kill_after
    while True:
        pid, status = os.waitpid(child, os.WNOHANG if deadline else 0)
        if pid:
            return status
        if deadline and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            deadline = None
        time.sleep(0.001)


def text_of(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode())


def run_child(request: dict[str, Any], given: int, out: int, err: int) -> None:
    """Become the command: its folder, environment and streams. Never returns."""
    code = 70
    try:
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        for stream, descriptor in ((given, 0), (out, 1), (err, 2)):
            os.dup2(stream, descriptor)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(fd, mode) for fd, mode in ((0, "r"), (1, "w"), (2, "w")))
        sys.argv = ["glasshouse", *request["words"]]
        if request["die_at"]:
            make_deadly(*request["die_at"])
        from glasshouse.cli.main import exit_code

        code = exit_code()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def make_deadly(place: str, name: str, after: bool) -> None:
    """Make a function kill its process when it is called, or when it returns; wherever it was imported to."""
    module, _, owner = place.partition(":")
    holder = importlib.import_module(module)
    original = getattr(getattr(holder, owner) if owner else holder, name)

    def deadly(*arguments: Any, **named: Any) -> None:
        if after:
            original(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    if owner:
        setattr(getattr(holder, owner), name, deadly)
        return
    for loaded in [m for n, m in sys.modules.items() if n.startswith("glasshouse.")]:
        if getattr(loaded, name, None) is original:
            setattr(loaded, name, deadly)


if __name__ == "__main__":
    serve()
