"""Checks of the catalogue's images: against the files they came from, and against the rows that speak of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from glasshouse.schema.errors import GlasshouseError
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.checking.problems import Problem
from glasshouse.warehouse.extraction.loading import StoredImage, stored_images
from glasshouse.warehouse.intake.pictures import read_bytes
from glasshouse.warehouse.layout import Layout

EXAMPLES = 3


def image_problems(layout: Layout, *, hashes: bool) -> Iterator[Problem]:
    """Yield one problem for each kind of disagreement, with a few examples."""
    with Catalogue(layout.root).reading() as connection:
        images = stored_images(connection)
        bounds = connection.execute("SELECT count(*), coalesce(max(image_id) + 1, 0) FROM images").fetchone()
        rows = connection.execute("SELECT image_id, byte_count, path FROM images").fetchall()
    sizes, paths = {row[0]: row[1] for row in rows}, {row[0]: row[2] for row in rows}
    if bounds is not None and bounds[0] != bounds[1]:
        yield Problem(
            "table images",
            f"image ids are not dense: {bounds[0]} images, highest id {bounds[1] - 1}",
            "the catalogue was changed by hand; restore it from a copy",
        )
    missing, changed = [], []
    for image in images:
        state = _state(image, layout.root, sizes.get(image.image_id), hashes=hashes)
        if state == "missing":
            missing.append(paths[image.image_id])
        elif state == "changed":
            changed.append(paths[image.image_id])
    if missing:
        yield Problem(
            "images",
            f"{len(missing)} of {len(images)} files are missing: {_some(missing)}",
            "what was extracted from them stays; new extractions will list them as failures until they are back",
        )
    if changed:
        yield Problem(
            "images",
            f"{len(changed)} files have changed since they were added: {_some(changed)}",
            "run `glasshouse add` on them again: each becomes a new image",
        )


def _state(image: StoredImage, root: Path, size: int | None, *, hashes: bool) -> str:
    """Say `good` when one place still has the image's bytes, else `changed` or `missing`."""
    state = "missing"
    for place in image.paths:
        if not hashes and place.container is None:
            file = root / (place.cached or place.path)
            if file.is_file():
                if file.stat().st_size == size:
                    return "good"
                state = "changed"
            continue
        try:
            data = read_bytes(place.path, place.container, place.byte_offset, place.byte_count, place.cached, root)
        except (GlasshouseError, OSError):
            continue
        if hashlib.sha256(data).hexdigest() == image.sha256:
            return "good"
        state = "changed"
    return state


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - EXAMPLES} more" if len(paths) > EXAMPLES else ""
    return ", ".join(paths[:EXAMPLES]) + more
