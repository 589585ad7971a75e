"""What text search finds, for the report and the demo: the same search as `glasshouse search`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from glasshouse.warehouse.search.index import concept_runs
from glasshouse.warehouse.search.questions import Question
from glasshouse.warehouse.search.search import search_features
from glasshouse.warehouse.showing.findings import Scored

if TYPE_CHECKING:
    from glasshouse.warehouse.warehouse import Warehouse

N_HITS = 3
"""Features that are shown for each word."""


def searchable(warehouse: Warehouse, spaces: Sequence[str]) -> Sequence[str]:
    """Return those of the spaces that have concept vectors; all of them where none has any."""
    known = {run.space for run in concept_runs(warehouse)}
    return [space for space in spaces if space in known] or spaces


def hits_for(
    warehouse: Warehouse, space: str, words: Sequence[str], templates: Sequence[str] = (), k: int = N_HITS
) -> dict[str, list[Scored]]:
    """Return the features of a space that fit each text best, best first.

    Raises:
        UsageError: the space has no concept vectors with which texts can be compared; says what to run.
    """
    texts = tuple(dict.fromkeys(words))
    hits = search_features(warehouse, Question(texts=texts, templates=tuple(templates)), [space], k).hits
    found: dict[str, list[Scored]] = {text: [] for text in texts}
    for query, feature, score in zip(hits.query_h.tolist(), hits.id_h.tolist(), hits.score_h.tolist(), strict=True):
        found[texts[query]].append(Scored(feature, score))
    return found
