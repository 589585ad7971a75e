"""Segmentation in parts: decoding, contributions, pixels and IoU, against the same written out number by number."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from PIL import Image

from glasshouse.plugins.analyzers.clip_space import Decoder
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.segmentation import pixels
from glasshouse.plugins.segmentation.patches import Contributions, decoded, probabilities
from glasshouse.plugins.segmentation.picture import BATCH, Segmenter, starts
from glasshouse.plugins.segmentation.pixels import (
    NOWHERE,
    UNKNOWN,
    agreement,
    classes_of_pixels,
    confusion,
    shuffled_miou,
    truth_of_pixels,
)
from glasshouse.plugins.segmentation.texts import class_vectors
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.intake.masks import encode_mask

N_FEATURES, WIDTH, N_CLASSES, N_PATCHES = 6, 5, 3, 20


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(0)
    codes_tf = rng.exponential(size=(N_PATCHES, N_FEATURES)) * (rng.random((N_PATCHES, N_FEATURES)) < 0.5)
    decoder = Decoder(
        rng.normal(size=(N_FEATURES, WIDTH)).astype(np.float32), rng.normal(size=WIDTH).astype(np.float32)
    )
    classes_ce = rng.normal(size=(N_CLASSES, WIDTH))
    classes_ce /= np.linalg.norm(classes_ce, axis=1, keepdims=True)
    return codes_tf.astype(np.float32), decoder, classes_ce


def naive_vector(code_f, decoder):
    vector = [float(b) for b in decoder.bias_e]
    for value, row in zip(code_f, decoder.vectors_fe, strict=True):
        for e in range(WIDTH):
            vector[e] += float(value) * float(row[e])
    return vector


def test_probabilities_are_a_softmax_of_a_hundred_cosines(parts):
    codes_tf, decoder, classes_ce = parts
    vectors_te = decoded(scipy.sparse.csr_array(codes_tf), decoder)
    chances_tc = probabilities(vectors_te, classes_ce)
    for t in range(N_PATCHES):
        vector = naive_vector(codes_tf[t], decoder)
        np.testing.assert_allclose(vectors_te[t], vector, rtol=1e-4, atol=1e-5)
        length = sum(v * v for v in vector) ** 0.5
        cosines = [sum(v * c for v, c in zip(vector, one, strict=True)) / length for one in classes_ce]
        powers = [np.exp(100 * (cosine - max(cosines))) for cosine in cosines]
        np.testing.assert_allclose(chances_tc[t], np.array(powers) / sum(powers), atol=2e-4)
    np.testing.assert_allclose(probabilities(np.zeros((1, WIDTH), np.float32), classes_ce), np.full((1, 3), 1 / 3))


def test_contributions_are_those_of_each_concept_over_the_patches_of_a_class(parts):
    codes_tf, decoder, classes_ce = parts
    sparse_tf = scipy.sparse.csr_array(codes_tf)
    vectors_te = decoded(sparse_tf, decoder)
    class_t = probabilities(vectors_te, classes_ce).argmax(axis=1)
    class_t[0] = -1
    sums = Contributions(decoder, classes_ce)
    for part in (slice(0, 7), slice(7, N_PATCHES)):
        sums.add(sparse_tf[part], vectors_te[part], class_t[part])
    expected = np.zeros((N_CLASSES, N_FEATURES))
    for c in range(N_CLASSES):
        members = [t for t in range(N_PATCHES) if class_t[t] == c]
        assert sums.n_patches_c[c] == len(members)
        for f in range(N_FEATURES):
            toward = sum(float(a) * float(b) for a, b in zip(decoder.vectors_fe[f], classes_ce[c], strict=True))
            lengths = [np.linalg.norm(naive_vector(codes_tf[t], decoder)) for t in members]
            pieces = [float(codes_tf[t, f]) * toward / n for t, n in zip(members, lengths, strict=True)]
            expected[c, f] = sum(pieces) / max(len(members), 1)
            assert sums.n_active_cf[c, f] == sum(codes_tf[t, f] > 0 for t in members)
    np.testing.assert_allclose(sums.mean_cf(), expected, rtol=1e-4, atol=1e-7)
    favour = np.maximum(expected, 0)
    share = favour / np.where(favour.sum(1) > 0, favour.sum(1), 1)[:, None]
    np.testing.assert_allclose(sums.share_cf(), share, rtol=1e-4, atol=1e-7)
    # With the bias in the same way they add up to the mean cosine.
    for c in np.flatnonzero(sums.n_patches_c):
        unit_te = vectors_te[class_t == c] / np.linalg.norm(vectors_te[class_t == c], axis=1, keepdims=True)
        lengths = np.linalg.norm(vectors_te[class_t == c], axis=1)
        bias = np.mean(float(decoder.bias_e @ classes_ce[c]) / lengths)
        assert sums.mean_cf()[c].sum() + bias == pytest.approx(float((unit_te @ classes_ce[c]).mean()), abs=1e-5)


def naive_pixels(chances_rlc, box, size, n_named, threshold):
    """Bilinear between patch centres, pixel by pixel."""
    width, height = size
    rows, columns, _ = chances_rlc.shape
    left, top, right, bottom = box
    out = np.empty((height, width), int)
    for y in range(height):
        for x in range(width):
            if not (left <= x + 0.5 < right and top <= y + 0.5 < bottom):
                out[y, x] = UNKNOWN
                continue
            u = min(max((x + 0.5 - left) / (right - left) * columns - 0.5, 0), columns - 1)
            v = min(max((y + 0.5 - top) / (bottom - top) * rows - 0.5, 0), rows - 1)
            j, i = min(int(u), columns - 2), min(int(v), rows - 2)
            a, b = u - j, v - i
            chance = (1 - b) * ((1 - a) * chances_rlc[i, j] + a * chances_rlc[i, j + 1])
            chance = chance + b * ((1 - a) * chances_rlc[i + 1, j] + a * chances_rlc[i + 1, j + 1])
            best = int(chance.argmax())
            out[y, x] = best if best < n_named and chance[best] >= threshold else NOWHERE
    return out


@pytest.mark.parametrize("strips", [1 << 24, 1])
def test_pixels_take_the_most_probable_class_between_patches(monkeypatch, strips):
    monkeypatch.setattr(pixels, "MAX_VALUES", strips)
    rng = np.random.default_rng(1)
    chances_rlc = rng.dirichlet(np.ones(4), size=(3, 4)).astype(np.float32)
    whole = classes_of_pixels(chances_rlc, None, (23, 17))
    np.testing.assert_array_equal(whole, naive_pixels(chances_rlc, (0, 0, 23, 17), (23, 17), 4, 0))
    # The encoder sees the middle square of a wide picture.
    framing = {"resize": "shortest", "resize_to": [8, 8], "crop_to": [8, 8], "crop_rounding": "round"}
    cut = classes_of_pixels(chances_rlc, framing, (24, 16), n_named=3, threshold=0.4)
    np.testing.assert_array_equal(cut, naive_pixels(chances_rlc, (4, 0, 20, 16), (24, 16), 3, 0.4))
    assert (cut[:, :4] == UNKNOWN).all() and (cut == NOWHERE).any() and (cut >= 0).any()


def mask_row(mask_hw, label, *, is_crowd=False):
    runs, value = [0], False
    for pixel in np.asarray(mask_hw).ravel(order="F"):
        if bool(pixel) != value:
            runs.append(0)
            value = not value
        runs[-1] += 1
    mask = encode_mask({"size": list(mask_hw.shape), "counts": runs}, mask_hw.shape)
    return {
        "label": label, "is_crowd": is_crowd, "mask_height": mask.height, "mask_width": mask.width, "mask_rle": mask.rle
    }  # fmt: skip


def test_small_masks_lie_above_large_ones_and_crowds_below_all():
    large, small, crowd = (np.zeros((6, 7), bool) for _ in range(3))
    large[:4, :5], small[1:3, 1:3], crowd[2:6, 3:7] = True, True, True
    tiny = np.zeros((6, 7), bool)
    tiny[5, 0] = True
    rows = [
        mask_row(small, "dog"), mask_row(crowd, "cat", is_crowd=True), mask_row(large, "cat"), mask_row(tiny, "fish")
    ]  # fmt: skip
    expected = np.full((6, 7), NOWHERE)
    expected[crowd] = UNKNOWN
    expected[large], expected[small], expected[tiny] = 0, 1, UNKNOWN
    np.testing.assert_array_equal(truth_of_pixels(rows, {"cat": 0, "dog": 1}), expected)
    small_crowd = [mask_row(small, "cat", is_crowd=True), mask_row(large, "dog")]
    assert (truth_of_pixels(small_crowd, {"cat": 0, "dog": 1})[small] == 1).all()


def naive_miou(truths, founds, n_classes, background):
    labels = [*range(n_classes), *([NOWHERE] if background else [])]
    ious = []
    for label in labels:
        both = either = true = 0
        for truth, found in zip(truths, founds, strict=True):
            for t, f in zip(truth.ravel(), found.ravel(), strict=True):
                if UNKNOWN in (t, f) or (t == NOWHERE and not background):
                    continue
                both += t == label and f == label
                either += label in (t, f)
                true += t == label
        if true:
            ious.append(both / either)
    return sum(ious) / len(ious)


@pytest.mark.parametrize("background", [True, False])
def test_iou_counts_pixels_over_all_images(background):
    rng = np.random.default_rng(2)
    truths = [rng.choice([UNKNOWN, NOWHERE, 0, 1, 2], size=(5, 6)).astype(np.int16) for _ in range(4)]
    choices = [UNKNOWN, NOWHERE, 0, 1, 2, 3] if background else [UNKNOWN, 0, 1, 2, 3]
    founds = [np.where(rng.random((5, 6)) < 0.6, t, rng.choice(choices, size=(5, 6))).astype(np.int16) for t in truths]
    counts = sum(confusion(t, f, 4, background=background) for t, f in zip(truths, founds, strict=True))
    result = agreement(counts)
    # Class 3 is found here and there but annotated nowhere: it has no IoU.
    assert np.isnan(result.iou_c[3]) and result.miou == pytest.approx(naive_miou(truths, founds, 4, background))
    assert 0 < result.accuracy < 1
    assert agreement(np.zeros((3, 3), np.int64)) is None


def test_shuffled_texts_leave_no_class_its_own():
    counts = np.diag([10, 20, 30, 40])
    assert agreement(counts).miou == 1
    # Only the background, the fourth, stays right: one of four classes.
    assert shuffled_miou(counts, 5, 0) == pytest.approx(0.25)
    assert shuffled_miou(np.diag([10, 0]), 5, 0) is None


def test_windows_cover_every_patch_and_overlap_by_half():
    assert starts(8, 8) == [0]
    assert starts(9, 8) == [0, 1]
    assert starts(20, 8) == [0, 4, 8, 12]
    assert starts(3, 1) == [0, 1, 2]


@pytest.fixture(scope="module")
def segmenter():
    plugins = Plugins(external=False)
    encoder = plugins.load_encoder("starter:dinoised")
    sae = plugins.load_sae("neurons")
    decoder = Decoder(np.eye(128, dtype=np.float32), np.zeros(128, np.float32))
    return Segmenter(encoder, sae, decoder, class_vectors(encoder, ["a star", "a circle", "a plain background"]))


def test_a_picture_in_windows_is_the_mean_of_its_windows(segmenter):
    rng = np.random.default_rng(3)
    picture = Image.fromarray(rng.integers(0, 256, (150, 320, 3), dtype=np.uint8))
    sums = Contributions(segmenter.decoder, segmenter.classes_ce)
    found = segmenter.windows(picture, sums)
    scaled = picture.resize((137 // 8 * 8, 64), Image.Resampling.BICUBIC)
    assert found.concepts_rlc.shape == (8, 17, 3) and found.framing is None
    totals, features, times = np.zeros((8, 17, 3)), np.zeros((8, 17, 3)), np.zeros((8, 17, 1))
    n_patches = 0
    for start in (0, 4, 8, 9):
        window = scaled.crop((start * 8, 0, start * 8 + 64, 64))
        acts = segmenter.encoder.forward(segmenter.encoder.preprocess(window)[None], ["dinoised"]).activations
        vectors = acts["dinoised"][0].numpy()
        here = np.s_[:, start : start + 8]
        totals[here] += probabilities(np.maximum(vectors, 0), segmenter.classes_ce).reshape(8, 8, 3)
        features[here] += probabilities(vectors, segmenter.classes_ce).reshape(8, 8, 3)
        times[here] += 1
        n_patches += 64
    np.testing.assert_allclose(found.concepts_rlc, totals / times, atol=1e-4)
    np.testing.assert_allclose(found.features_rlc, features / times, atol=1e-4)
    assert sums.n_patches_c.sum() == n_patches


def test_more_windows_than_a_batch_and_a_picture_of_one_view(segmenter):
    tall = Image.fromarray(np.random.default_rng(4).integers(0, 256, (64 * 8, 64, 3), dtype=np.uint8))
    assert len(starts(64, 8)) > BATCH
    assert segmenter.windows(tall).concepts_rlc.shape == (64, 8, 3)
    square = tall.crop((0, 0, 64, 64))
    one, many = segmenter.view(square), segmenter.windows(square)
    np.testing.assert_allclose(one.concepts_rlc, many.concepts_rlc, atol=1e-5)
    np.testing.assert_allclose(segmenter.features(square), many.features_rlc, atol=1e-5)
    assert one.framing == segmenter.encoder.framing


def test_class_vectors_are_means_of_unit_vectors_over_templates(segmenter):
    encoder = segmenter.encoder
    found = class_vectors(encoder, ["star", "ring"], ["a {}", "a red {}"])
    for name, vector in zip(["star", "ring"], found, strict=True):
        units = torch.nn.functional.normalize(encoder.embed_text([f"a {name}", f"a red {name}"]).double(), dim=1)
        expected = units.mean(0) / units.mean(0).norm()
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-6)
    plain = torch.nn.functional.normalize(encoder.embed_text(["star"]).double(), dim=1)[0]
    np.testing.assert_allclose(class_vectors(encoder, ["star"])[0], plain, atol=1e-6)
    for names, templates, message in (
        (["star", "star"], [], "twice among star, star"), (["star"], ["a"], '"a" has no {}'), (["  "], [], "empty")
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            class_vectors(encoder, names, templates)
