"""How alike components are to concepts that are given as words: the text probe of SemanticLens over two sets.

q = mean over templates t of [E(t(q)) − E(t(""))], cosine with the component's concept vector; of a set of concepts the
largest counts (arXiv 2501.05398).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.labelers.vocabulary import concepts_run
from glasshouse.plugins.vocabulary import concept_lists, read_vocabulary, shipped_concepts
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.results.store import latest_run
from glasshouse.warehouse.search.encoders import embedding_record
from glasshouse.warehouse.search.index import centre_of, concept_index
from glasshouse.warehouse.search.templates import query_vectors
from glasshouse.warehouse.search.texts import embed_texts

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


def concept_run(view: AnalysisView, embedding: str | None, crop: bool | None) -> Run:
    """Return the newest concept vectors of the space that texts can be compared with.

    Args:
        view: of the space.
        embedding: in which; None for any.
        crop: of cut-outs or of whole images; None for either.

    Raises:
        UsageError: there are none; names the command that makes them.
    """
    run = concepts_run(view, embedding, "The audit needs", "--embedding")
    if crop is None or run.facets["crop"] == crop:
        return run
    facets = {"embedding": run.facets["embedding"], "crop": crop}
    found = latest_run(view.warehouse.catalogue, "concepts", view.space, facets)
    if found is None or found.vectors is None:
        raise UsageError(
            f"There are no concept vectors of {'cut-outs' if crop else 'whole images'} for the space '{view.space}'. "
            f"Run `glasshouse analyze concepts --space {view.space}{' --crop' if crop else ''}`."
        )
    return found


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
