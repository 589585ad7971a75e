"""Image processors of transformers, translated to `ImageTransform`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.schema.errors import ModelError

Three = tuple[float, float, float]

SQUASHED_FROM = 384
"""ConvNeXT's processor crops smaller images than this, and squashes larger ones."""


def transform_of(processor: Any, spec: str) -> ImageTransform:
    """Translate an image processor of transformers.

    Raises:
        ModelError: it does something that `ImageTransform` cannot say.
    """
    from PIL import Image  # late: a tenth of a second

    def setting(name: str, default: Any = None) -> Any:
        return getattr(processor, name, default)

    size, crop = dict(setting("size") or {}), dict(setting("crop_size") or {})
    size = {key: value for key, value in size.items() if value is not None}
    if setting("crop_pct"):  # of ConvNeXT, which transformers' ResNet and RegNet use too
        size, crop, do_crop = _with_crop_share(size, float(setting("crop_pct")))
    else:
        do_crop = bool(setting("do_center_crop"))
    if setting("do_pad") or (setting("do_resize") and set(size) not in ({"shortest_edge"}, {"height", "width"})):
        raise ModelError(f"{spec}: its preprocessing (size {size}, do_pad {setting('do_pad')}) is not supported.")
    shortest = size.get("shortest_edge")
    if not do_crop and (shortest or not setting("do_resize")):
        raise ModelError(f"{spec}: its preprocessing makes tensors of many sizes, which cannot be stacked.")
    resize_to = (shortest, shortest) if shortest else (size.get("height"), size.get("width"))
    mean, std = _mean_and_std(setting)
    return ImageTransform(
        resize="none" if not setting("do_resize") else "shortest" if shortest else "squash",
        resize_to=(int(resize_to[0] or 0), int(resize_to[1] or 0)),
        interpolation=Image.Resampling(setting("resample", Image.Resampling.BILINEAR)).name.lower(),
        crop_to=(int(crop["height"]), int(crop["width"])) if do_crop else None,
        crop_rounding="floor",
        rescale=float(setting("rescale_factor")) if setting("do_rescale") else 1.0,
        mean=mean,
        std=std,
    )


def _with_crop_share(size: dict[str, int], share: float) -> tuple[dict[str, int], dict[str, int], bool]:
    """Size, crop and whether to crop, where the crop is a share of the resized image."""
    side = size.get("shortest_edge", 0)
    square = {"height": side, "width": side}
    return ({"shortest_edge": int(side / share)}, square, True) if side < SQUASHED_FROM else (square, {}, False)


def _mean_and_std(setting: Callable[..., Any]) -> tuple[Three, Three]:
    """What is subtracted and divided by, all in all; EfficientNet does both in two steps."""
    mean, std = [0.0] * 3, [1.0] * 3
    if setting("do_normalize"):
        mean, std = list(map(float, setting("image_mean"))), list(map(float, setting("image_std")))
    if setting("rescale_offset"):  # one is subtracted between rescaling and normalising
        mean = [value + 1 for value in mean]
    if setting("include_top"):  # divided by the deviation once more
        std = [value * float(more) for value, more in zip(std, setting("image_std"), strict=True)]
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
