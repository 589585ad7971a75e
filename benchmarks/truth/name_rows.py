"""The figures of names and captions as rows of the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.table import Row
from benchmarks.truth import names
from benchmarks.truth.world import World

N_CAPTIONS = 200


def name_rows(world: World, spaces: Sequence[str]) -> Iterator[Row]:
    """Yield the share of pure patch features whose name is right, what sets children apart, and what captions say."""
    if "patches" not in spaces:
        return
    world.warehouse.analyze("concepts", "patches")
    shown = names.values_shown(world.warehouse, "patches")
    for method in ("published", "plain"):  # captions take the newest names
        rows = names.name_rows(world.warehouse, "patches", world.words, method)
        one, apart = names.right_names(rows, shown), names.right_differences(rows, shown)
        what = f"names, patches, {method}: right for {one.n_pure} pure features"
        measured, against = f"{one.right:.3f}", f"names shuffled {one.mixed:.2f}"
        if method == "plain":
            yield Row("truth", what, measured, against, target=">= 0.85", met=one.right >= 0.85)
        else:
            yield Row("truth", what, measured, against)
        what = f"names, patches, {method}: what sets {apart.n} children apart is right"
        yield Row("truth", what, f"{apart.right:.3f}", f"their own names {apart.own:.2f}, shuffled {apart.mixed:.2f}")
    said = names.right_captions(world.warehouse, "patches", range(min(N_CAPTIONS, world.n_images)))
    against = f"of the next image {said.precision_shuffled:.2f}"
    yield Row("truth", "caption, patches: words that are true of the image", f"{said.precision:.3f}", against)
    against = f"of the next image {said.recall_shuffled:.2f}"
    yield Row("truth", "caption, patches: values of the image that are said", f"{said.recall:.3f}", against)
