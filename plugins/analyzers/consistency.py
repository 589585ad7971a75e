"""Analyzer `consistency`: how alike the patches are on which a feature is strongest (a measure of CFM, our reading).

With û_p the unit embeddings of the cut-outs around the feature's n strongest patches, one in each image,

    consistency = mean over pairs p ≠ q of û_p · û_q = (‖Σ û_p‖² − n) / (n (n − 1))

in an embedding of another encoder than the space's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers.cooccurrence import require_patches
from glasshouse.plugins.analyzers.embedding_choice import checked, chosen
from glasshouse.plugins.analyzers.example_vectors import Examples
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.search.encoders import embedding_record

if TYPE_CHECKING:
    from glasshouse.plugins.analyzers.attribution_maps import FeatureMap
    from glasshouse.plugins.view import AnalysisView
    from glasshouse.warehouse.contracts import Encoder

Floats = npt.NDArray[np.float64]

ON_PATCH = 0.5
"""Of a single patch, up-sampled bilinearly, what is above half of it is about the patch itself."""

COLUMNS = ("feature_id", "image_id", "value")

SCHEMA = pa.schema(
    [
        ("feature_id", pa.int32()),
        ("embedding", pa.string()),
        ("consistency", pa.float64()),
        ("consistency_random", pa.float64()),
        ("n_patches", pa.int32()),
    ]
)


class ConsistencyParameters(Parameters):
    """Parameters of `consistency`."""

    embedding: str | None = Field(
        None, description="Image embedding; by default one of another encoder than the space."
    )
    n: int = Field(20, ge=2, description="Strongest patches of each feature, one in each image.")
    context: float = Field(
        0.1,
        ge=0,
        le=1,
        description="A cut-out is a patch, wider on every side by this share of the picture's longer side.",
    )
    centre: bool = Field(True, description="Subtract the mean image embedding before vectors are normalised.")
    seed: int = Field(0, ge=0, description="Of the random images.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where cut-outs are embedded.")
    circular: bool = Field(False, description="Allow an embedding that the space's own encoder made.")


class UnitSums(NamedTuple):
    """Of each feature the sum of unit vectors [F, E], and how many there are [F]."""

    sum_fe: Floats
    n_f: npt.NDArray[np.int64]

    def mean_cosine(self) -> Floats:
        """Return the mean cosine of pairs of different vectors [F]; NaN below two vectors."""
        n_f = self.n_f.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_f = (np.einsum("fe,fe->f", self.sum_fe, self.sum_fe) - n_f) / (n_f * (n_f - 1))
        return np.where(n_f >= 2, mean_f, np.nan)


class Consistency(Analyzer[ConsistencyParameters]):
    """How alike the surroundings of a feature's strongest patches are, in the eyes of another encoder."""

    summary: ClassVar[str] = (
        "How alike a feature's strongest patches are, with the same places of random images beside."
    )
    parameters: ClassVar[type[Parameters]] = ConsistencyParameters
    schema: ClassVar[pa.Schema] = SCHEMA
    facets: ClassVar[tuple[str, ...]] = ("embedding",)
    in_features: ClassVar[tuple[str, ...]] = ("consistency",)

    def resolve(self, view: AnalysisView, parameters: ConsistencyParameters) -> ConsistencyParameters:
        """Choose the embedding.

        Raises:
            UsageError: the space has no patches, or there is no embedding of another encoder that is known.
        """
        require_patches(view, "consistency")
        circular = parameters.circular
        name = (
            chosen(view, circular=circular)
            if parameters.embedding is None
            else checked(view, parameters.embedding, circular=circular)
        )
        if embedding_record(view.warehouse, name).encoder_fingerprint is None:
            raise UsageError(
                f"The embedding '{name}' was imported: its encoder is not known, so cut-outs cannot be embedded. Name "
                "one made by `glasshouse embed`."
            )
        return parameters.model_copy(update={"embedding": name})

    def run(self, view: AnalysisView, parameters: ConsistencyParameters) -> Rows:
        """Embed the strongest patches of every feature, and the same places of other images."""
        from glasshouse.plugins.analyzers.crops import device_named, note_unreadable  # late: torch and Pillow
        from glasshouse.warehouse.search.encoders import encoder_of

        record = embedding_record(view.warehouse, str(parameters.embedding))
        encoder = encoder_of(view.warehouse, record, device_named(parameters.device))
        vectors_ne = view.embedding(record.name).vectors_ne
        finite_ne = vectors_ne[np.isfinite(vectors_ne).all(axis=1)]
        centre_e = finite_ne.mean(axis=0, dtype=np.float64) if parameters.centre else np.zeros(record.width)
        unreadable: set[int] = set()
        own = no_sums(view.n_features, record.width)
        mixed = no_sums(view.n_features, record.width)
        top = view.top_images(parameters.n)
        images: set[int] = set()
        for maps in strongest_patches(view, Examples(*(top[name].to_numpy() for name in COLUMNS))):
            elsewhere = on_random_images(maps, view.image_ids, parameters.seed)
            images |= {found.image_id for found in (*maps, *elsewhere)}
            for sums, cuts in ((own, maps), (mixed, elsewhere)):
                add_units(sums, view, encoder, cuts, centre_e, parameters.context, unreadable)
            view.progress(int(own.n_f.sum()), top.height)
        note_unreadable(view, len(unreadable), len(images))
        table = table_of(own, mixed, record.name)
        view.note(summary=headline(table))
        return table


def headline(table: pa.Table) -> str:
    """Return the mean consistency over features, with that of random images beside it."""
    own, control = (pc.mean(table[name]).as_py() for name in ("consistency", "consistency_random"))
    said = f"{table.num_rows:,} feature{'' if table.num_rows == 1 else 's'}"
    said += "" if own is None else f", mean consistency {own:.3f}"
    return said if control is None else f"{said} (the same places of random images {control:.3f})"


def no_sums(n_features: int, width: int) -> UnitSums:
    """Return sums over nothing."""
    return UnitSums(np.zeros((n_features, width)), np.zeros(n_features, dtype=np.int64))


def strongest_patches(view: AnalysisView, examples: Examples) -> Iterator[list[FeatureMap]]:
    """Yield maps with a single patch, the strongest of the feature on the image (of equal ones the first)."""
    from glasshouse.plugins.analyzers.attribution_maps import maps_by_block  # late: as above

    for block in maps_by_block(view, examples):
        found = []
        for one in block:
            single_t = np.zeros(one.map_hw.size, dtype=np.float32)
            single_t[int(one.map_hw.argmax())] = 1
            found.append(one._replace(map_hw=single_t.reshape(one.map_hw.shape)))
        yield found


def on_random_images(maps: Sequence[FeatureMap], image_ids: npt.NDArray[np.int32], seed: int) -> list[FeatureMap]:
    """Return the same patches of random images, another for each; ordered by image as maps are.

    A feature's images depend on the seed and the feature alone.
    """
    rngs: dict[int, np.random.Generator] = {}
    moved = []
    for one in maps:
        rng = rngs.setdefault(one.feature_id, np.random.default_rng((seed, one.feature_id)))
        moved.append(one._replace(image_id=int(image_ids[rng.integers(len(image_ids))])))
    return sorted(moved, key=lambda one: (one.image_id, one.feature_id))


def add_units(
    sums: UnitSums,
    view: AnalysisView,
    encoder: Encoder,
    maps: Sequence[FeatureMap],
    centre_e: Floats,
    context: float,
    unreadable: set[int],
) -> None:
    """Add the unit vectors of cut-outs; those without a direction are left out."""
    from glasshouse.plugins.analyzers.crops import Cutting, embedded_cut_outs  # late: as above

    for cuts, embedded_be in embedded_cut_outs(view, encoder, maps, Cutting(ON_PATCH, context), unreadable):
        moved_be = embedded_be.astype(np.float64) - centre_e
        length_b = np.linalg.norm(moved_be, axis=1)
        is_good_b = np.isfinite(length_b) & (length_b > 0)
        features = np.array([cut.feature_id for cut in cuts])[is_good_b]
        np.add.at(sums.sum_fe, features, moved_be[is_good_b] / length_b[is_good_b, None])
        np.add.at(sums.n_f, features, 1)


def table_of(own: UnitSums, mixed: UnitSums, embedding: str) -> pa.Table:
    """Return a row for each feature with two patches or more."""
    own_f, mixed_f = own.mean_cosine(), mixed.mean_cosine()
    rows = [
        {
            "feature_id": int(feature),
            "embedding": embedding,
            "consistency": float(own_f[feature]),
            "consistency_random": None if np.isnan(mixed_f[feature]) else float(mixed_f[feature]),
            "n_patches": int(own.n_f[feature]),
        }
        for feature in np.flatnonzero(~np.isnan(own_f))
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
