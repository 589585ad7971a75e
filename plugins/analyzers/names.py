"""Analyzer `names`: words for the features of a patch space, as published for CFM (arXiv 2601.13798) and beyond it.

As published, a feature's vector is decoded from itself together with the features that it implies, and the word of
the largest cosine over vocabularies and sets of templates is its name. Plain naming takes its own vector alone. Beyond
both, a feature with a parent gets a second word: what sets it apart from the parent and its other children.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters
from glasshouse.plugins.analyzers.clip_space import is_clip_space, require_clip_space
from glasshouse.plugins.analyzers.cooccurrence import require_patches
from glasshouse.plugins.analyzers.name_parents import Parents, differences, parents_of, words_apart
from glasshouse.plugins.analyzers.name_templates import TEMPLATE_SETS
from glasshouse.plugins.analyzers.name_vectors import (
    Basis,
    concept_basis,
    decoder_basis,
    family_codes,
    implications,
    own_codes,
    own_texts,
)
from glasshouse.plugins.analyzers.name_words import Fit, Words, embedded
from glasshouse.plugins.labelers.vocabulary import concepts_run
from glasshouse.schema.errors import UsageError, unknown_name
from glasshouse.warehouse.results.store import latest_run

if TYPE_CHECKING:
    import scipy.sparse

    from glasshouse.plugins.view import AnalysisView

SCHEMA = pa.schema(
    [
        ("feature_id", pa.int32()),
        ("method", pa.string()),
        ("name", pa.string()),
        ("score", pa.float64()),
        ("template_set", pa.string()),
        ("next_words", pa.list_(pa.string())),
        ("margin", pa.float64()),
        ("n_family", pa.int32()),
        ("parent_feature_id", pa.int32()),
        ("parent_rule", pa.string()),
        ("difference", pa.string()),
        ("distinguishing_name", pa.string()),
        ("embedding", pa.string()),
    ]
)


class NameParameters(Parameters):
    """Parameters of `names`."""

    method: Literal["plain", "published", "labels"] = Field(
        "plain", description="plain: a feature's own vector; published: its family's; labels: its newest label."
    )
    vocabulary: str | None = Field(None, description="File of words, one per line; by default those of glasshouse.")
    templates: tuple[str, ...] = Field(
        (), description="A set of sentences for the words: noun, adjective, verb; by default all three."
    )
    vectors: Literal["auto", "decoder", "concepts"] = Field(
        "auto", description="Of the features: the SAE's decoder where it lies in CLIP's space, or concept vectors."
    )
    embedding: str | None = Field(None, description="Whose text tower; by default that of the newest concept vectors.")
    threshold: float = Field(0.75, gt=0, le=1, description="D̂ above which a feature implies another.")
    n_patches: int = Field(30, ge=1, description="published: how many of a feature's strongest patches are averaged.")
    n_next: int = Field(4, ge=0, description="How many of the next best words are kept.")


class Named(NamedTuple):
    """A feature's name, how well it fits (None for labels), and the next best."""

    name: str
    best: Fit | None
    following: list[Fit]


class Names(Analyzer[NameParameters]):
    """Name features by words, and tell children from their parents and siblings.

    Features that are never active, and those without a vector, have no name.
    """

    summary: ClassVar[str] = "Names of patch features from a vocabulary, and what sets a child apart from its parent."
    parameters: ClassVar[type[Parameters]] = NameParameters
    version: ClassVar[str] = "2"
    schema: ClassVar[pa.Schema] = SCHEMA
    requires: ClassVar[tuple[str, ...]] = ("cooccurrence",)
    facets: ClassVar[tuple[str, ...]] = ("method",)
    in_features: ClassVar[tuple[str, ...]] = ("name", "distinguishing_name")

    def resolve(self, view: AnalysisView, parameters: NameParameters) -> NameParameters:
        """Choose the embedding.

        Raises:
            UsageError: the space has no patches, there are no vectors that texts can be compared with, or no labels.
        """
        require_patches(view, "names")
        sets = tuple(dict.fromkeys(parameters.templates or TEMPLATE_SETS))
        if unknown := [name for name in sets if name not in TEMPLATE_SETS]:
            raise unknown_name("set of templates", unknown[0], TEMPLATE_SETS)
        if parameters.method == "labels" and latest_run(view.warehouse.catalogue, "labels", view.space) is None:
            raise UsageError(
                f"There are no labels of the space '{view.space}' to make names of. Run `glasshouse analyze labels "
                f"--space {view.space} --labeler …`, or take --method plain."
            )
        vocabulary = None if parameters.vocabulary is None else view.portable(parameters.vocabulary)
        chosen: dict[str, Any] = {"vocabulary": vocabulary, "templates": sets}
        if parameters.vectors == "decoder":
            require_clip_space(view, "names --vectors decoder")
        if parameters.vectors == "concepts" or not is_clip_space(view):
            chosen["vectors"] = "concepts"
            run = concepts_run(view, parameters.embedding, "Names need", "--embedding")
            chosen["embedding"] = str(run.facets["embedding"])
        elif parameters.embedding is not None:
            raise UsageError(
                f"The features of '{view.space}' lie in the space of its own encoder, {view.record['encoder_spec']}, "
                "and are named there. Leave --embedding away, or take --vectors concepts."
            )
        else:
            chosen["vectors"] = "decoder"
        return parameters.model_copy(update=chosen)

    def run(self, view: AnalysisView, parameters: NameParameters) -> pa.Table:
        """Name every feature that is ever active and has a vector."""
        basis = (decoder_basis(view) if parameters.vectors == "decoder" else None) or concept_basis(
            view, str(parameters.embedding)
        )
        pairs = implications(view)
        words = vocabulary_of(view, parameters)
        codes_ff = codes_of(view, parameters, pairs, basis)
        parents = parents_of(view, pairs, parameters.threshold)
        if parameters.method == "labels":
            names = labelled(view)
        else:
            with_bias = basis.source == "decoder" and parameters.method == "published"
            vectors_fe = basis.directions(codes_ff, with_bias=with_bias)
            features = np.flatnonzero(vectors_fe.any(axis=1))
            fits = words.fits(vectors_fe[features], parameters.n_next + 1)
            names = {int(f): Named(fit[0].word, fit[0], fit[1:]) for f, fit in zip(features, fits, strict=True)}
        active = set(view.statistics().filter(pl.col("n_active") > 0)["feature_id"].to_list())
        names = {feature: named for feature, named in names.items() if feature in active}
        apart = set_apart(basis, parents, names, words)
        view.note(source=basis.source, n_words=len(words.words), n_children=len(parents.of), n_apart=len(apart))
        view.note(summary=headline(len(names), len(active), parameters.method, basis.source))
        n_family_f = np.diff(codes_ff.indptr)
        rows = [
            row_of(feature, named, names, apart, parents, int(n_family_f[feature]), parameters)
            for feature, named in sorted(names.items())
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMA)


def headline(n_named: int, n_active: int, method: str, source: str) -> str:
    """Return how many of the features that are ever active got a name; where none did, why."""
    said = f"{n_named:,} of {n_active:,} active feature{'' if n_active == 1 else 's'} named"
    if n_named:
        return said
    if not n_active:
        return f"{said}: no feature is active on any image"
    if method == "labels":
        return f"{said}: none of them has a label"
    what = "concept vectors are missing, or no other than the mean image" if source == "concepts" else "vectors are 0"
    return f"{said}: their {what}"


def vocabulary_of(view: AnalysisView, parameters: NameParameters) -> Words:
    """Read the vocabulary and embed it in every template."""
    from glasshouse.plugins.vocabulary import read_vocabulary
    from glasshouse.warehouse.search.encoders import embedding_record
    from glasshouse.warehouse.search.texts import embed_beside

    name = parameters.embedding
    record = own_texts(view) if name is None else embedding_record(view.warehouse, name)
    path = None if parameters.vocabulary is None else str(view.file(parameters.vocabulary))
    words = read_vocabulary(path)
    n_sentences = len(words) * sum(len(TEMPLATE_SETS[name]) for name in parameters.templates)
    done = 0

    def embed(texts: Any) -> Any:
        nonlocal done
        vectors = embed_beside(view.warehouse, record, texts)
        done += len(texts)
        view.progress(done, n_sentences)
        return vectors

    return embedded(embed, words, parameters.templates)


def codes_of(
    view: AnalysisView, parameters: NameParameters, pairs: pl.DataFrame, basis: Basis
) -> scipy.sparse.csr_array:
    """Return the code of each feature: its family's, as published, or its own."""
    if parameters.method != "published":
        return own_codes(view.n_features)
    scale = 1.0 if basis.source == "concepts" else None
    return family_codes(view, pairs, parameters.threshold, parameters.n_patches, scale=scale)


def labelled(view: AnalysisView) -> dict[int, Named]:
    """Return the labels of the newest run of `labels` as names; features without a label have none."""
    rows = view.result("labels").drop_nulls("label").select("feature_id", "label")
    return {int(feature): Named(str(label), None, []) for feature, label in rows.iter_rows() if label}


def set_apart(basis: Basis, parents: Parents, names: dict[int, Named], words: Words) -> dict[int, str]:
    """Return of each child what sets it apart from its parent and siblings; none where the parent has no name.

    That is what its name says and its parent's does not, where no sibling's says the same. Otherwise it is the word,
    the parent's name excepted, that fits best what its siblings' vectors do not have.
    """
    pairs = {child: parent for child, parent in parents.of.items() if child in names and parent in names}
    said = {child: words_apart(names[child].name, names[parent].name) for child, parent in pairs.items()}
    n_siblings = Counter((pairs[child], own) for child, own in said.items())
    found = {child: own for child, own in said.items() if own and n_siblings[pairs[child], own] == 1}
    vectors = differences(basis.own_fe, parents)
    open_ = sorted(child for child in pairs if child not in found and child in vectors)
    if open_:
        without = [names[pairs[child]].name for child in open_]
        fits = words.fits(np.stack([vectors[child] for child in open_]), 1, without)
        found |= {child: fit[0].word for child, fit in zip(open_, fits, strict=True) if fit}
    return found


def row_of(
    feature: int,
    named: Named,
    names: dict[int, Named],
    apart: dict[int, str],
    parents: Parents,
    n_family: int,
    parameters: NameParameters,
) -> dict[str, Any]:
    """Return a feature's row."""
    parent, difference = parents.of.get(feature), apart.get(feature)
    full = named.name if parent is None or difference is None else f"{names[parent].name}: {difference}"
    margin = named.best.score - named.following[0].score if named.best and named.following else None
    return {
        "feature_id": feature,
        "method": parameters.method,
        "name": named.name,
        "score": named.best.score if named.best else None,
        "template_set": named.best.template_set if named.best else None,
        "next_words": [fit.word for fit in named.following],
        "margin": margin,
        "n_family": n_family,
        "parent_feature_id": parent,
        "parent_rule": parents.rule.get(feature),
        "difference": difference,
        "distinguishing_name": full,
        "embedding": parameters.embedding,
    }
