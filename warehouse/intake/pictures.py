"""From bytes to an RGB picture, its measurements, and one clear sentence when there is none.

What Pillow reads right is used, whatever the file's ending says. Rules for what is not plain RGB:
EXIF rotation is applied; transparency is laid over white; 16-bit grey is divided by 257, not clipped; of 32-bit and
floating point grey see `_wide_to_grey`; CMYK goes through Pillow's conversion; colour profiles are ignored; of an
animation the first frame counts. Pillow's limit against decompression bombs is never raised.
"""

from __future__ import annotations

import io
import math
import os
import stat
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.intake.records import NO_SUCH_FILE

PIXEL_LIMIT = 178_956_970
"""Pillow's error limit for the pixels of one picture, twice `Image.MAX_IMAGE_PIXELS` as it ships."""

MEASURED_SIDE = 256
"""Measurements are made on a copy of at most this many pixels on the long side."""


_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")
"""How EPS files start; Pillow would hand them to Ghostscript."""


class PictureError(SourceError):
    """These bytes are no usable picture; the message is one clause that says why."""


class Picture(NamedTuple):
    """A decoded picture: RGB, turned upright, with Pillow's name of its format and its mode in the file."""

    image: Image.Image
    format: str
    mode: str


class Measurements(NamedTuple):
    """Mean luma, mean HSV saturation and mean gradient magnitude of the luma, each 0..1."""

    brightness: float
    saturation: float
    edge_energy: float


def decode(data: bytes) -> Image.Image:
    """Return the RGB picture in `data`, upright, first frame. Thread-safe; no Pillow warning comes out.

    Raises:
        PictureError: empty, no picture, truncated, or too many pixels.
    """
    return decode_picture(data).image


def decode_picture(data: bytes) -> Picture:
    """Decode as `decode` does and also tell format and mode. Raises as `decode` does."""
    if not data:
        raise PictureError("empty file")
    if data.startswith(_POSTSCRIPT):
        raise PictureError("it is PostScript, which is a program and is not run")
    _quiet_pillow()
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_pixels(image.size)
            file_format, mode = image.format or "unknown", image.mode
            image.load()
            _turn_upright(image)
            return Picture(_to_rgb(image), file_format, mode)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(_not_a_picture(data)) from None
    except Image.DecompressionBombError as error:
        raise PictureError(_too_many_pixels(str(error))) from None
    except MemoryError:
        raise PictureError("it does not fit into memory") from None
    except Exception as error:  # decoders of broken files raise nearly anything
        raise PictureError(_broken(error)) from None


def measure(image: Image.Image) -> Measurements:
    """Measure an RGB picture on a copy of at most 256 pixels on the long side (box filter).

    Luma is Rec. 601 (0.299 R + 0.587 G + 0.114 B); saturation is (max - min) / max, 0 for black; the gradient is the
    forward difference in x and y between neighbouring pixels, its magnitude divided by sqrt(2).
    """
    factor = max(1, math.ceil(max(image.size) / MEASURED_SIDE))
    small = image.reduce(factor) if factor > 1 else image
    rgb_hwc = np.asarray(small, dtype=np.float32) / np.float32(255)
    luma_hw = rgb_hwc @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    red_hw, green_hw, blue_hw = rgb_hwc[..., 0], rgb_hwc[..., 1], rgb_hwc[..., 2]
    high_hw = np.maximum(np.maximum(red_hw, green_hw), blue_hw)  # ten times as fast as max(axis=2)
    low_hw = np.minimum(np.minimum(red_hw, green_hw), blue_hw)
    saturation_hw = (high_hw - low_hw) / np.where(high_hw > 0, high_hw, np.float32(1))
    return Measurements(
        _fraction(luma_hw.mean(dtype=np.float64)),
        _fraction(saturation_hw.mean(dtype=np.float64)),
        _fraction(_edge_energy(luma_hw)),
    )


def _edge_energy(luma_hw: np.ndarray) -> float:
    if min(luma_hw.shape) < 2:
        steps = np.abs(np.diff(luma_hw.ravel()))
        return float(steps.mean(dtype=np.float64)) / math.sqrt(2) if steps.size else 0.0
    dx_hw = luma_hw[:-1, 1:] - luma_hw[:-1, :-1]
    dy_hw = luma_hw[1:, :-1] - luma_hw[:-1, :-1]
    return float(np.hypot(dx_hw, dy_hw).mean(dtype=np.float64)) / math.sqrt(2)


def _fraction(value: float) -> float:
    return min(1.0, max(0.0, float(value)))


def read_bytes(
    path: str,
    container: str | None,
    byte_offset: int | None,
    byte_count: int | None,
    cached: str | None,
    root: Path,
) -> bytes:
    """Read a picture's bytes by its row of `image_paths`; relative paths start at the warehouse `root`.

    Raises:
        PictureError: the file is not there, is no file, cannot be read, or is shorter than it was.
    """
    if cached is not None:
        return read_file(root / cached)
    if container is not None and byte_offset is not None and byte_count is not None:
        return read_slice(root / container, byte_offset, byte_count)
    return read_file(root / path)


def read_file(path: Path) -> bytes:
    """Read a regular file. Raises PictureError as `read_bytes` does."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise PictureError("it is a folder" if path.is_dir() else "it is no regular file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise PictureError(_unreadable(error, path)) from None


def read_slice(container: Path, byte_offset: int, byte_count: int) -> bytes:
    """Read a slice of a tar. Raises PictureError as `read_bytes` does."""
    try:
        with container.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), byte_count, byte_offset)
    except (OSError, ValueError) as error:
        raise PictureError(_unreadable(error, container)) from None
    if len(data) < byte_count:
        raise PictureError(f"{container.name} ends before the picture does")
    return data


def _unreadable(error: OSError | ValueError, path: Path) -> str:
    if isinstance(error, FileNotFoundError):
        return f"it is a link to {path.readlink()}, which is not there" if path.is_symlink() else NO_SUCH_FILE
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _quiet_pillow() -> None:
    """See to it that Pillow's warnings are not shown; those about bombs are checked for as errors instead.

    `warnings.catch_warnings` is not safe in threads, so the filters are added where they are missing, for good.
    """
    ours = ("ignore", None, Image.DecompressionBombWarning, None, 0)
    if ours not in warnings.filters:
        warnings.filterwarnings("ignore", category=UserWarning, module=r"(PIL\.|glasshouse\.warehouse\.intake)")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _check_pixels(size: tuple[int, int]) -> None:
    n_pixels = size[0] * size[1]
    if n_pixels > PIXEL_LIMIT:
        raise PictureError(_too_many_pixels(str(n_pixels)))


def _turn_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # a broken EXIF block says nothing about orientation
        return


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy() if getattr(image, "is_animated", False) else image
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_to_grey(image).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _wide_to_grey(image: Image.Image) -> Image.Image:
    """Scale grey of more than 8 bits: 16-bit by 1/257; wider ones by the smallest usual range that holds them.

    32-bit integers and floats do not say their range: 0..1 (floats only), 0..255 and 0..65535 are tried in turn,
    otherwise the values are stretched from their minimum to their maximum; values that are no numbers are black.
    """
    values_hw = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values_hw.min()), float(values_hw.max())
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        limits = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        fitting = [limit for limit in limits if low >= 0 and high <= limit]
        low, high = (0.0, fitting[0]) if fitting else (low, high)
    grey_hw = np.rint((values_hw - low) * (255.0 / max(high - low, 1e-300)))
    return Image.fromarray(grey_hw.astype(np.uint8))


def _too_many_pixels(text: str) -> str:
    digits = "".join(character if character.isdigit() else " " for character in text).split()
    count = f"{int(digits[0]):,}" if digits else "its"
    return f"{count} pixels exceed the limit of {PIXEL_LIMIT:,}; make a smaller copy of it"


def _not_a_picture(data: bytes) -> str:
    head = data[:256]
    if not head.strip(b"\0"):
        return "not a picture: it holds nothing but null bytes"
    for mark, name in _KNOWN_STARTS:
        if head.startswith(mark):
            return f"not a picture that can be read: it is {name}"
    try:
        text = head.decode("utf-8") if len(data) <= 256 else head.decode("utf-8", errors="ignore")
    except UnicodeDecodeError:
        text = ""
    if text.strip() and all(character.isprintable() or character.isspace() for character in text):
        return f"not a picture: it starts with the text '{' '.join(text.split())[:40]}'"
    return f"not a picture that can be read: it starts with the bytes {head[:8].hex(' ')}"


_KNOWN_STARTS = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "gzip-compressed"),
    (b"\x89PNG", "a PNG whose header is broken"),
    (b"\xff\xd8\xff", "a JPEG whose header is broken"),
    (b"GIF8", "a GIF whose header is broken"),
)


def _broken(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "truncated" in text.lower() or "unexpected end" in text.lower() or isinstance(error, EOFError):
        return f"truncated: {text}"
    return f"broken: {text}"
