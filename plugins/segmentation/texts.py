"""Texts of classes as unit vectors in CLIP's space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.search.templates import check_queries, check_templates, filled

if TYPE_CHECKING:
    from glasshouse.warehouse.contracts import Encoder


def class_vectors(encoder: Encoder, names: Sequence[str], templates: Sequence[str] = ()) -> npt.NDArray[np.float64]:
    """Return the unit vector of each class [classes, E]: the mean over templates of unit vectors, made unit again.

    Args:
        encoder: with a text tower.
        names: of the classes, each once.
        templates: texts with `{}` for the name, e.g. "a photo of a {}"; without any the name alone.

    Raises:
        UsageError: no class, an empty or a doubled one, or a template without `{}`.
        ModelError: the encoder has no text tower.
    """
    check_queries(names)
    check_templates(templates)
    if len(set(names)) < len(names):
        raise UsageError(f"A class is there twice among {', '.join(names)}.")
    forms = templates or ("{}",)
    found = encoder.embed_text([filled(form, name) for name in names for form in forms])
    if found is None:
        raise ModelError(f"{encoder.spec} embeds no texts, so classes have no vectors.")
    vectors_cte = found.double().cpu().numpy().reshape(len(names), len(forms), -1)
    vectors_ce = (vectors_cte / np.linalg.norm(vectors_cte, axis=2, keepdims=True)).mean(axis=1)
    unit_ce: npt.NDArray[np.float64] = vectors_ce / np.linalg.norm(vectors_ce, axis=1, keepdims=True)
    return unit_ce
