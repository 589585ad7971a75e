"""`check`: asks every part for its problems and mends them where asked to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from glasshouse.warehouse import surface
from glasshouse.warehouse.checking.embeddings import embedding_problems
from glasshouse.warehouse.checking.images import image_problems
from glasshouse.warehouse.checking.leftovers import leftover_problems
from glasshouse.warehouse.checking.problems import Problem
from glasshouse.warehouse.checking.results import result_problems
from glasshouse.warehouse.checking.spaces import space_problems
from glasshouse.warehouse.layout import Layout


@dataclass(frozen=True)
class CheckReport:
    """What was found: `repaired` was mended, `remaining` was not. Nothing in both when all is well."""

    remaining: list[Problem]
    repaired: list[Problem]


def check(layout: Layout, *, repair: bool = False, hashes: bool = False) -> CheckReport:
    """Compare every part of a warehouse with every other.

    Args:
        layout: of the warehouse.
        repair: mend what can be mended.
        hashes: read everything: image files against their SHA-256, blocks of spaces against their checksums, vectors.
    """
    remaining, repaired = [], []
    # attach.sql comes last: what it should say depends on the repairs before it.
    for part in (_store_problems(layout, hashes=hashes), _attach_problems(layout)):
        for problem in list(part):
            if repair and problem.repair is not None:
                problem.repair()
                repaired.append(problem)
            else:
                remaining.append(problem)
    return CheckReport(remaining, repaired)


def _store_problems(layout: Layout, *, hashes: bool) -> Iterator[Problem]:
    yield from space_problems(layout, hashes=hashes)
    yield from embedding_problems(layout, hashes=hashes)
    yield from result_problems(layout, hashes=hashes)
    yield from leftover_problems(layout)
    yield from image_problems(layout, hashes=hashes)


def _attach_problems(layout: Layout) -> Iterator[Problem]:
    file = layout.attach_sql
    if not file.is_file() or file.read_text(encoding="utf-8") != surface.attach_text(layout):
        yield Problem(
            f"file {file}",
            "does not match the spaces, or the warehouse was moved",
            "written anew",
            lambda: surface.write_attach_sql(layout),
        )
