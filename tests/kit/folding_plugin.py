"""A plugin that makes shards of spaces with --keep go into the file as soon as a few batches lie there."""

from __future__ import annotations

from glasshouse.warehouse.extraction import keeping

keeping.enough_to_fold = lambda file: 15_000
