"""Extraction from end to end: register the targets, compute what is missing, finalise, refresh the attached views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse import surface
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.contracts import Encoder
from glasshouse.warehouse.extraction.finalise import (
    finalise_embedding,
    finalise_space,
    images_of,
    sweep_temporary,
)
from glasshouse.warehouse.extraction.keeping import Keeper, remove_unsound
from glasshouse.warehouse.extraction.loading import StoredImage, stored_images
from glasshouse.warehouse.extraction.locks import exclusive
from glasshouse.warehouse.extraction.run import DEFAULT_BATCH_SIZE, Progress, RunReport, Work, run
from glasshouse.warehouse.extraction.shards import ShardFolder, covered
from glasshouse.warehouse.extraction.targets import (
    EmbeddingTarget,
    SpaceRequest,
    SpaceTarget,
    Target,
    check_distinct,
    kind_of,
    register,
    remarks,
    resolve_embedding,
    resolve_space,
)
from glasshouse.warehouse.layout import Layout
from glasshouse.warehouse.vectors import VectorStore


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction did.

    Attributes:
        n_computed: images that went through the encoder now.
        n_failed: of those, images that could not be read.
        new_images: images added to each target, by its name.
        complaints: what the self-tests of the SAEs found odd.
        stopped: whether it was stopped early; everything computed is kept in shards.
    """

    n_computed: int
    n_failed: int
    new_images: dict[str, int] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    stopped: bool = False


def extract(
    layout: Layout,
    encoder: Encoder,
    requests: Sequence[SpaceRequest] = (),
    embedding: str | None = None,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    workers: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress = lambda done, total: None,
    announce: Callable[[str], None] = lambda words: None,
) -> ExtractReport:
    """Bring spaces and an embedding of one encoder up to date with the warehouse's images, in one forward pass.

    Args:
        layout: of the warehouse.
        encoder: on its device.
        requests: the spaces.
        embedding: name for the encoder's image embedding, or None for none.
        batch_size: images per forward pass.
        workers: decoding threads; by the number of cores when None.
        stop: asked after every batch.
        progress: told images done and images in all.
        announce: told what is happening next, in a few words.

    Raises:
        UsageError: no images, names taken by other weights, hooks that do not exist.
        LockedError: another process extracts into the same target.
    """
    targets: list[Target] = [resolve_space(request, encoder) for request in requests]
    if embedding is not None:
        targets.append(resolve_embedding(embedding, encoder))
    if not targets:
        raise UsageError("Nothing to extract: name at least one space or an embedding.")
    check_distinct(targets)
    with exclusive([layout.lock_file(kind_of(target), target.name) for target in targets]):
        images = _register(layout, encoder, targets)
        works = [_work(layout, target, images) for target in targets]
        report = run(
            images,
            encoder,
            works,
            layout.root,
            batch_size=batch_size,
            workers=workers,
            stop=stop,
            progress=progress,
            fold=lambda work: _fold(layout, work),
        )
        new = {} if report.stopped else _finalise(layout, works, announce)
    surface.write_attach_sql(layout)
    return _report(report, new, [words for target in targets for words in remarks(target)])


def shard_folder(layout: Layout, target: Target) -> ShardFolder:
    """Return the shards of a target."""
    return ShardFolder(layout.shard_folder(kind_of(target), target.name), target.fingerprint)


def _register(layout: Layout, encoder: Encoder, targets: Sequence[Target]) -> list[StoredImage]:
    """Record the targets and read the list of images."""
    catalogue = Catalogue(layout.root)
    with catalogue.reading() as connection:
        images = stored_images(connection)
    if not images:
        raise UsageError(f"{layout.root} has no images yet. Add some with `glasshouse add FOLDER`.")
    with catalogue.writing() as connection:
        for target in targets:
            register(connection, encoder, target)
    return images


def _work(layout: Layout, target: Target, images: Sequence[StoredImage]) -> Work:
    """Find out which images a target lacks."""
    shards = shard_folder(layout, target)
    shards.sweep()
    keeper = None
    if isinstance(target, SpaceTarget):
        sweep_temporary(layout, target.name)
        known = images_of(layout.space_file(target.name))
        if target.keep is not None:
            keeper = Keeper(layout.space_file(target.name), target.keep, target.n_features)
            remove_unsound(shards, target.keep, known)
    else:
        known = VectorStore(layout.vectors).image_ids(target.name)
    records = shards.records()
    missing = frozenset(image.image_id for image in images) - known - covered(records)
    tested = bool(known) or any(record.self_test for record in records)
    wants_test = isinstance(target, SpaceTarget) and not target.sae.is_lossless and not tested
    return Work(target, shards, missing, wants_self_test=wants_test, keeper=keeper)


def _fold(layout: Layout, work: Work) -> None:
    """Put the shards of a work with a keeper into the space's file, and take the keeper's floors from there."""
    target, keeper = work.target, work.keeper
    if isinstance(target, SpaceTarget) and keeper is not None:
        records = work.shards.records()
        keeper.n_folded += _finalise_one(layout, work, target, is_last=False)
        # Of what is in the file only the failures have still to be told, when the extraction is done.
        keeper.spent += [replace(record, images=[]) for record in records if record.failures or record.self_test]
        keeper.refresh()


def _finalise(layout: Layout, works: Sequence[Work], announce: Callable[[str], None]) -> dict[str, int]:
    new = {}
    for work in works:
        target = work.target
        announce(f"finalising {target.name}")
        if isinstance(target, SpaceTarget):
            n_folded = work.keeper.n_folded if work.keeper else 0
            new[target.name] = n_folded + _finalise_one(layout, work, target, is_last=True)
        elif isinstance(target, EmbeddingTarget):
            new[target.name] = finalise_embedding(layout, target, work.shards)
    return new


def _finalise_one(layout: Layout, work: Work, target: SpaceTarget, *, is_last: bool) -> int:
    return finalise_space(
        layout,
        target.name,
        target.fingerprint,
        target.n_features,
        work.shards,
        has_tokens=target.tokens == "patches",
        keep=target.keep,
        is_last=is_last,
        spent=work.keeper.spent if work.keeper else (),
    )


def _report(report: RunReport, new: dict[str, int], mismatches: list[str]) -> ExtractReport:
    return ExtractReport(
        n_computed=report.n_images,
        n_failed=report.n_failed,
        new_images=new,
        complaints=mismatches + report.complaints,
        stopped=report.stopped,
    )
