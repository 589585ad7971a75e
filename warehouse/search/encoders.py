"""The encoder behind an image embedding: its record, and the model itself, loaded when a vector is really needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from glasshouse.schema.errors import ModelError, UsageError, unknown_name

if TYPE_CHECKING:
    from glasshouse.warehouse.contracts import Encoder
    from glasshouse.warehouse.search.door import WarehouseSearch


class EmbeddingRecord(NamedTuple):
    """What the catalogue says of a finished image embedding. Imported ones have no encoder."""

    name: str
    encoder_spec: str | None
    encoder_fingerprint: str | None
    width: int
    state: str


def embedding_records(warehouse: WarehouseSearch) -> dict[str, EmbeddingRecord]:
    """Return the finished embeddings by name; read anew when the catalogue has changed."""

    def read() -> dict[str, EmbeddingRecord]:
        with warehouse.catalogue.reading() as connection:
            rows = connection.execute(
                "SELECT name, encoder_spec, encoder_fingerprint, width, concat_ws('|', fingerprint, n_images) "
                "FROM embeddings WHERE state = 'ready' ORDER BY name"
            ).fetchall()
        return {str(row[0]): EmbeddingRecord(*row) for row in rows}

    return warehouse.catalogue.remembered("embeddings", read)


def embedding_record(warehouse: WarehouseSearch, name: str) -> EmbeddingRecord:
    """Return one of them.

    Raises:
        UsageError: no such embedding.
    """
    records = embedding_records(warehouse)
    if name not in records:
        raise unknown_name("embedding", name, records, "Make one with `glasshouse embed`.")
    return records[name]


def encoder_of(warehouse: WarehouseSearch, record: EmbeddingRecord, device: str = "cpu") -> Encoder:
    """Load the encoder that made an embedding; it is kept for the next text or picture.

    Raises:
        UsageError: the embedding was imported, so that there is none.
        ModelError: it cannot be loaded, or its weights are others now.
    """
    if record.encoder_spec is None or record.encoder_fingerprint is None:
        raise UsageError(
            f"The embedding '{record.name}' was imported: its encoder is not known, so no words or pictures can be "
            "compared with it. Name another embedding, or make one with `glasshouse embed`."
        )
    encoder = warehouse.kept_encoder(record.encoder_spec, device)
    if encoder.fingerprint != record.encoder_fingerprint:
        raise ModelError(
            f"{record.encoder_spec} has other weights than when the embedding '{record.name}' was made, so the two "
            f"cannot be compared. Put the old weights back, or run `glasshouse drop embedding {record.name}` and "
            "`glasshouse embed` again."
        )
    return encoder
