"""`glasshouse train`, without the command line: from a warehouse's images to `sae.safetensors` in a folder.

The folder holds what a run needs to go on after it was killed: `checkpoint.safetensors`, the shuffle buffer's file
where it does not fit into memory, and `curves.jsonl`. When the dictionary is written, the first two are removed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from glasshouse.plugins.saes import own_format
from glasshouse.plugins.training import checkpoint as checkpoints
from glasshouse.plugins.training.buffer import FILE_NAME as BUFFER_NAME
from glasshouse.plugins.training.buffer import ShuffleBuffer, new_file, old_file
from glasshouse.plugins.training.images import ImageRows, Reader, held_out_rows
from glasshouse.plugins.training.job import Job, prepared
from glasshouse.plugins.training.request import Report, Request
from glasshouse.plugins.training.saving import save_trained
from glasshouse.plugins.training.trainer import Progress, Trainer
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.extraction.locks import exclusive

if TYPE_CHECKING:
    from glasshouse.plugins.training.buffer import Rows
    from glasshouse.warehouse.contracts import Encoder
    from glasshouse.warehouse.layout import Layout

LOCK_SECONDS = 1.0
FEW_HELD_OUT = 10
"""Fewer held-out images than these are said to be few."""

ProgressBar = Callable[[str, str], AbstractContextManager[Progress]]


def train(
    layout: Layout,
    encoder: Encoder,
    request: Request,
    folder: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    bar: ProgressBar = lambda words, unit: nullcontext(lambda done, total: None),
    report: Callable[[dict[str, Any]], None] = lambda point: None,
    warn: Callable[[str], None] = lambda words: None,
) -> Report:
    """Train a dictionary on a warehouse's images; go on where a run before was interrupted.

    Args:
        layout: of the warehouse.
        encoder: on its device, where the dictionary is trained too.
        request: what to train.
        folder: where `sae.safetensors` goes; made when it is not there.
        stop: asked after every step; True ends the run with a checkpoint.
        bar: gives a progress bar for a phase and its unit.
        report: told of every measurement.
        warn: told what is allowed and says little.

    Raises:
        UsageError: what is asked for does not fit, or the folder holds another training.
        ModelError: nothing can be learnt: images that cannot be read, activations or a loss that are not finite.
        LockedError: another process trains into the folder.
        WarehouseError: the disk has no room for the buffer.
    """
    job = prepared(layout, encoder, request, folder)
    if len(job.held_out) < FEW_HELD_OUT:
        images = "1 image is" if len(job.held_out) == 1 else f"{len(job.held_out)} images are"
        warn(f"Only {images} held out of {len(job.training) + len(job.held_out):,}: the figures will say little.")
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive([folder / "training.lock"], LOCK_SECONDS):
        try:
            done = _finished_before(job)
            return done if done is not None else _run(job, stop, bar, report)
        finally:
            # Who holds the lock: a process and its command line, which nobody needs beside the result.
            (folder / "training.holder").unlink(missing_ok=True)


def _finished_before(job: Job) -> Report | None:
    """The report of a training that ended before, from its file; clears what a kill at the very end left behind."""
    file = job.folder / own_format.FILE_NAME
    if not file.exists():
        return None
    description, _ = own_format.read(file)
    settings = description.training.get("settings")
    if settings is None:
        raise UsageError(f"{file} was not made by `glasshouse train`. Choose another --out.")
    checkpoints.check_same(settings, job.identity, str(file))
    _clear(job.folder)
    counts = {name: description.training[name] for name in ("n_failed", "n_not_finite")}
    return _report(job, file, job.recipe.steps, None, counts, [], description.self_test, was_done=True)


def _run(job: Job, stop: Callable[[], bool], bar: ProgressBar, report: Callable[[dict[str, Any]], None]) -> Report:
    import torch  # late: it takes a second to import

    found = checkpoints.load(job.folder)
    if found is not None:
        checkpoints.check_same(found.identity, job.identity, str(job.folder / checkpoints.FILE_NAME))
    with bar("reading images", "images") as progress:
        held_out_nd = torch.from_numpy(held_out_rows(job.reader, job.held_out, job.request.seed))
        buffer = _buffer(job, found, progress)
    trainer = Trainer(
        buffer,
        job.recipe,
        held_out_nd,
        folder=job.folder,
        identity=job.identity,
        device=job.reader.encoder.device,
        checkpoint_every=job.request.checkpoint_every,
        kept=lambda: {"n_rows": len(buffer.rows_nd), "failures": job.reader.failures, **_not_finite(job.reader)},
        report=report,
    )
    if found is not None:
        trainer.resume(found)
    with bar("training", "steps") as progress:
        trained = trainer.run(stop, progress)
    counts = {"n_failed": len(job.reader.failures), **_not_finite(job.reader)}
    resumed_at = None if found is None else int(found.values["step"])
    if trained.stopped:
        return _report(job, None, trained.step, resumed_at, counts, trained.curves, {})
    encoder = job.reader.encoder
    origin = {"hook": job.request.hook, "tokens": job.request.tokens, "encoder": encoder.spec}
    about = {
        "images": len(job.training),
        "held_out_images": len(job.held_out),
        "encoder_fingerprint": encoder.fingerprint,
        **counts,
        "settings": job.identity,
    }
    figures = save_trained(job.folder, trained, held_out_nd, origin, about)
    buffer.close()
    _clear(job.folder)
    file = job.folder / own_format.FILE_NAME
    return _report(job, file, trained.step, resumed_at, counts, trained.curves, figures.as_dict())


def _not_finite(reader: Reader) -> dict[str, int]:
    return {"n_not_finite": reader.n_not_finite}


def _buffer(job: Job, found: checkpoints.Checkpoint | None, progress: Progress) -> ShuffleBuffer:
    """The buffer, filled: from a file that was filled before where a checkpoint says so, else from the images."""
    source = ImageRows(job.reader, job.training, job.request.seed, progress)
    rows_nd = None if job.in_memory else _filled_before(job, found)
    if rows_nd is None:
        rows_nd = _filled(job, source)
    seed, batch = job.request.seed, job.recipe.batch
    return ShuffleBuffer(rows_nd, batch, seed, source if job.streams else None)


def _filled_before(job: Job, found: checkpoints.Checkpoint | None) -> Rows | None:
    if found is None:
        return None
    kept = found.values["kept"]
    file = job.folder / BUFFER_NAME
    rows_nd = old_file(file, job.capacity, job.reader.target.point.width)
    if rows_nd is None and job.streams:
        raise UsageError(
            f"{file} is gone, and what it held cannot be made again in the same order. Remove "
            f"{job.folder / checkpoints.FILE_NAME} to begin anew."
        )
    if rows_nd is not None:
        job.reader.failures.update({int(image): reason for image, reason in kept["failures"].items()})
        job.reader.n_not_finite = kept["n_not_finite"]
        rows_nd = rows_nd[: kept["n_rows"]]
    return rows_nd


def _filled(job: Job, source: ImageRows) -> Rows:
    import numpy as np  # late: this module is imported with every command's help

    width = job.reader.target.point.width
    if job.in_memory:
        rows_nd: Rows = np.empty((job.capacity, width), dtype=np.float32)
        return rows_nd[: source.take_epoch(rows_nd)]
    # Under another name until it is full: a file of the right name and size can be believed.
    part = job.folder / f"{BUFFER_NAME}.part"
    rows_nd = new_file(part, job.capacity, width)
    n_rows = job.capacity
    if job.streams:
        source.take(rows_nd)
    else:
        n_rows = source.take_epoch(rows_nd)
    cast("np.memmap[Any, Any]", rows_nd).flush()
    part.replace(job.folder / BUFFER_NAME)
    return rows_nd[:n_rows]


def _clear(folder: Path) -> None:
    """Remove what only an unfinished training needs."""
    for name in (checkpoints.FILE_NAME, BUFFER_NAME, f"{BUFFER_NAME}.part"):
        (folder / name).unlink(missing_ok=True)


def _report(
    job: Job,
    file: Path | None,
    step: int,
    resumed_at: int | None,
    counts: dict[str, int],
    curves: list[dict[str, Any]],
    figures: dict[str, Any],
    *,
    was_done: bool = False,
) -> Report:
    return Report(
        file=file,
        step=step,
        steps=job.recipe.steps,
        resumed_at=resumed_at,
        was_done=was_done,
        n_images=len(job.training),
        n_held_out=len(job.held_out),
        streamed=job.streams,
        curves=curves,
        figures=figures,
        **counts,
    )
