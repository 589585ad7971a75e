"""What a probe learns: the classes of images by an attribute, and which images it may learn from.

Owns what the classes are; how images are split is in `warehouse/splits.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from glasshouse.schema.errors import UsageError, unknown_name
from glasshouse.schema.texts import read_sql
from glasshouse.warehouse.splits import LEFT_OUT, TEST, TRAIN, VALIDATION, parts_of

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer]


class Targets(NamedTuple):
    """The images that have classes, and these.

    Attributes:
        classes: names, most training images first, then by name.
        image_n: image ids, ascending.
        true_nc: which classes each image has; every image has one at least.
        part_n: TRAIN, VALIDATION or TEST of each image.
        split: where the parts come from, in words.
        left_out: names of classes with too few training images.
    """

    classes: list[str]
    image_n: Ints
    true_nc: Bools
    part_n: Ints
    split: str
    left_out: list[str]

    @property
    def is_multilabel(self) -> bool:
        """Whether any image has several classes."""
        return bool((self.true_nc.sum(axis=1) > 1).any())

    def rows(self, *parts: int) -> Ints:
        """Return the positions of the images of some parts."""
        return np.flatnonzero(np.isin(self.part_n, parts))


def choose_attribute(view: AnalysisView, attribute: str | None) -> str:
    """Return the attribute that is asked for, or the first of: `class`, `category`, the one with most images.

    Raises:
        UsageError: there is none, or none of this name.
    """
    known = view.sql(read_sql("queries/probe_attributes.sql"))["attribute"].to_pylist()
    if not known:
        raise UsageError(
            "Nothing tells the images apart: there are no labels or annotations with several values. Add some with "
            "`glasshouse add --labels FILE` or `--annotations FILE`."
        )
    if attribute is None:
        return str(known[0])
    if attribute not in known:
        raise unknown_name("attribute with several values", attribute, known)
    return attribute


def targets_of(view: AnalysisView, attribute: str, min_images: int, seed: int) -> Targets:
    """Return classes and parts of the space's images that have the attribute.

    Raises:
        UsageError: fewer than two classes have enough training images, or a part is empty.
    """
    rows = view.sql(read_sql("queries/probe_labels.sql"), {"attribute": attribute})
    values, class_r = np.unique(rows["value"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    image_r = rows["image_id"].to_numpy()
    inside_r = np.isin(image_r, view.image_ids)
    image_n, row_r = np.unique(image_r[inside_r], return_inverse=True)
    true_nc = np.zeros((len(image_n), len(values)), dtype=bool)
    true_nc[row_r, class_r[inside_r]] = True
    query = "SELECT image_id, value FROM image_labels WHERE attribute = 'split'"
    splits = {int(image): str(value) for image, value in zip(*view.sql(query).to_pydict().values(), strict=True)}
    part_n, split = parts_of(splits, image_n, view.images()["sha256"].gather(image_n).to_list(), seed)
    n_train_c = true_nc[part_n == TRAIN].sum(axis=0)
    order = [int(c) for c in np.lexsort((values, -n_train_c)) if n_train_c[c] >= min_images]
    kept_n = (part_n != LEFT_OUT) & true_nc[:, order].any(axis=1)
    few = sorted(str(value) for c, value in enumerate(values) if n_train_c[c] < min_images)
    found = Targets(
        [str(values[c]) for c in order], image_n[kept_n], true_nc[np.ix_(kept_n, order)], part_n[kept_n], split, few
    )
    _check(found, attribute, min_images)
    return found


def _check(targets: Targets, attribute: str, min_images: int) -> None:
    if len(targets.classes) < 2:
        raise UsageError(
            f"Of '{attribute}' {len(targets.classes) or 'no'} value{'' if len(targets.classes) == 1 else 's'} "
            f"{'has' if len(targets.classes) == 1 else 'have'} at least {min_images} training images in this space; a "
            "probe needs two. Add images or labels, or lower --min-images."
        )
    for part, name in ((VALIDATION, "validation"), (TEST, "test")):
        if not len(targets.rows(part)):
            raise UsageError(
                f"No image with '{attribute}' is in the {name} part ({targets.split}). Add images, or labels "
                "`split` with train, validation and test."
            )
