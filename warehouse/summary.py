"""What a warehouse holds, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.extraction.shards import covered, read_record
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.quoting import identifier
from glasshouse.warehouse.results.records import Run
from glasshouse.warehouse.results.store import all_runs

COUNTED_TABLES = ("images", "failures", "rejected_rows", "ratings", "captions", "image_labels", "annotations")


@dataclass(frozen=True)
class SpaceSummary:
    """One space; `state` says how far an unfinished one is, `keep` how many images it keeps of each feature."""

    name: str
    encoder: str | None
    hook: str | None
    tokens: str
    sae: str | None
    n_features: int
    n_images: int
    n_activations: int
    keep: int | None
    state: str


@dataclass(frozen=True)
class EmbeddingSummary:
    """One embedding; `state` says how far an unfinished one is."""

    name: str
    encoder: str | None
    width: int
    n_images: int
    state: str


@dataclass(frozen=True)
class RunSummary:
    """One run of an analysis; `state` is `current`, `stale` (what it read has changed since) or `replaced`."""

    run_id: int
    analyzer: str
    space: str
    parameters: dict[str, Any]
    n_rows: int
    started_at: datetime
    duration_s: float
    state: str


@dataclass(frozen=True)
class Summary:
    """Rows of the catalogue's tables by name, spaces, embeddings, runs, size on disk (10⁶ bytes)."""

    tables: dict[str, int]
    spaces: list[SpaceSummary]
    embeddings: list[EmbeddingSummary]
    runs: list[RunSummary]
    size_mb: float


def summarise(layout: Layout) -> Summary:
    """Count what is there; an unfinished extraction's shards are counted too."""
    with Catalogue(layout.root).reading() as connection:
        tables = {}
        for name in COUNTED_TABLES:
            row = connection.execute(f"SELECT count(*) FROM {identifier(name)}").fetchone()
            tables[name] = int(row[0]) if row else 0
        spaces = connection.execute(
            "SELECT name, encoder_spec, hook, tokens, sae_spec, n_features, n_images, n_activations, keep, state "
            "FROM spaces ORDER BY name"
        ).fetchall()
        embeddings = connection.execute(
            "SELECT name, encoder_spec, width, n_images, state, encoder_fingerprint IS NULL FROM embeddings "
            "ORDER BY name"
        ).fetchall()
    n_images = tables["images"]
    return Summary(
        tables=tables,
        spaces=[_space(layout, row, n_images) for row in spaces],
        embeddings=[_embedding(layout, row, n_images) for row in embeddings],
        runs=[_run(run) for run in all_runs(Catalogue(layout.root))],
        size_mb=_size(layout.root) / 1e6,
    )


def _space(layout: Layout, row: Sequence[Any], n_images: int) -> SpaceSummary:
    space = SpaceSummary(*row)
    return replace(
        space,
        state=_state(layout, "space", space.name, space.state, space.n_images, n_images, imported=space.hook is None),
    )


def _embedding(layout: Layout, row: Sequence[Any], n_images: int) -> EmbeddingSummary:
    *columns, imported = row
    embedding = EmbeddingSummary(*columns)
    state = _state(
        layout, "embedding", embedding.name, embedding.state, embedding.n_images, n_images, imported=imported
    )
    return replace(embedding, state=state)


def _run(run: Run) -> RunSummary:
    state = "replaced" if not run.is_latest else "stale" if run.is_stale else "current"
    return RunSummary(
        run.run_id, run.analyzer, run.space, run.parameters, run.n_rows, run.started_at, run.duration_s, state
    )


def _state(layout: Layout, kind: str, name: str, state: str, n_covered: int, n_images: int, *, imported: bool) -> str:
    """Say `ready`, `ready, N images to extract`, or how far an extraction is."""
    files = sorted(layout.shard_folder(kind, name).glob("batch-*.parquet"))
    waiting = len(covered([record for file in files if (record := read_record(file)) is not None]))
    if state != "ready" or waiting:
        return f"extracting, {n_covered + waiting:,} of {n_images:,} images"
    missing = 0 if imported else n_images - n_covered
    return f"ready, {missing:,} more to extract" if missing > 0 else "ready"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
