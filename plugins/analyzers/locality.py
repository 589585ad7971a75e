"""Analyzer `locality`: whether a feature is active where annotated things are (a measure of CFM, arXiv 2601.13798).

IoU of the thresholded map of a feature with the best mask of a category, and the pointing game, over the feature's top
images. The authors' code has no evaluation: the details are our reading, explained in docs/analyses.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins.analyzer import Analyzer, Parameters, Rows
from glasshouse.plugins.analyzers.cooccurrence import require_patches
from glasshouse.plugins.analyzers.map_overlap import overlap
from glasshouse.plugins.analyzers.mask_patches import MaskGrid
from glasshouse.schema.errors import UsageError
from glasshouse.schema.texts import read_sql

if TYPE_CHECKING:
    from glasshouse.plugins.view import AnalysisView

MAX_VALUES = 1 << 24
"""Patches of maps that are compared at once, 4 bytes each, unless one image alone has more."""

SCHEMA = pa.schema(
    [
        ("feature_id", pa.int32()),
        ("attribute", pa.string()),
        ("compare", pa.string()),
        ("category", pa.string()),
        ("n_images", pa.int32()),
        ("n_present", pa.int32()),
        ("iou", pa.float64()),
        ("pointing", pa.float64()),
        ("iou_present", pa.float64()),
        ("pointing_present", pa.float64()),
        ("iou_shuffled", pa.float64()),
        ("pointing_shuffled", pa.float64()),
    ]
)


class LocalityParameters(Parameters):
    """Parameters of `locality`."""

    attribute: str = Field("category", description="What groups masks: category, supercategory or an attribute's name.")
    k: int = Field(20, ge=1, description="How many of a feature's top images that have masks.")
    compare: Literal["patches", "pixels"] = Field("patches", description="Count patches, or areas in pixels.")
    cover: float = Field(0.05, gt=0, le=1, description="A patch belongs to a mask that covers this share of it.")
    threshold_by: Literal["maximum", "quantile"] = Field(
        "maximum", description="A share of each map's maximum, or a quantile of the feature's activations on patches."
    )
    level: float = Field(0.5, ge=0, le=1, description="Which share of the maximum, or which quantile.")


class Locality(Analyzer[LocalityParameters]):
    """Overlap of a feature's maps with annotated masks."""

    summary: ClassVar[str] = "Whether features are active where annotated things are: IoU with masks, pointing game."
    parameters: ClassVar[type[Parameters]] = LocalityParameters
    schema: ClassVar[pa.Schema] = SCHEMA
    facets: ClassVar[tuple[str, ...]] = ("attribute", "compare")
    in_features: ClassVar[tuple[str, ...]] = ("category", "iou", "pointing")
    strongest: ClassVar[str | None] = "iou"

    def resolve(self, view: AnalysisView, parameters: LocalityParameters) -> LocalityParameters:
        """Refuse spaces without patches, and warehouses without masks that can be grouped."""
        require_patches(view, "locality")
        require_masks(view, parameters.attribute)
        return parameters

    def run(self, view: AnalysisView, parameters: LocalityParameters) -> Rows:
        """Compare the maps of every feature's top images with the masks of these images, and of the next one."""
        images = masked_images(view, parameters.attribute)
        pairs = comparisons(view, images, parameters)
        view.note(n_images=images.height, n_masks=int(images["n_masks"].sum()), n_crowds=int(images["n_crowds"].sum()))
        found, done = [], 0
        for block in image_blocks(pairs, (view.grid or (1, 1))[0] * (view.grid or (1, 1))[1]):
            found.append(compared(view, block, parameters))
            done += block.height
            view.progress(done, pairs.height)
        if not found:
            return SCHEMA.empty_table()
        rows = summarised(pl.concat(found), pairs)
        view.note(summary=headline(rows))
        return (
            rows.with_columns(attribute=pl.lit(parameters.attribute), compare=pl.lit(parameters.compare))
            .select(SCHEMA.names)
            .to_arrow()
            .cast(SCHEMA)
        )


def headline(rows: pl.DataFrame) -> str:
    """Return the mean over features of the IoU with the category that fits each best, and of the same with other masks.

    The control is the best of all categories too: the best of many chances is above 0.
    """
    best = rows.group_by("feature_id").agg(pl.col("iou", "pointing", "iou_shuffled", "pointing_shuffled").max())
    said = f"{best.height:,} feature{'' if best.height == 1 else 's'}, each with the category that fits best"
    for name, words in (("iou", "mean IoU"), ("pointing", "pointing game")):
        own, control = best[name].mean(), best[f"{name}_shuffled"].mean()
        if isinstance(own, float):
            beside = f" (masks of other images {control:.3f})" if isinstance(control, float) else ""
            said += f", {words} {own:.3f}{beside}"
    return said


def require_masks(view: AnalysisView, attribute: str) -> None:
    """Refuse a space none of whose images has masks that can be grouped.

    Raises:
        UsageError: none has.
    """
    if not masked_images(view, attribute).height:
        what = "masks" if attribute == "category" else f"masks with '{attribute}'"
        raise UsageError(
            f"No image of the space '{view.space}' has {what}. Add some with `glasshouse add --annotations FILE`, "
            "or choose what groups them with --attribute."
        )


def values_of(attribute: str) -> dict[str, str]:
    """What the queries on masks need to know of an attribute: its name, and its path in the JSON of an annotation."""
    quoted = attribute.replace("\\", "\\\\").replace('"', '\\"')
    return {"attribute": attribute, "path": f'$."{quoted}"'}


def masked_images(view: AnalysisView, attribute: str) -> pl.DataFrame:
    """Return the space's images that have masks with the attribute: image_id, n_masks, n_crowds (not in n_masks)."""
    table = view.sql(read_sql("queries/masked_images.sql"), values_of(attribute))
    images = pl.DataFrame(table).filter(pl.col("image_id").is_in(view.image_ids.tolist()))
    return images.filter(pl.col("n_masks") > 0)


def comparisons(view: AnalysisView, images: pl.DataFrame, parameters: LocalityParameters) -> pl.DataFrame:
    """Return what is compared: feature_id, image_id of the map, mask_image, is_shuffled, threshold (NULL: of the map).

    Each map of a feature's top images once with the masks of its image, and as a control once with those of the
    feature's next top image, the last with those of the first.
    """
    with view.connection() as connection:
        connection.register("among", images.select("image_id").to_arrow())
        top = pl.DataFrame(
            connection.sql(read_sql("queries/top_images_among.sql"), params={"k": parameters.k}).to_arrow_table()
        )
        if parameters.threshold_by == "quantile":
            query = read_sql("queries/map_thresholds.sql")
            limits = pl.DataFrame(connection.sql(query, params={"quantile": parameters.level}).to_arrow_table())
            limits = limits.with_columns(pl.col("threshold").cast(pl.Float32))
            top = top.join(limits, on="feature_id", how="left", maintain_order="left")
        else:
            top = top.with_columns(threshold=pl.lit(None, pl.Float32))
    own = top.with_columns(mask_image="image_id", is_shuffled=pl.lit(False))
    following = pl.col("image_id").shift(-1).fill_null(pl.col("image_id").first()).over("feature_id")
    shuffled = top.with_columns(mask_image=following, is_shuffled=pl.lit(True))
    shuffled = shuffled.filter(pl.col("mask_image") != pl.col("image_id"))
    return pl.concat([own, shuffled], how="diagonal").sort("mask_image", "feature_id", "is_shuffled")


def image_blocks(pairs: pl.DataFrame, n_tokens: int) -> Iterator[pl.DataFrame]:
    """Yield comparisons, all with the masks of an image together, of at most `MAX_VALUES` values or of one image."""
    mask_c = pairs["mask_image"].to_numpy()
    starts = np.append(np.flatnonzero(np.diff(mask_c, prepend=-1)), len(mask_c))
    first = 0
    while first < len(starts) - 1:
        end = int(np.searchsorted(starts, starts[first] + MAX_VALUES // n_tokens, side="right")) - 1
        end = max(end, first + 1)
        yield pairs[int(starts[first]) : int(starts[end])]
        first = end


def compared(view: AnalysisView, block: pl.DataFrame, parameters: LocalityParameters) -> pl.DataFrame:
    """Compare the maps of a block; return sums of IoU and hits: feature_id, is_shuffled, category, n, iou, pointing."""
    maps_ct, threshold_c = maps_of(view, block, parameters)
    mask_c = block["mask_image"].to_numpy()
    grid = MaskGrid(view.grid or (1, 1), view.warehouse.space(view.space).framing)
    rows = masks_by_image(view, int(mask_c[0]), int(mask_c[-1]), parameters.attribute)
    found = []
    bounds = np.append(np.flatnonzero(np.diff(mask_c, prepend=-1)), len(mask_c))
    for first, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        masks = grid.masks_of(rows[int(mask_c[first])])
        if not masks.label_m:
            continue
        of_image = slice(first, end)
        result = overlap(
            maps_ct[of_image], threshold_c[of_image], masks, parameters.cover, in_pixels=parameters.compare == "pixels"
        )
        for column, label in enumerate(result.labels):
            found.append(
                block[of_image]
                .select("feature_id", "is_shuffled")
                .with_columns(
                    category=pl.lit(label),
                    iou=pl.Series(result.iou_cl[:, column]),
                    pointing=pl.Series(result.points_cl[:, column].astype(np.float64)),
                )
            )
    empty = {"feature_id": pl.Int32, "is_shuffled": pl.Boolean, "category": pl.String}
    frame = pl.concat(found) if found else pl.DataFrame(schema={**empty, "iou": pl.Float64, "pointing": pl.Float64})
    sums = frame.group_by("feature_id", "is_shuffled", "category", maintain_order=True)
    return sums.agg(pl.len().alias("n"), pl.col("iou", "pointing").sum())


def maps_of(
    view: AnalysisView, block: pl.DataFrame, parameters: LocalityParameters
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the maps [maps, tokens] and thresholds [maps] of comparisons."""
    rows, columns = view.grid or (1, 1)
    maps_ct = np.zeros((block.height, rows * columns), dtype=np.float32)
    pairs = block.select("feature_id", "image_id").with_row_index("place")
    with view.connection() as connection:
        connection.register("pairs", pairs.to_arrow())
        found = connection.sql(read_sql("queries/maps_of_pairs.sql")).fetchnumpy()
    maps_ct[found["place"], found["token"]] = found["value"]
    if parameters.threshold_by == "quantile":
        return maps_ct, block["threshold"].to_numpy()
    return maps_ct, np.float32(parameters.level) * maps_ct.max(axis=1)


def masks_by_image(view: AnalysisView, first: int, last: int, attribute: str) -> dict[int, list[dict[str, Any]]]:
    """Return the rows about masks of a range of images, by image, sorted by label."""
    values = {**values_of(attribute), "first": first, "last": last}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for row in view.sql(read_sql("queries/masks_of_images.sql"), values).to_pylist():
        by_image.setdefault(row["image_id"], []).append(row)
    return by_image


def summarised(found: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the table: means over all top images, over those with the category, and of the control."""
    sums = found.group_by("feature_id", "is_shuffled", "category").agg(pl.col("n", "iou", "pointing").sum())
    counts = pairs.group_by("feature_id").agg(
        (~pl.col("is_shuffled")).sum().alias("n_images"), pl.col("is_shuffled").sum().alias("n_shuffled")
    )
    key = ["feature_id", "category"]
    own = sums.filter(~pl.col("is_shuffled")).join(counts, on="feature_id")
    control = sums.filter("is_shuffled").select(*key, control_iou="iou", control_pointing="pointing")
    rows = own.join(control, on=key, how="left").with_columns(pl.col("^control_.*$").fill_null(0))
    n_shuffled = pl.when(pl.col("n_shuffled") > 0).then("n_shuffled")
    return rows.select(
        *key,
        "n_images",
        n_present="n",
        iou=pl.col("iou") / pl.col("n_images"),
        pointing=pl.col("pointing") / pl.col("n_images"),
        iou_present=pl.col("iou") / pl.col("n"),
        pointing_present=pl.col("pointing") / pl.col("n"),
        iou_shuffled=pl.col("control_iou") / n_shuffled,
        pointing_shuffled=pl.col("control_pointing") / n_shuffled,
    ).sort(key)
