"""Which images a probe learns from and which it is tested on: by the labels `split`, else by a hash of each image.

Of the rules of docs/analyses.md, section probe; the analyses and what explains their results share them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

TRAIN, VALIDATION, TEST, LEFT_OUT = range(4)
_WORDS: Final[dict[str, int]] = {
    "train": TRAIN, "training": TRAIN,
    "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION, "dev": VALIDATION,
    "test": TEST, "testing": TEST,
}  # fmt: skip
_SHARES: Final = (0.7, 0.8)
"""Without a split label: below the first train, below the second validation, the rest test."""


def parts_of(
    labels: Mapping[int, str], image_n: npt.NDArray[np.integer], hash_n: Sequence[str], seed: int
) -> tuple[npt.NDArray[np.integer], str]:
    """Return the part of each image, and in words where it comes from.

    The labels `split` decide where there are any. Where they name no test images, those of validation are the test,
    and where they name no validation, an eighth of the training images is taken for it. Without labels, a hash of the
    seed and the image's bytes decides: the same picture is in the same part whatever else is there.

    Args:
        labels: value of the label `split` of every image of the warehouse that has one.
        image_n: image ids, all that are told apart.
        hash_n: SHA-256 of each.
        seed: of the hash.
    """
    share_n = np.array([_share(sha, seed) for sha in hash_n])
    if not any(value.lower() in _WORDS for value in labels.values()):
        return np.searchsorted(_SHARES, share_n, side="right"), "by a hash of each image and the seed"
    part_n = np.array([_WORDS.get(labels.get(int(image), "").lower(), LEFT_OUT) for image in image_n], dtype=int)
    words = "by the labels `split`"
    if not (part_n == TEST).any():
        part_n[part_n == VALIDATION] = TEST
        words += ", validation as test"
    if not (part_n == VALIDATION).any():
        part_n[(part_n == TRAIN) & (share_n < 1 / 8)] = VALIDATION
        words += ", an eighth of train as validation"
    return part_n, words


def _share(sha256: str, seed: int) -> float:
    """Return a number from 0 to 1 for an image."""
    return int(hashlib.sha256(f"{seed} {sha256}".encode()).hexdigest()[:13], 16) / 16**13
