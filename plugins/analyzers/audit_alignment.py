"""How alike components are to concepts that are given as words: the text probe of SemanticLens over two sets.

q = mean over templates t of [E(t(q)) − E(t(""))], cosine with the component's concept vector; of a set of concepts the
largest counts (arXiv 2501.05398).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.labelers.vocabulary import concepts_run
from glasshouse.plugins.vocabulary import concept_lists, read_vocabulary, shipped_concepts
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.results.store import all_runs
from glasshouse.warehouse.search.encoders import embedding_record
from glasshouse.warehouse.search.index import centre_of, concept_index
from glasshouse.warehouse.search.templates import query_vectors
from glasshouse.warehouse.search.texts import embed_texts, text_capable_embeddings

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView
    from glasshouse.warehouse.results.records import Run


class Alignments(NamedTuple):
    """Of each component with a concept vector, the largest cosine with a concept of either set, and that concept."""

    feature_id: npt.NDArray[np.int32]
    valid: npt.NDArray[np.float64]
    valid_concept: list[str]
    spurious: npt.NDArray[np.float64]
    spurious_concept: list[str]


def concepts_of(view: AnalysisView, path: Path) -> list[str]:
    """Return the concepts of a text file, one per line, or of a list that ships with glasshouse.

    Raises:
        UsageError: there is neither, or it holds no words.
    """
    if not Path(path).is_file() and not (view.warehouse.root / path).is_file() and str(path) in concept_lists():
        return shipped_concepts(str(path))
    try:
        return read_vocabulary(str(view.file(path)))
    except UsageError as error:
        raise UsageError(f"{error} Lists that ship with glasshouse: {', '.join(concept_lists())}.") from error


def concept_run(view: AnalysisView, wanted: Mapping[str, Any]) -> Run:
    """Return the newest concept vectors of the space that texts can be compared with.

    Args:
        view: of the space.
        wanted: `embedding`, `crop` and `by` of them, each None for any; `class_name`: vectors of examples that were
            chosen for another class do not count.

    Raises:
        UsageError: there are none; names the command that makes them.
    """
    newest = concepts_run(view, wanted["embedding"], "The audit needs", "--embedding")
    asked = {name: wanted[name] for name in ("embedding", "crop", "by") if wanted[name] is not None}
    capable = text_capable_embeddings(view.warehouse)
    fitting = [
        run
        for run in all_runs(view.warehouse.catalogue)
        if (run.analyzer, run.space, run.is_latest) == ("concepts", view.space, True)
        and run.vectors is not None
        and asked.items() <= {"by": "activation", **run.facets}.items()
        and run.facets.get("class_name", "") in ("", wanted["class_name"])
        and run.facets["embedding"] in capable
    ]
    if not fitting:
        options = "".join(f" --{name} {value}" for name, value in asked.items() if name != "crop")
        options += " --crop" if asked.get("crop") else ""
        raise UsageError(
            f"There are no such concept vectors of the space '{view.space}'; its newest are in the embedding "
            f"'{newest.facets['embedding']}'. Run `glasshouse analyze concepts --space {view.space}{options}`."
        )
    return fitting[-1]


def alignments(
    view: AnalysisView,
    run: Run,
    valid: Sequence[str],
    spurious: Sequence[str],
    templates: Sequence[str],
    *,
    centre: bool,
) -> Alignments:
    """Return how alike each component is to the concepts.

    Args:
        view: of the space.
        run: of `concepts`, whose vectors are compared.
        valid: words, at least one.
        spurious: words, at least one.
        templates: sentences with `{}`; none compares the words themselves, without anything subtracted.
        centre: subtract the mean image embedding from the concept vectors.
    """
    view.result("concepts", run.facets)  # noted as an input
    name = str(run.facets["embedding"])
    index = concept_index(view.warehouse, run)
    if centre:
        index = index.centred(centre_of(view.warehouse, embedding_record(view.warehouse, name)))
    words = [*valid, *spurious]
    queries_qe = query_vectors(lambda texts: embed_texts(view.warehouse, name, texts), words, templates)
    cosine_qk = index.cosines(queries_qe).astype(np.float64)
    parts = cosine_qk[: len(valid)], cosine_qk[len(valid) :]
    (best_valid, best_spurious) = (part.argmax(axis=0) for part in parts)
    return Alignments(
        index.ids,
        parts[0].max(axis=0),
        [valid[i] for i in best_valid],
        parts[1].max(axis=0),
        [spurious[i] for i in best_spurious],
    )
