"""Rows of results: how they are printed, and how the block in docs/benchmarks.md is replaced by them."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import date
from importlib import metadata
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
LIBRARIES = ("torch", "open_clip_torch", "duckdb", "lancedb", "pyarrow", "polars", "numpy", "pillow")
ORDER = (
    "finalise",
    "size",
    "queries",
    "monosemanticity",
    "clarity",
    "correlation",
    "cooccurrence",
    "locality",
    "hierarchy",
    "probe",
    "training",
    "search",
    "truth",
    "startup",
    "audit",
    "components",
    "widths",
    "memory",
    "keeping",
    "extraction",
)
HEADINGS = ("benchmark", "what", "measured", "against", "ratio", "target", "met")


@dataclass(frozen=True)
class Row:
    """One result.

    Attributes:
        benchmark: name of the benchmark.
        what: what was measured.
        measured: the figure, with its unit.
        against: the limit or the peer, measured in the same run; empty where the target is absolute.
        ratio: of the two, as the target means it; None where there is none.
        target: as the requirement states it; empty for rows that only inform.
        met: whether it is met; None for rows that only inform.
    """

    benchmark: str
    what: str
    measured: str
    against: str = ""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None

    def cells(self) -> tuple[str, ...]:
        """The row as texts, in the order of `HEADINGS`."""
        benchmark, what, measured, against, ratio, target, met = astuple(self)
        return (
            benchmark,
            what,
            measured,
            against,
            "" if ratio is None else f"{ratio:.2f}",
            target,
            "" if met is None else "yes" if met else "NO",
        )


def aligned(cells: Sequence[tuple[str, ...]]) -> str:
    """Rows of cells as a Markdown table whose columns also line up in a terminal."""
    lines = [HEADINGS, *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)


def machine(load_before: float) -> str:
    """Describe the machine: cores, processor, memory, load of other work, versions of the libraries.

    Args:
        load_before: mean number of runnable processes over the minute before the run.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    return (
        f"Measured on {date.today().isoformat()}: {os.cpu_count()} cores ({processor()}), {memory:.0f} GiB of memory, "
        f"{platform.system()}, Python {platform.python_version()}; {versions}. "
        f"Load before the run: {load_before:.1f} runnable processes."
    )


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write(rows: Sequence[Row], description: str, document: Path = DOCUMENT) -> None:
    """Bring the block between the markers up to date: the machine's description, and the table's rows.

    Rows of benchmarks that were not run now stay.

    Raises:
        ValueError: the document has no such block.
    """
    text = document.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    old, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no block between '{BEGIN}' and '{END}'.")
    new = [row.cells() for row in rows]
    measured = {cells[0] for cells in new}
    kept = [cells for cells in table_cells(old) if cells[0] not in measured]
    cells = sorted(kept + new, key=lambda cells: ORDER.index(cells[0]))
    document.write_text(f"{head}{BEGIN}\n{description}\n\n{aligned(cells)}\n{END}{tail}", encoding="utf-8")


def table_cells(text: str) -> list[tuple[str, ...]]:
    """The cells of every row below the headings of a table that `aligned` made."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[1:]]
