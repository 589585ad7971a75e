"""Queries in templates, as one vector each: what the words add to the template's empty form.

Definition (SemanticLens, arXiv 2501.05398): q = mean over templates t of [E(t(q)) − E(t(""))], with raw embeddings and
each template's own empty form; without templates q = E(q). Every prompt is looked up by its own text, so that several
queries with several templates cannot be mixed up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from glasshouse.warehouse.search.questions import GAP, check_queries, check_templates

__all__ = ["GAP", "EmbedTexts", "check_queries", "check_templates", "filled", "query_vectors"]

EmbedTexts = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""From n texts to their vectors [n, E], in the same order."""


def query_vectors(embed: EmbedTexts, queries: Sequence[str], templates: Sequence[str] = ()) -> npt.NDArray[np.float32]:
    """Embed queries, in templates with their empty form subtracted, or plainly without any.

    Args:
        embed: called once, with every distinct prompt.
        queries: words or sentences; at least one.
        templates: texts with `{}` where the query goes, e.g. "a photo of {}".

    Returns:
        float32 [n_queries, E]; not normalised.

    Raises:
        UsageError: an empty query, or a template without `{}`.
    """
    check_queries(queries)
    check_templates(templates)
    if not templates:
        return np.asarray(embed(queries), dtype=np.float32)
    prompts = list(dict.fromkeys(filled(t, query) for t in templates for query in ("", *queries)))
    vector_of = dict(zip(prompts, np.asarray(embed(prompts), dtype=np.float64), strict=True))
    return np.array(
        [np.mean([vector_of[filled(t, q)] - vector_of[filled(t, "")] for t in templates], axis=0) for q in queries],
        dtype=np.float32,
    )


def filled(template: str, query: str) -> str:
    """Put a query into every gap of a template; braces in the query mean nothing."""
    return template.replace(GAP, query)
