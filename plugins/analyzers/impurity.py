"""Analyzer `impurity`: the share of a feature's activation that lies outside its main annotation (a measure of CFM).

With a_p the feature's activation on patch p and A_c the patches in a mask of the category c,

    mass(c) = Σ_{p ∈ A_c} a_p / Σ_p a_p        impurity = 1 − max_c mass(c)

over all patches of the images with masks. The authors' code has no evaluation; the details are our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers.cooccurrence import require_patches
from glasshouse.plugins.analyzers.locality import masked_images, masks_by_image, require_masks, values_of
from glasshouse.plugins.analyzers.mask_patches import MaskGrid, patches_of
from glasshouse.schema.texts import read_sql

if TYPE_CHECKING:
    import scipy.sparse

    from glasshouse.plugins.view import AnalysisView

Floats = npt.NDArray[np.float64]

IMAGES_AT_ONCE = 1024
"""Images whose masks are decoded and whose activations are read together."""

SCHEMA = pa.schema(
    [
        ("feature_id", pa.int32()),
        ("attribute", pa.string()),
        ("category", pa.string()),
        ("impurity", pa.float64()),
        ("impurity_expected", pa.float64()),
        ("outside_all", pa.float64()),
        ("category_shuffled", pa.string()),
        ("impurity_shuffled", pa.float64()),
        ("n_patches", pa.int64()),
    ]
)


class ImpurityParameters(Parameters):
    """Parameters of `impurity`."""

    attribute: str = Field("category", description="What groups masks: category, supercategory or an attribute's name.")
    cover: float = Field(0.05, gt=0, le=1, description="A patch belongs to a mask that covers this share of it.")


class Masses(NamedTuple):
    """Sums over patches of images with masks.

    Attributes:
        by_label_fl: activation of each feature on the patches of each label [F, L].
        any_f: on the patches of any label [F].
        all_f: on all patches [F].
        active_f: patches on which each feature is active [F].
    """

    by_label_fl: Floats
    any_f: Floats
    all_f: Floats
    active_f: npt.NDArray[np.int64]


class Impurity(Analyzer[ImpurityParameters]):
    """How much of a feature's activation falls outside what it is mostly active on."""

    summary: ClassVar[str] = "Share of each feature's activation outside its main annotation, shuffled masks beside it."
    parameters: ClassVar[type[Parameters]] = ImpurityParameters
    schema: ClassVar[pa.Schema] = SCHEMA
    facets: ClassVar[tuple[str, ...]] = ("attribute",)
    in_features: ClassVar[tuple[str, ...]] = ("impurity",)

    def resolve(self, view: AnalysisView, parameters: ImpurityParameters) -> ImpurityParameters:
        """Refuse spaces without patches, and warehouses without masks that can be grouped."""
        require_patches(view, "impurity")
        require_masks(view, parameters.attribute)
        return parameters

    def run(self, view: AnalysisView, parameters: ImpurityParameters) -> Rows:
        """Sum every feature's activation by label, with the masks of its images and with those of the next image."""
        masks = MaskLabels(view, parameters)
        n_labels = len(masks.labels)
        own, shuffled = no_masses(view.n_features, n_labels), no_masses(view.n_features, n_labels)
        n_patches_l, n_patches = np.zeros(n_labels), 0
        for first in range(0, len(masks.image_ids), IMAGES_AT_ONCE):
            block = np.arange(first, min(first + IMAGES_AT_ONCE, len(masks.image_ids)))
            inside_pl, seen_p = masks.of([*block, (int(block[-1]) + 1) % len(masks.image_ids)])
            n_block = len(block) * masks.n_tokens
            codes_fp = masks.activations(block)
            own = added(own, codes_fp, inside_pl[:n_block], seen_p[:n_block])
            shuffled = added(shuffled, codes_fp, inside_pl[masks.n_tokens :], seen_p[:n_block])
            n_patches_l += inside_pl[:n_block].sum(axis=0)
            n_patches += int(seen_p[:n_block].sum())
            view.progress(int(block[-1]) + 1, len(masks.image_ids))
        view.note(n_images=len(masks.image_ids), n_categories=n_labels, n_patches=n_patches)
        shares_l = n_patches_l / max(n_patches, 1)
        table = table_of(own, shuffled if len(masks.image_ids) > 1 else None, masks.labels, shares_l, parameters)
        view.note(summary=headline(table))
        return table


def headline(table: pa.Table) -> str:
    """Return the mean impurity over features, with that by shuffled masks beside it."""
    own, control = (pc.mean(table[name]).as_py() for name in ("impurity", "impurity_shuffled"))
    said = f"{table.num_rows:,} feature{'' if table.num_rows == 1 else 's'}"
    said += "" if own is None else f", mean impurity {own:.3f}"
    return said if control is None else f"{said} (masks of other images {control:.3f})"


class MaskLabels:
    """Which patches of the images with masks lie in a mask of which label; images are counted from 0.

    Args:
        view: of a patch space.
        parameters: of the run.
    """

    def __init__(self, view: AnalysisView, parameters: ImpurityParameters) -> None:
        self.image_ids = masked_images(view, parameters.attribute)["image_id"].to_numpy()
        rows, columns = view.grid or (1, 1)
        self.n_tokens = rows * columns
        self._view, self._parameters = view, parameters
        self._grid = MaskGrid((rows, columns), view.warehouse.space(view.space).framing)
        first, last = int(self.image_ids[0]), int(self.image_ids[-1])
        query = read_sql("queries/mask_labels.sql")
        found = view.sql(query, {**values_of(parameters.attribute), "first": first, "last": last})
        self.labels = [str(label) for label in found["label"].to_pylist()]
        self._place = {label: place for place, label in enumerate(self.labels)}

    def of(self, places: Sequence[int]) -> tuple[scipy.sparse.csr_array, npt.NDArray[np.bool_]]:
        """Return which labels the patches of some images have [patches, L], and whether the encoder sees them."""
        import scipy.sparse  # late: half a second that `glasshouse analyze --help` need not wait

        ids = [int(self.image_ids[place]) for place in places]
        rows = masks_by_image(self._view, min(ids), max(ids), self._parameters.attribute)
        patch_m, label_m, seen = [], [], []
        for number, image in enumerate(ids):
            masks = self._grid.masks_of(rows[image])
            seen.append(masks.inside_t > 0)
            mask_n, token_n = np.nonzero(patches_of(masks.cover_mt, self._parameters.cover))
            label_of_m = np.array([self._place[label] for label in masks.label_m], dtype=np.int64)
            patch_m.append(number * self.n_tokens + token_n)
            label_m.append(label_of_m[mask_n])
        place = (np.concatenate(patch_m), np.concatenate(label_m))
        shape = (len(ids) * self.n_tokens, len(self.labels))
        inside_pl = scipy.sparse.coo_array((np.ones(len(place[0])), place), shape=shape).tocsr()
        inside_pl.data[:] = 1.0  # two masks of a label on one patch count once
        return inside_pl, np.concatenate(seen)

    def activations(self, places: npt.NDArray[np.int64]) -> scipy.sparse.csr_array:
        """Return the activations [F, patches] of neighbouring images."""
        import scipy.sparse  # late: as above

        ids = self.image_ids[places]
        with self._view.connection() as connection:
            connection.register("wanted", pa.table({"image_id": ids.astype(np.int32), "number": np.arange(len(ids))}))
            found = connection.sql(read_sql("queries/patches_of_wanted_images.sql")).fetchnumpy()
        patch_r = found["number"] * self.n_tokens + found["token"].astype(np.int64)
        shape = (self._view.n_features, len(ids) * self.n_tokens)
        values = found["value"].astype(np.float64)
        return scipy.sparse.coo_array((values, (found["feature_id"], patch_r)), shape=shape).tocsr()


def no_masses(n_features: int, n_labels: int) -> Masses:
    """Return sums over nothing."""
    none_f = np.zeros(n_features)
    return Masses(np.zeros((n_features, n_labels)), none_f, none_f, none_f.astype(np.int64))


def added(
    masses: Masses,
    codes_fp: scipy.sparse.csr_array,
    inside_pl: scipy.sparse.csr_array,
    seen_p: npt.NDArray[np.bool_],
) -> Masses:
    """Add the patches of some images, those that the encoder sees nothing of left out."""
    any_p = (np.diff(inside_pl.indptr) > 0) & seen_p
    seen_fp = codes_fp.multiply(seen_p[None, :]).tocsr()
    seen_fp.eliminate_zeros()
    return Masses(
        masses.by_label_fl + (seen_fp @ inside_pl).toarray(),
        masses.any_f + codes_fp @ any_p.astype(np.float64),
        masses.all_f + codes_fp @ seen_p.astype(np.float64),
        masses.active_f + np.diff(seen_fp.indptr),
    )


def best_of(masses: Masses, features: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the label of the largest mass of each feature, the first of equal ones, and the share outside it."""
    mass_kl = masses.by_label_fl[features]
    best_k = mass_kl.argmax(axis=1)
    # Sums of the same numbers in another order differ by rounding, and no share is below 0.
    return best_k, np.clip(1 - mass_kl[np.arange(len(features)), best_k] / masses.all_f[features], 0, 1)


def table_of(
    own: Masses, shuffled: Masses | None, labels: Sequence[str], shares_l: Floats, parameters: ImpurityParameters
) -> pa.Table:
    """Return a row for each feature that is active on an image with masks."""
    features = np.flatnonzero(own.all_f > 0)
    best_k, impurity_k = best_of(own, features)
    control_k, control = best_of(shuffled, features) if shuffled is not None else (best_k, np.full(len(features), None))
    rows = [
        {
            "feature_id": int(feature),
            "attribute": parameters.attribute,
            "category": labels[best_k[row]] if impurity_k[row] < 1 else None,
            "impurity": float(impurity_k[row]),
            "impurity_expected": float(1 - shares_l[best_k[row]]) if impurity_k[row] < 1 else None,
            "outside_all": float(np.clip(1 - own.any_f[feature] / own.all_f[feature], 0, 1)),
            "category_shuffled": labels[control_k[row]] if control[row] is not None and control[row] < 1 else None,
            "impurity_shuffled": control[row],
            "n_patches": int(own.active_f[feature]),
        }
        for row, feature in enumerate(features)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
