"""Preprocessing against the libraries' own, on images of odd sizes; and against plain arithmetic."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glasshouse.plugins.encoders import local, open_clip, timm, transformers
from glasshouse.plugins.encoders.preprocessing import ImageTransform
from glasshouse.schema.errors import ModelError

TOLERANCE = 1e-5
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2", "dinov2-registers", "vit"])
def test_as_transformers_does(model_folder, random_images, kind):
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(model_folder(kind), backend="pil")
    encoder = local.load(str(model_folder(kind)), "cpu")
    for image in random_images:
        expected = processor(image, return_tensors="pt").pixel_values[0]
        ours = encoder.preprocess(image)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "settings_",
    [
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 33, "width": 21}},
        {"size": {"shortest_edge": 20}, "crop_size": {"height": 33, "width": 28}},
        {"size": {"height": 30, "width": 41}, "do_center_crop": False, "resample": 2},
        {"size": {"shortest_edge": 32}, "resample": 3, "do_normalize": False},
        {"size": {"shortest_edge": 32}, "resample": 1, "do_rescale": False},
        {"size": {"shortest_edge": 32}, "rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
        {"do_resize": False, "crop_size": {"height": 32, "width": 32}},
    ],
)
def test_settings_of_transformers(random_images, settings_):
    from transformers import CLIPImageProcessorPil

    settings_ = {"crop_size": {"height": 32, "width": 32}} | settings_
    processor = CLIPImageProcessorPil(**settings_)
    transform = transformers.transform_of(processor, "test")
    for image in random_images:
        expected = processor(image, return_tensors="pt").pixel_values[0]
        torch.testing.assert_close(transform(image), expected.float(), atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [32, (32, 32), (40, 24), (24, 40)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_as_open_clip_does(random_images, resize_mode, size, interpolation):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = {
        "size": size, "mean": MEAN, "std": STD, "interpolation": interpolation, "resize_mode": resize_mode,
        "fill_color": 7,
    }  # fmt: skip
    theirs = image_transform_v2(PreprocessCfg(**config), is_train=False)
    ours = open_clip.transform_of(config)
    assert ours.output_size == (size if isinstance(size, tuple) else (size, size))
    for image in random_images:
        torch.testing.assert_close(ours(image), theirs(image), atol=TOLERANCE, rtol=0)


def test_as_a_loaded_open_clip_does(model_folder, random_images):
    import open_clip as library

    _, _, theirs = library.create_model_and_transforms(f"local-dir:{model_folder('open_clip')}")
    encoder = local.load(str(model_folder("open_clip")), "cpu")
    for image in random_images:
        torch.testing.assert_close(encoder.preprocess(image), theirs(image), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("input_size", [(3, 32, 32), (3, 40, 24)])
def test_as_timm_does(random_images, crop_mode, crop_pct, input_size):
    from timm.data import create_transform

    config = {
        "input_size": input_size, "interpolation": random.Random(crop_pct).choice(["bilinear", "bicubic", "lanczos"]),
        "mean": MEAN, "std": STD, "crop_pct": crop_pct, "crop_mode": crop_mode,
    }  # fmt: skip
    theirs, ours = create_transform(**config), timm.transform_of(config, "test")
    assert ours.output_size == input_size[1:]
    for image in random_images:
        torch.testing.assert_close(ours(image), theirs(image), atol=TOLERANCE, rtol=0)


def test_as_a_loaded_timm_does(model_folder, random_images):
    import timm as library

    model = library.create_model(f"local-dir:{model_folder('timm-resnet')}", pretrained=True)
    theirs = library.data.create_transform(**library.data.resolve_model_data_config(model))
    encoder = local.load(str(model_folder("timm-resnet")), "cpu")
    for image in random_images:
        torch.testing.assert_close(encoder.preprocess(image), theirs(image), atol=TOLERANCE, rtol=0)


def test_a_model_of_other_channels_is_refused():
    with pytest.raises(ModelError, match="images of 1 channels"):
        timm.transform_of({"input_size": (1, 32, 32)}, "timm:mnist")


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    resize=st.sampled_from(["none", "squash", "shortest", "fill", "fit"]),
    to_height=st.integers(1, 40),
    to_width=st.integers(1, 40),
    crop_height=st.integers(1, 40),
    crop_width=st.integers(1, 40),
    crop_rounding=st.sampled_from(["round", "floor"]),
    mode=st.sampled_from(["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"]),
)
def test_any_image_becomes_a_tensor_of_the_promised_shape(width, height, resize, mode, **drawn):
    transform = ImageTransform(
        resize=resize,
        resize_to=(drawn["to_height"], drawn["to_width"]),
        interpolation="bicubic",
        crop_to=(drawn["crop_height"], drawn["crop_width"]),
        mean=MEAN,
        std=STD,
        crop_rounding=drawn["crop_rounding"],
        fill_color=(9, 8, 7),
    )
    tensor = transform(Image.new(mode, (width, height)))
    assert tensor.shape == (3, *transform.output_size)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert tensor.isfinite().all()


def test_numbers_and_the_order_of_axes():
    pixels_hwc = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
    transform = ImageTransform("none", (2, 3), "bicubic", None, MEAN, STD)
    tensor = transform(Image.fromarray(pixels_hwc))
    for channel in range(3):
        for row in range(2):
            for column in range(3):
                expected = (pixels_hwc[row, column, channel] / 255 - MEAN[channel]) / STD[channel]
                assert tensor[channel, row, column] == pytest.approx(expected, abs=1e-6)


def test_many_threads_give_what_one_gives(model_folder, random_images):
    encoder = local.load(str(model_folder("clip")), "cpu")
    images = random_images * 10
    expected = [encoder.preprocess(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        for ours, alone in zip(pool.map(encoder.preprocess, images), expected, strict=True):
            assert torch.equal(ours, alone)
