"""`python -m benchmarks [NAME ...] [--quick] [--write]`: run benchmarks and print one table."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import (
    audits,
    clarity,
    components,
    cooccurrence,
    correlation,
    extraction,
    hierarchy,
    keeping,
    locality,
    memory,
    monosemanticity,
    probe,
    queries,
    search,
    startup,
    storage,
    training,
    widths,
)
from benchmarks.synthetic import Setting
from benchmarks.table import Row, aligned, machine, write
from benchmarks.timing import say
from benchmarks.truth import rows as truth

# In this order: what finalising builds is what is asked afterwards.
BENCHMARKS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "storage": storage.run,
    "queries": queries.run,
    "monosemanticity": monosemanticity.run,
    "clarity": clarity.run,
    "correlation": correlation.run,
    "cooccurrence": cooccurrence.run,
    "locality": locality.run,
    "hierarchy": hierarchy.run,
    "probe": probe.run,
    "training": training.run,
    "search": search.run,
    "truth": truth.run,
    "startup": startup.run,
    "audit": audits.run,
    "components": components.run,
    "widths": widths.run,
    "memory": memory.run,
    "keeping": keeping.run,
    "extraction": extraction.run,
}


def main(words: Sequence[str] | None = None) -> list[Row]:
    """Run what was asked for; returns the rows."""
    description = "Speed, memory and size, as ratios; truth on the starter world."
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs, the figures mean little")
    parser.add_argument("--write", action="store_true", help="bring the table in docs/benchmarks.md up to date")
    parser.add_argument("--scratch", type=Path, help="where temporary files go (about 3 GB)")
    options = parser.parse_args(words)
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark '{unknown[0]}'; choose from {', '.join(BENCHMARKS)}")
    if options.quick and options.write:
        parser.error("--quick figures mean too little to be written down; leave one of --quick and --write out")
    load = os.getloadavg()[0]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="glasshouse-benchmarks-", dir=options.scratch) as scratch:
        setting = Setting(Path(scratch), quick=options.quick)
        for name in options.names or BENCHMARKS:
            say(name)
            for row in BENCHMARKS[name](setting):
                say("  " + " | ".join(row.cells()[1:]))
                rows.append(row)
    description = machine(load)
    print(f"{description}\n\n{aligned([row.cells() for row in rows])}")
    if options.write:
        write(rows, description)
    return rows


if __name__ == "__main__":
    main()
