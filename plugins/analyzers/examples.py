"""Analyzer `examples`: the concept examples of every feature, with the part of each image that is about it.

Whole images have their embeddings in the warehouse already; cut-outs are embedded here, once for everything that is
computed from examples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa

from glasshouse.plugins.analyzer import Analyzer, Parameters
from glasshouse.plugins.analyzers.example_vectors import (
    EXAMPLE_FIELDS,
    FACETS,
    ExampleParameters,
    Examples,
    chosen_examples,
    examples_table,
    required_relevance,
    resolve_examples,
)
from glasshouse.warehouse.search.encoders import embedding_record, encoder_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from glasshouse.plugins.view import AnalysisView

BOX = ("left", "top", "right", "bottom")


class ExamplesAnalyzer(Analyzer[ExampleParameters]):
    """The examples of every feature, strongest first; with --crop the part that is about it, and its embedding."""

    summary = "Concept examples: each feature's strongest or most relevant images, cut to what is about it"
    parameters: ClassVar[type[Parameters]] = ExampleParameters
    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("feature_id", pa.int32()),
            ("rank", pa.int32()),
            ("image_id", pa.int32()),
            ("value", pa.float64()),
            *((side, pa.int32()) for side in BOX),
            *EXAMPLE_FIELDS,
            ("vector", pa.list_(pa.float32())),
        ]
    )
    facets = FACETS

    def resolve(self, view: AnalysisView, parameters: ExampleParameters) -> ExampleParameters:
        """Choose the embedding, and see that crops are possible."""
        return resolve_examples(view, parameters)

    def requires_with(
        self, view: AnalysisView, parameters: ExampleParameters
    ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """With --by relevance, `relevance`."""
        return required_relevance(view, parameters)

    def run(self, view: AnalysisView, parameters: ExampleParameters) -> pa.Table:
        """Choose the examples, and cut and embed them where that is asked for."""
        examples = chosen_examples(view, parameters)
        frame = pl.DataFrame(
            {
                "feature_id": pl.Series(examples.feature_p, dtype=pl.Int32),
                "image_id": pl.Series(examples.image_p, dtype=pl.Int32),
                "value": examples.value_p,
            }
        ).with_columns(rank=pl.int_range(pl.len(), dtype=pl.Int32).over("feature_id"))
        if not parameters.crop:
            nothing = {side: pl.lit(None, pl.Int32) for side in BOX}
            frame = frame.with_columns(**nothing, vector=pl.lit(None, pl.List(pl.Float32)))
        else:
            frame = frame.join(_cut_outs(view, examples, parameters), on=["feature_id", "image_id"])
        n = frame["feature_id"].n_unique()
        view.note(summary=f"{frame.height:,} examples of {n:,} feature{'' if n == 1 else 's'}")
        return examples_table(frame, parameters, self.schema)


def _cut_outs(view: AnalysisView, examples: Examples, parameters: ExampleParameters) -> pl.DataFrame:
    """Return boxes and vectors of the examples whose picture can be read; the run notes how many cannot.

    Raises:
        ModelError: fewer than half of the pictures could be read; so few examples would be worse than what is stored.
    """
    # Late: only crops need torch and Pillow.
    from glasshouse.plugins.analyzers.attribution_maps import attribution_maps
    from glasshouse.plugins.analyzers.crops import Cutting, device_named, embedded_cut_outs, note_unreadable

    record = embedding_record(view.warehouse, str(parameters.embedding))
    device = device_named(parameters.device)
    encoder = encoder_of(view.warehouse, record, device)
    how = Cutting(parameters.crop_threshold, parameters.crop_margin)
    keys: list[tuple[int, ...]] = []
    vectors: list[np.ndarray] = []
    unreadable: set[int] = set()
    for maps in attribution_maps(view, examples, parameters.attribution, device):
        for cuts, embedded_be in embedded_cut_outs(view, encoder, maps, how, unreadable):
            keys += [(cut.feature_id, cut.image_id, *cut.box) for cut in cuts]
            vectors.append(embedded_be)
            view.progress(len(keys), len(examples.feature_p))
    view.note(n_examples_unreadable=len(examples.feature_p) - len(keys))
    note_unreadable(view, len(set(examples.image_p.tolist()) - {key[1] for key in keys}), len(set(examples.image_p)))
    columns = np.array(keys, dtype=np.int32).reshape(-1, 6)
    frame = pl.DataFrame({name: columns[:, number] for number, name in enumerate(("feature_id", "image_id", *BOX))})
    vectors_pe = np.concatenate(vectors) if vectors else np.zeros((0, record.width), np.float32)
    return frame.with_columns(
        vector=pl.Series(vectors_pe, dtype=pl.Array(pl.Float32, record.width)).cast(pl.List(pl.Float32))
    )
