"""Labels from a list of words, offline: the word that a feature's images are nearer to than images usually are.

Definition: with ĉ the unit concept vector of a feature (`concepts`), ê_i the unit embeddings of all images and t̂_w the
unit embedding of a word,

    lift(w) = cos(c, t_w) − mean_i cos(e_i, t_w) = (ĉ − mean_i ê_i) · t̂_w

and the label is the word of the largest lift. Without the subtraction some words win everywhere, because texts and
images of CLIP lie apart and a few texts lie closer to all images than others do.

With templates the score is that of SemanticLens (arXiv 2501.05398), which takes the common part out of the texts:
cos(c, q_w) with q_w = mean over templates t of [E(t(w)) − E(t(""))], raw embeddings, as `glasshouse search` has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from glasshouse.plugins import hookimpl
from glasshouse.plugins.contracts import LabelerLoader
from glasshouse.plugins.labeling import BadReply, FeatureLabel, FeatureQuestion, LabelerOptions
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.search.questions import check_templates

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from glasshouse.plugins.hookspecs import Register
    from glasshouse.plugins.view import AnalysisView
    from glasshouse.warehouse.results.records import Run

N_NEAREST = 5
"""Words that are named in the description."""


@hookimpl
def register_labelers(register: Register[LabelerLoader]) -> None:
    """Register `vocabulary`."""
    summary = "the nearest word of a list in CLIP's space; needs no network"
    register("vocabulary", LabelerLoader(load, summary, resolve, sees_pictures=False, is_remote=False))


def resolve(options: LabelerOptions) -> LabelerOptions:
    """Fill in the model: the embedding of the concept vectors that are used.

    Raises:
        UsageError: there are no concept vectors that texts can be compared with, or a template has no gap.
    """
    check_templates(options.templates)
    return replace(options, model=str(concepts_run(options.view, options.model).facets["embedding"]))


def concepts_run(
    view: AnalysisView, embedding: str | None, who: str = "The labeler 'vocabulary' needs", option: str = "--model"
) -> Run:
    """Return the newest run of `concepts` on the space, in a text-capable embedding.

    Args:
        view: of the space.
        embedding: whose vectors are wanted, or None for any that texts can be compared with.
        who: needs them, for messages.
        option: with which the user names the embedding, for messages.

    Raises:
        UsageError: there is none; names the command that makes it.
    """
    from glasshouse.warehouse.search.texts import text_capable_embeddings

    capable = text_capable_embeddings(view.warehouse)
    if not capable:
        raise UsageError(
            f"{who} an embedding that texts can be compared with, and there is none. Make one of an encoder with a "
            "text tower with `glasshouse embed --encoder open_clip:… --name clip`, then run "
            f"`glasshouse analyze concepts --space {view.space} --embedding clip`."
        )
    if embedding is not None and embedding not in capable:
        known = f" Those that can: {', '.join(capable)}."
        raise UsageError(f"Texts cannot be compared with the embedding '{embedding}'.{known} Name one with {option}.")
    wanted = capable if embedding is None else [embedding]
    runs = [run for run in view.warehouse.runs() if (run.analyzer, run.space) == ("concepts", view.space)]
    fitting = [run for run in runs if run.is_latest and run.facets["embedding"] in wanted and run.vectors is not None]
    if not fitting:
        named = f" --embedding {embedding}" if embedding else ""
        raise UsageError(
            f"{who} concept vectors of the space '{view.space}', in an embedding that texts can be compared with. Run "
            f"`glasshouse analyze concepts --space {view.space}{named}`."
        )
    return fitting[-1]


def load(options: LabelerOptions) -> VocabularyLabeler:
    """Embed the words and compare every concept vector with them.

    Raises:
        UsageError: no concept vectors, or no words.
    """
    import numpy as np

    from glasshouse.plugins.vocabulary import read_vocabulary
    from glasshouse.warehouse.search.templates import query_vectors
    from glasshouse.warehouse.search.texts import embed_texts

    view = options.view
    run = concepts_run(view, options.model)
    embedding = str(run.facets["embedding"])
    view.result("concepts", run.facets)  # notes it as an input of the run
    feature_ids, vectors_ke = view.warehouse.result_vectors(run)
    words = read_vocabulary(None if options.vocabulary is None else str(view.file(options.vocabulary)))
    rows = {int(feature): row for row, feature in enumerate(feature_ids)}
    if options.templates:
        texts_we = query_vectors(lambda texts: embed_texts(view.warehouse, embedding, texts), words, options.templates)
        return VocabularyLabeler(embedding, words, rows, unit_rows(vectors_ke), unit_rows(texts_we))
    texts_we = embed_texts(view.warehouse, embedding, words)
    images_ne = unit_rows(view.embedding(embedding).vectors_ne)
    mean_e = images_ne[np.isfinite(images_ne).all(axis=1)].mean(axis=0)
    return VocabularyLabeler(embedding, words, rows, unit_rows(vectors_ke) - mean_e, unit_rows(texts_we))


def unit_rows(vectors_ne: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return rows of length one; rows of zeros stay zeros."""
    import numpy as np

    wide_ne = np.asarray(vectors_ne, dtype=np.float64)
    lengths_n1 = np.linalg.norm(wide_ne, axis=1, keepdims=True)
    units_ne: npt.NDArray[np.float64] = np.divide(
        wide_ne, lengths_n1, out=np.zeros_like(wide_ne), where=lengths_n1 != 0
    )
    return units_ne


@dataclass(frozen=True)
class VocabularyLabeler:
    """Names features by the nearest of its words.

    Attributes:
        model: name of the embedding.
        words: W of them.
        row_of_feature: row of each feature in `shifted_ke`.
        shifted_ke: ĉ − mean ê of each feature [K, E]; ĉ with templates.
        texts_we: t̂ of each word [W, E]; with templates the unit vector of q.
    """

    model: str
    words: Sequence[str]
    row_of_feature: dict[int, int]
    shifted_ke: npt.NDArray[np.float64]
    texts_we: npt.NDArray[np.float64]

    def label(self, question: FeatureQuestion) -> FeatureLabel:
        """Return the word of the largest lift, or cosine with templates; its description names the next ones.

        The confidence is the cosine of the word with the feature's shift from the mean image (with templates, with its
        concept vector), at least 0: an angle, no probability.

        Raises:
            BadReply: the feature has no concept vector, or lies where the mean image lies.
        """
        import numpy as np

        row = self.row_of_feature.get(question.feature_id)
        length = 0.0 if row is None else float(np.linalg.norm(self.shifted_ke[row]))
        if row is None or not length > 0:
            raise BadReply("the feature has no concept vector: it is never active, or its images have no embedding", "")
        cosines_w = self.texts_we @ self.shifted_ke[row] / length
        best = np.argsort(-cosines_w, kind="stable")[:N_NEAREST]
        nearest = ", ".join(f"{self.words[w]} ({cosines_w[w]:.2f})" for w in best)
        return FeatureLabel(
            self.words[best[0]],
            f"Nearest words: {nearest}.",
            [self.words[w] for w in best],
            confidence=float(np.clip(cosines_w[best[0]], 0.0, 1.0)),
        )

    def ask_yes_no(self, text: str, pictures: Sequence[Image.Image]) -> Sequence[bool | None]:
        """Refuse: it sees no pictures."""
        raise UsageError("The labeler 'vocabulary' sees no pictures. Score labels with --scorer clip, or name another.")
