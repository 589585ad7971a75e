"""The tokenizer of the starter's CLIP: open_clip's merges, reduced to those that the world's words use.

Other words still work; they fall back to bytes. Analyses ask in words that are not in the captions too ("photo of
the sea"), which is why a few common ones are kept whole.
"""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from typing import Final

import numpy as np

from glasshouse.plugins.encoders.torchvision_shim import ensure_torchvision_operators
from glasshouse.plugins.starter.world.captions import prompt
from glasshouse.plugins.starter.world.vocabulary import ALL_VALUES

_OTHER_WORDS: Final = (
    "a an the of in on with and picture photo image stripes striped shapes colour color texture pattern center "
    "middle object objects text logo stock copyright no not left right top bottom side"
)


def world_words() -> list[str]:
    """Every word of the captions and a few common ones, sorted."""
    text = " ".join([*(prompt(value) for value in ALL_VALUES), *ALL_VALUES, _OTHER_WORDS])
    return sorted(set(text.split()))


def _used_merges(words: list[str]) -> list[tuple[str, str]]:
    ensure_torchvision_operators()
    from open_clip.tokenizer import SimpleTokenizer  # late: open_clip takes seconds to import

    ranks: dict[tuple[str, str], int] = SimpleTokenizer().bpe_ranks
    used = set()
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while pairs := [pair for pair in itertools.pairwise(pieces) if pair in ranks]:
            best = min(pairs, key=lambda pair: ranks[pair])
            used.add(best)
            place = next(i for i, pair in enumerate(itertools.pairwise(pieces)) if pair == best)
            pieces[place : place + 2] = ["".join(best)]
    return sorted(used, key=lambda pair: ranks[pair])


def write_merges(folder: Path) -> int:
    """Write `merges.txt.gz` into a folder; returns the size of the vocabulary."""
    merges = _used_merges(world_words())
    lines = ["#version: merges of the starter world", *(" ".join(pair) for pair in merges)]
    # No time stamp, so that the file is the same every time.
    (folder / "merges.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    n_bytes = 2 * 256
    return n_bytes + len(merges) + 2


def token_table(texts: list[list[str]], tokenize: object) -> np.ndarray[tuple[int, int, int], np.dtype[np.int16]]:
    """Tokens [n_pictures, n_captions, 32] of every caption."""
    flat = [text for captions in texts for text in captions]
    tokens = tokenize(flat).numpy().astype(np.int16)  # type: ignore[operator]
    shaped: np.ndarray[tuple[int, int, int], np.dtype[np.int16]] = tokens.reshape(len(texts), len(texts[0]), -1)
    return shaped
