"""From a PIL image to the tensor a model was trained on: resize, centre crop, rescale, normalise.

Owns one description, `ImageTransform`, that the preprocessing of open_clip, timm and transformers is translated to.
It runs in worker threads beside the forward pass, so it stays with Pillow and numpy, which let go of the interpreter
lock: torch's own operators would start a pool of threads in every worker and fight the model for the cores.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from glasshouse.warehouse.showing.framing import Framing, Resize, Rounding, Size, crop_offset, resized

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from PIL import Image


@dataclass(frozen=True)
class ImageTransform:
    """Published preprocessing of a model, as data: it is part of the encoder's fingerprint.

    Attributes:
        resize: how `resize_to` is meant. `none`; `squash`: exactly that size; `shortest`: the shorter side becomes
            `resize_to[0]`, the other is truncated to whole pixels; `fill` and `fit`: both sides are scaled by one
            factor until the image covers, or lies within, `resize_to`, rounded to whole pixels.
        resize_to: height and width.
        interpolation: Pillow's name of the filter, e.g. `bicubic`.
        crop_to: size of the centre crop, or None. A smaller image is padded with `fill_color`.
        crop_rounding: where half a pixel goes: `round` as torchvision does, `floor` as transformers does.
        fill_color: 0..255 for each channel.
        rescale: factor on 0..255 before `mean` and `std` apply; usually 1/255.
        mean: one for each channel.
        std: one for each channel.
    """

    resize: Resize
    resize_to: Size
    interpolation: str
    crop_to: Size | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_rounding: Rounding = "round"
    fill_color: tuple[int, int, int] = (0, 0, 0)
    rescale: float = 1 / 255

    @property
    def output_size(self) -> Size:
        """Height and width of what comes out of `resize` with `squash`, or of any crop."""
        return self.crop_to or self.resize_to

    def describe(self) -> dict[str, Any]:
        """Everything that changes the tensor, for a fingerprint."""
        return asdict(self)

    @property
    def framing(self) -> dict[str, Any]:
        """How pictures are cut, as it is stored with a space: JSON-able."""
        return self._rule._asdict()

    @cached_property
    def _rule(self) -> Framing:
        return Framing(self.resize, self.resize_to, self.crop_to, self.crop_rounding)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Turn an image of any mode and size into a float32 CPU tensor [3, H, W]."""
        # Late: this module is imported with every command, and numpy and torch take time.
        import numpy as np
        import torch

        image = image if image.mode == "RGB" else image.convert("RGB")
        image = self._crop(self._resize(image))
        pixels_hwc = np.asarray(image)
        out_chw = np.empty((3, *pixels_hwc.shape[:2]), dtype=np.float32)
        scale_c11, shift_c11 = self._scale_and_shift
        np.multiply(pixels_hwc.transpose(2, 0, 1), scale_c11, out=out_chw)
        out_chw += shift_c11
        return torch.from_numpy(out_chw)

    @cached_property
    def _scale_and_shift(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(pixel·rescale − mean)/std as one multiplication and one addition, each [3, 1, 1]."""
        import numpy as np  # late, as above

        mean_c, std_c = np.array(self.mean, dtype=np.float64), np.array(self.std, dtype=np.float64)
        scale_c, shift_c = self.rescale / std_c, -mean_c / std_c
        return scale_c.astype(np.float32)[:, None, None], shift_c.astype(np.float32)[:, None, None]

    def _resize(self, image: Image.Image) -> Image.Image:
        if self.resize == "none":
            return image
        from PIL import Image  # late: a tenth of a second

        height, width = resized(self._rule, image.height, image.width)
        if (height, width) == (image.height, image.width):
            return image
        return image.resize((width, height), Image.Resampling[self.interpolation.upper()])

    def _crop(self, image: Image.Image) -> Image.Image:
        """Cut out the centre; pad first where the image is smaller."""
        if self.crop_to is None or (image.height, image.width) == self.crop_to:
            return image
        image = self._pad(image)
        (height, width), spare = self.crop_to, (image.height - self.crop_to[0], image.width - self.crop_to[1])
        top, left = (crop_offset(s, self.crop_rounding) for s in spare)
        return image.crop((left, top, left + width, top + height))

    def _pad(self, image: Image.Image) -> Image.Image:
        assert self.crop_to is not None
        height, width = max(self.crop_to[0], image.height), max(self.crop_to[1], image.width)
        if (height, width) == (image.height, image.width):
            return image
        from PIL import Image  # late: a tenth of a second

        top, left = (
            -crop_offset(there - wanted, self.crop_rounding)
            for there, wanted in ((image.height, height), (image.width, width))
        )
        padded = Image.new("RGB", (width, height), self.fill_color)
        padded.paste(image, (left, top))
        return padded
