"""Labels scored by the cosine between the label's text and the images, in a text-capable embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.label_images import Sides, sides_of
from glasshouse.plugins.analyzers.label_measures import auc_columns, held_out_accuracy, none_for_nan
from glasshouse.plugins.labelers.vocabulary import unit_rows
from glasshouse.warehouse.search.texts import embed_texts

if TYPE_CHECKING:
    from glasshouse.plugins.analyzers.label_score import LabelScoreParameters
    from glasshouse.plugins.view import AnalysisView

N_RANDOM = 100
"""Other features' labels against which each one is held."""


def clip_scores(view: AnalysisView, parameters: LabelScoreParameters, labels: dict[int, str]) -> list[dict[str, Any]]:
    """Return the rows of `label_score`, by feature.

    `auc_random` and `beats_random` are over up to 100 other texts among the labels, chosen by the seed.
    """
    images_n, vectors_ne = view.embedding(str(parameters.embedding))
    units_ne = unit_rows(vectors_ne)
    usable_n = np.isfinite(units_ne).all(axis=1) & np.isin(images_n, view.image_ids)
    images_n, units_ne = images_n[usable_n], units_ne[usable_n]
    texts = list(dict.fromkeys(labels.values()))
    texts_le = unit_rows(embed_texts(view.warehouse, str(parameters.embedding), texts)) if texts else np.empty((0, 0))
    place = {text: row for row, text in enumerate(texts)}
    n_active, n_silent = int(parameters.n_positive or 0), int(parameters.n_negative or 0)
    view.note(n_random_labels=min(N_RANDOM, max(len(texts) - 1, 0)), threshold="best on the other half of the images")
    rows = []
    for sides in sides_of(view, list(labels), n_active, n_silent, parameters.seed, images_n):
        own = place[labels[sides.feature]]
        others = _others(own, len(texts), np.random.default_rng((parameters.seed, sides.feature, 1)))
        rows.append(
            {
                "feature_id": sides.feature,
                "label": labels[sides.feature],
                **_row(sides, images_n, units_ne, texts_le[[own, *others]]),
            }
        )
        view.progress(len(rows), len(labels))
    return rows


def _others(own: int, n_texts: int, rng: np.random.Generator) -> list[int]:
    """Return up to N_RANDOM random places of other texts."""
    drawn = rng.choice(n_texts, size=min(n_texts, N_RANDOM + 1), replace=False)
    return [int(text) for text in drawn if text != own][:N_RANDOM]


def _row(
    sides: Sides,
    images_n: npt.NDArray[np.int32],
    units_ne: npt.NDArray[np.float64],
    texts_le: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """Return the figures of one feature; the first of the texts is its own label."""
    active_pl = units_ne[np.searchsorted(images_n, sides.active_p)] @ texts_le.T
    silent_ql = units_ne[np.searchsorted(images_n, sides.silent_q)] @ texts_le.T
    auc_l = auc_columns(active_pl, silent_ql)
    beaten_l = (auc_l[0] > auc_l[1:]) + 0.5 * (auc_l[0] == auc_l[1:])
    has_others = len(auc_l) > 1 and bool(np.isfinite(auc_l).all())
    return {
        "auc": none_for_nan(auc_l[0]),
        "balanced_accuracy": none_for_nan(held_out_accuracy(active_pl[:, 0], silent_ql[:, 0])),
        "auc_random": float(auc_l[1:].mean()) if has_others else None,
        "beats_random": float(beaten_l.mean()) if has_others else None,
        "n_positive": len(sides.active_p),
        "n_negative": len(sides.silent_q),
        "n_parse_failures": 0,
    }
