"""Decoding against what the files were made of, pixel by pixel; every way to be broken has its sentence."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glasshouse.warehouse.intake.pictures import (
    PIXEL_LIMIT,
    PictureError,
    decode,
    decode_picture,
    measure,
    read_bytes,
)

RNG = np.random.default_rng(7)


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def test_plain_rgb_comes_back_as_it_is() -> None:
    rgb_hwc = noise(5, 9, 3)
    assert np.array_equal(pixels(saved(Image.fromarray(rgb_hwc), "PNG")), rgb_hwc)


def test_transparency_is_laid_over_white() -> None:
    rgba_hwc = noise(6, 6, 4)
    alpha = rgba_hwc[..., 3:].astype(float) / 255
    over_white = rgba_hwc[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(pixels(saved(Image.fromarray(rgba_hwc), "PNG")) - over_white).max() <= 1


def test_grey_with_alpha() -> None:
    la_hwc = np.array([[[0, 0], [0, 255], [100, 255]]], dtype=np.uint8)
    assert pixels(saved(Image.fromarray(la_hwc, "LA"), "PNG"))[0].tolist() == [[255] * 3, [0] * 3, [100] * 3]


def test_palette_and_palette_with_transparency() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    assert pixels(saved(image, "PNG"))[0].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    with_hole = saved(image, "PNG", transparency=b"\xff\x00\xff")
    assert pixels(with_hole)[0].tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]


def test_rgb_with_a_transparent_colour() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], dtype=np.uint8))
    assert pixels(saved(image, "PNG", transparency=(1, 2, 3)))[0].tolist() == [[255] * 3, [9] * 3]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(file_format: str) -> None:
    values = np.array([[0, 255, 256, 32767, 32768, 65535]], dtype=np.uint16)
    grey = pixels(saved(Image.fromarray(values), file_format))[0, :, 0]
    assert grey.tolist() == [round(int(value) / 257) for value in values[0]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], dtype=np.int32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], dtype=np.int32), [0, 1, 255]),
        (np.array([[-1000, 0, 1000]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 0.5, 1]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0, 51, 255]], dtype=np.float32), [0, 51, 255]),
        (np.array([[np.nan, 1, 1]], dtype=np.float32), [0, 255, 255]),
        (np.array([[7e5, 7e5, 7e5]], dtype=np.float32), [0, 0, 0]),
    ],
)
def test_wide_grey_uses_the_smallest_usual_range(values: np.ndarray, expected: list[int]) -> None:
    assert pixels(saved(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == expected


def test_cmyk_jpeg() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red = pixels(saved(image, "JPEG", quality=100))[8, 8]
    assert red[0] > 240 and red[1] < 20 and red[2] < 20
    assert decode_picture(saved(image, "JPEG")).mode == "CMYK"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    rgb_hwc = noise(4, 6, 3)
    upright = {
        1: rgb_hwc,
        2: rgb_hwc[:, ::-1],
        3: rgb_hwc[::-1, ::-1],
        4: rgb_hwc[::-1],
        5: rgb_hwc.transpose(1, 0, 2),
        6: np.rot90(rgb_hwc, -1),
        7: rgb_hwc[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(rgb_hwc),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pixels(saved(Image.fromarray(rgb_hwc), "PNG", exif=exif)), upright[orientation])


def test_broken_exif_is_no_failure() -> None:
    data = saved(Image.fromarray(noise(8, 8, 3)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage")
    assert decode(data).size == (8, 8)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(file_format: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = saved(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]


def test_the_format_is_what_the_bytes_say() -> None:
    picture = decode_picture(saved(Image.new("P", (4, 4)), "GIF"))
    assert picture.format == "GIF" and picture.image.mode == "RGB"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"Hello, I am\na text.", "starts with the text 'Hello, I am a text.'"),
        ("Größe: Übung, aber kein Bild".encode(), "starts with the text 'Größe"),
        (b"<!DOCTYPE html><html>404" + b" " * 5000, "starts with the text '<!DOCTYPE html><html>404'"),
        (b"\0" * 100, "nothing but null bytes"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "it is PostScript"),
        (b"%PDF-1.7 ...", "it is a PDF"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\x01\x02\x03\xfe\xff", "starts with the bytes 01 02 03 fe ff"),
    ],
)
def test_what_is_no_picture_says_what_it_is(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError) as caught:
        decode(data)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_picture_is_a_failure(file_format: str) -> None:
    data = saved(Image.fromarray(noise(64, 64, 3)), file_format)
    for n_kept in (len(data) * 3 // 4, len(data) // 2, 40):
        with pytest.raises(PictureError):
            decode(data[:n_kept])


def test_truncated_is_called_so() -> None:
    data = saved(Image.fromarray(noise(64, 64, 3)), "JPEG")
    with pytest.raises(PictureError, match=r"^truncated: "):
        decode(data[: len(data) // 2])


def bomb(width: int, height: int) -> bytes:
    """A valid PNG of white pixels, 1 bit each, that is tiny until it is decoded."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj(9)
    line = b"\0" + b"\xff" * ((width + 7) // 8)
    body = b"".join(packer.compress(line * 100) for _ in range(height // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(PictureError, match=r"400,000,000 pixels exceed the limit of 178,956,970"):
        decode(bomb(20_000, 20_000))
    assert before == Image.MAX_IMAGE_PIXELS and 2 * (before or 0) == PIXEL_LIMIT


def test_the_limit_holds_where_someone_switched_pillows_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(PictureError, match=r"400,000,000 pixels exceed"):
        decode(bomb(20_000, 20_000))


def test_no_warning_of_pillow_leaks_between_its_two_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    data = saved(Image.new("RGB", (10, 10)), "PNG")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(4) as pool:
            sizes = {image.size for image in pool.map(decode, [data] * 40)}
    assert sizes == {(10, 10)} and caught == []


def test_random_bytes_never_raise_anything_else() -> None:
    whole = [saved(Image.fromarray(noise(16, 16, 3)), name) for name in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")]
    rng = np.random.default_rng(3)
    n_failed = 0
    for data in whole * 30:
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), 6):
            damaged[position] = rng.integers(0, 256)
        try:
            decode(bytes(damaged))
        except PictureError as error:
            n_failed += 1
            assert str(error) and "\n" not in str(error)
    assert n_failed > 0


def naive_measurements(image: Image.Image) -> tuple[float, float, float]:
    """One pixel at a time, in plain Python."""
    width, height = image.size
    rgb = [[[channel / 255 for channel in image.getpixel((x, y))] for x in range(width)] for y in range(height)]
    luma = [[0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row] for row in rgb]
    saturation = [(max(p) - min(p)) / max(p) if max(p) else 0.0 for row in rgb for p in row]
    edges = [
        ((luma[y][x + 1] - luma[y][x]) ** 2 + (luma[y + 1][x] - luma[y][x]) ** 2) ** 0.5 / 2**0.5
        for y in range(height - 1)
        for x in range(width - 1)
    ]
    n_pixels = width * height
    return sum(map(sum, luma)) / n_pixels, sum(saturation) / n_pixels, sum(edges) / len(edges)


def test_measurements_equal_the_naive_ones() -> None:
    image = Image.fromarray(noise(17, 23, 3))
    assert tuple(measure(image)) == pytest.approx(naive_measurements(image), abs=1e-5)


def test_large_pictures_are_measured_small() -> None:
    image = Image.fromarray(noise(300, 520, 3))
    assert tuple(measure(image)) == pytest.approx(naive_measurements(image.reduce(3)), abs=1e-5)


@pytest.mark.parametrize(
    ("colour", "expected"), [((0, 0, 0), (0, 0, 0)), ((255, 255, 255), (1, 0, 0)), ((255, 0, 0), (0.299, 1, 0))]
)
def test_measurements_of_one_colour(colour: tuple[int, int, int], expected: tuple[float, ...]) -> None:
    for size in ((1, 1), (1, 9), (9, 1), (30, 30)):
        assert tuple(measure(Image.new("RGB", size, colour))) == pytest.approx(expected, abs=1e-6)


def test_a_checkerboard_has_the_most_edges() -> None:
    checks_hw = np.indices((32, 32)).sum(axis=0) % 2 * 255
    rgb_hwc = np.repeat(checks_hw[..., None], 3, axis=2).astype(np.uint8)
    assert measure(Image.fromarray(rgb_hwc)).edge_energy == pytest.approx(1, abs=1e-6)


def test_bytes_are_read_from_files_slices_and_copies(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "c").write_bytes(b"copy")
    (tmp_path / "plain.bin").write_bytes(b"0123456789")
    assert read_bytes("plain.bin", None, None, None, None, tmp_path) == b"0123456789"
    assert read_bytes(str(tmp_path / "plain.bin"), None, None, None, None, Path("elsewhere")) == b"0123456789"
    assert read_bytes("x.tar/y", "plain.bin", 3, 4, None, tmp_path) == b"3456"
    assert read_bytes("http://x/y.jpg", None, None, None, "cache/c", tmp_path) == b"copy"
    with pytest.raises(PictureError, match="ends before the picture does"):
        read_bytes("x.tar/y", "plain.bin", 8, 4, None, tmp_path)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in (
        ("absent.png", "no such file"),
        (".", "it is a folder"),
        ("link.png", r"it is a link to nowhere\.png"),
        ("pipe.png", "no regular file"),
        ("nul\0.png", "null"),
    ):
        with pytest.raises(PictureError, match=reason):
            read_bytes(name, None, None, None, None, tmp_path)
