"""Vectors of features that words can be compared with, and the code vectors of the published naming (CFM, 2601.13798).

For feature i, its family is {j : D̂_ij > t} and itself, D̂_ii = 1. With m_ij the mean activation of j on the patches
on which i is strongest, the code vector has c_ij = D̂_ij · m_ij for the family and 0 elsewhere, and is brought to one
length for all features: the mean length of such vectors × 1.33, "to lower the bias". Decoded, c_i · W_dec + b_dec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from glasshouse.plugins.analyzers.clip_space import decoder
from glasshouse.plugins.analyzers.space_models import encoder_of
from glasshouse.plugins.labelers.vocabulary import concepts_run, unit_rows
from glasshouse.schema.errors import UsageError
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.search.encoders import EmbeddingRecord

if TYPE_CHECKING:
    import scipy.sparse

    from glasshouse.plugins.view import AnalysisView

LOWERS_BIAS = 1.33
"""By how much code vectors are longer than their mean, so that the bias counts less; as published."""

Floats = npt.NDArray[np.float64]


class Basis(NamedTuple):
    """What a code of one feature decodes to, in the space of an embedding.

    Attributes:
        source: `decoder`, rows of the SAE's decoder; `concepts`, concept vectors without the mean image.
        rows_fe: of each feature [F, E]; zeros where it has none.
        bias_e: what is added to every decoded vector [E]: the SAE's bias, or the mean image.
    """

    source: str
    rows_fe: Floats
    bias_e: Floats

    def directions(self, codes_ff: scipy.sparse.csr_array, *, with_bias: bool) -> Floats:
        """Return the decoded unit vector of each row of codes [F, E]; zeros stay zeros."""
        decoded_fe = codes_ff @ self.rows_fe
        is_known_f = np.any(decoded_fe != 0, axis=1)
        return unit_rows(decoded_fe + self.bias_e * is_known_f[:, None] if with_bias else decoded_fe)

    @property
    def own_fe(self) -> Floats:
        """The features' own unit vectors [F, E]."""
        return unit_rows(self.rows_fe)


def concept_basis(view: AnalysisView, embedding: str) -> Basis:
    """Return unit concept vectors, the mean unit embedding of all images taken from each and kept as the bias."""
    run = concepts_run(view, embedding)
    view.result("concepts", run.facets)  # notes it as an input of the run
    feature_ids, vectors_ke = view.warehouse.result_vectors(run)
    images_ne = unit_rows(view.embedding(embedding).vectors_ne)
    mean_e = images_ne[np.isfinite(images_ne).all(axis=1)].mean(axis=0)
    rows_fe = np.zeros((view.n_features, len(mean_e)))
    rows_fe[feature_ids] = unit_rows(vectors_ke) - mean_e
    return Basis("concepts", rows_fe, mean_e)


def decoder_basis(view: AnalysisView) -> Basis | None:
    """Return the rows of the SAE's decoder and its bias, where they lie in CLIP's space; None for other spaces."""
    found = decoder(view)
    return (
        None
        if found is None
        else Basis("decoder", found.vectors_fe.astype(np.float64), found.bias_e.astype(np.float64))
    )


def own_texts(view: AnalysisView) -> EmbeddingRecord:
    """Return what texts are embedded beside where the decoder lies in CLIP's space: the space's own encoder."""
    spec, fingerprint = view.record["encoder_spec"], view.record["encoder_fingerprint"]
    encoder = encoder_of(view)
    return EmbeddingRecord(f"of the space {view.space}", spec, fingerprint, encoder.embedding_width, "")


def implications(view: AnalysisView) -> pl.DataFrame:
    """Return pairs on the same patch: feature_id, other_feature_id, d_hat, and reverse, the D̂ the other way round.

    Raises:
        UsageError: `cooccurrence` was never run with radius 0.
    """
    try:
        pairs = view.result("cooccurrence", {"radius": 0})
    except UsageError as error:
        raise UsageError(
            f"Names need co-occurrence on the same patch. Run `glasshouse analyze cooccurrence --space {view.space}`."
        ) from error
    pairs = pairs.select("feature_id", "other_feature_id", "d_hat")
    turned = pairs.select(feature_id="other_feature_id", other_feature_id="feature_id", reverse="d_hat")
    both = pairs.join(turned, on=["feature_id", "other_feature_id"], how="left")
    return both.with_columns(pl.col("reverse").fill_null(0.0)).sort("feature_id", "other_feature_id")


def family_codes(
    view: AnalysisView, pairs: pl.DataFrame, threshold: float, n_patches: int, *, scale: float | None
) -> scipy.sparse.csr_array:
    """Return the code vectors of the published method, sparse [F, F].

    Args:
        view: of a patch space.
        pairs: as `implications` gives them.
        threshold: D̂ above it makes a family.
        n_patches: on how many of the strongest patches activations are averaged.
        scale: length of all code vectors before × 1.33; None for their mean, as published.
    """
    import scipy.sparse  # late: half a second that `glasshouse analyze --help` need not wait

    own = pl.DataFrame({"feature_id": np.arange(view.n_features, dtype=np.int32)})
    own = own.with_columns(other="feature_id", d_hat=pl.lit(1.0))
    kept = pairs.filter(pl.col("d_hat") > threshold).select("feature_id", "d_hat", other="other_feature_id")
    family = pl.concat([own, kept], how="diagonal")
    query = read_sql("queries/family_on_top_patches.sql").replace("$n", str(int(n_patches)))
    with view.connection() as connection:
        connection.register("family", family.to_arrow())
        means = pl.DataFrame(connection.sql(query).to_arrow_table())
    family = family.join(means, on=["feature_id", "other"])
    place = (family["feature_id"].to_numpy(), family["other"].to_numpy())
    value = (family["d_hat"] * family["mean"]).to_numpy()
    codes_ff = scipy.sparse.csr_array((value, place), shape=(view.n_features, view.n_features))
    length_f = np.sqrt(codes_ff.multiply(codes_ff).sum(axis=1))
    wanted = float(length_f[length_f > 0].mean()) if scale is None and np.any(length_f > 0) else scale or 0.0
    factor_f = np.divide(LOWERS_BIAS * wanted, length_f, out=np.zeros(len(length_f)), where=length_f > 0)
    return scipy.sparse.csr_array(scipy.sparse.diags_array(factor_f) @ codes_ff)


def own_codes(n_features: int) -> scipy.sparse.csr_array:
    """Return a code of each feature alone, sparse [F, F]: plain naming."""
    import scipy.sparse  # late: as above

    return scipy.sparse.csr_array(scipy.sparse.eye_array(n_features))
