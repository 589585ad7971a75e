"""The words that fit vectors best: the largest cosine over words and sets of templates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.plugins.analyzers.name_templates import TEMPLATE_SETS
from glasshouse.plugins.labelers.vocabulary import unit_rows
from glasshouse.warehouse.search.templates import filled

Floats = npt.NDArray[np.float64]

MAX_COSINES = 1 << 24
"""Cosines of features and words that are held at once, 8 bytes each, for each set of templates."""


class Fit(NamedTuple):
    """A word, how well it fits (cosine), and the set of templates in which it does."""

    word: str
    score: float
    template_set: str


@dataclass(frozen=True)
class Words:
    """A vocabulary in every set of templates.

    Attributes:
        words: W of them.
        sets: names of the sets.
        texts_swe: unit vectors [sets, W, E]: the mean over the set's templates of the unit vectors of the sentences.
    """

    words: Sequence[str]
    sets: Sequence[str]
    texts_swe: Floats

    def fits(self, vectors_ke: Floats, k: int, without: Sequence[str | None] = ()) -> Iterator[list[Fit]]:
        """Yield of each vector the k words of the largest cosine, best first; of equal ones the first word and set.

        Args:
            vectors_ke: unit vectors [K, E].
            k: how many.
            without: of each vector a word that is no candidate, or None; empty for none at all.
        """
        step = max(1, MAX_COSINES // max(len(self.words), 1))
        for first in range(0, len(vectors_ke), step):
            block_ke = vectors_ke[first : first + step]
            cosine_skw = block_ke @ self.texts_swe.transpose(0, 2, 1)
            set_kw, best_kw = cosine_skw.argmax(axis=0), cosine_skw.max(axis=0)
            for row, best_w in enumerate(best_kw):
                word = without[first + row] if without else None
                order = np.argsort(-best_w, kind="stable")[: k + 1]
                chosen = [w for w in order if self.words[w] != word][:k]
                yield [Fit(self.words[w], float(best_w[w]), self.sets[set_kw[row, w]]) for w in chosen]


def embedded(
    embed: Callable[[Sequence[str]], npt.NDArray[np.float32]],
    words: Sequence[str],
    sets: Sequence[str],
    templates: Mapping[str, Sequence[str]] = TEMPLATE_SETS,
) -> Words:
    """Embed words in the templates of some sets.

    Args:
        embed: from texts to their vectors; called once for each template.
        words: of the vocabulary.
        sets: names of sets of `templates`.
        templates: sentences with `{}`, by set.
    """
    texts_swe = []
    for name in sets:
        mean_we = np.mean([unit_rows(embed([filled(t, word) for word in words])) for t in templates[name]], axis=0)
        texts_swe.append(unit_rows(mean_we))
    return Words(words, sets, np.stack(texts_swe))
