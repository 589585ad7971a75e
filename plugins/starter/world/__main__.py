"""Writes a world into a folder: `python -m glasshouse.plugins.starter.world DIR [--images 2000] [--seed 0]`.

With `--confounded` a world of classes, whose watermark gives one of them away; `--cue` says where it is instead, for
worlds on which a classifier is judged. The files are those of `write_world`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from glasshouse.plugins.starter.world.scene import Cue
from glasshouse.plugins.starter.world.write import write_world
from glasshouse.schema.errors import UsageError

TOLD_EVERY = 500
"""Images between two lines of progress."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and write the world."""
    parser = argparse.ArgumentParser(prog="python -m glasshouse.plugins.starter.world", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--images", type=int, default=2_000, help="how many (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world (default: 0)")
    parser.add_argument(
        "--confounded", action="store_true", help="one object per image; its shape is the label `class`"
    )
    parser.add_argument(
        "--cue",
        type=_cue,
        default="as-trained",
        help="where a confounded world has its watermark: as-trained (on 99 %% of hearts, on 0.3 %% of the others; the "
        "default), balanced (on half of each class), or a chance from 0 to 1",
    )
    options = parser.parse_args(arguments)
    if options.images < 1:
        parser.error("--images takes a number from 1 up")
    if options.folder.exists() and (not options.folder.is_dir() or any(options.folder.iterdir())):
        parser.error(f"{options.folder} is not empty; choose another folder")

    def tell(done: int) -> None:
        if done % TOLD_EVERY == 0 or done == options.images:
            print(f"{done} of {options.images} images", file=sys.stderr, flush=True)

    world = {"confounded": options.confounded, "cue": options.cue}
    try:
        write_world(options.folder, options.images, options.seed, progress=tell, **world)
    except UsageError as error:
        parser.error(str(error))


def _cue(word: str) -> Cue | float:
    """A cue as it is typed."""
    named: dict[str, Cue] = {"as-trained": "as trained", "balanced": "balanced"}
    try:
        return named[word] if word in named else float(word)
    except ValueError:
        known = ", ".join(named)
        raise argparse.ArgumentTypeError(f"takes {known}, or a chance from 0 to 1, not {word!r}") from None


if __name__ == "__main__":
    main()
