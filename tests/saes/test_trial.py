"""An SAE on a warehouse's images: the numbers by hand, and what is said of a misfit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from glasshouse.plugins.saes import trial
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.form import CommonForm
from glasshouse.plugins.saes.inspection import inspect
from glasshouse.plugins.saes.trial import try_on_images
from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.extraction.self_test import self_test
from glasshouse.warehouse.warehouse import Warehouse

HOOK = "blocks.1.resid_post"


@pytest.fixture
def encoder(toy_encoder_class):
    return toy_encoder_class("0")


def by_hand(warehouse, encoder, hook, ids):
    """Activations [images, tokens, D] of pictures, each run alone."""
    paths = warehouse.images()["path"]
    tensors = [encoder.preprocess(Image.open(warehouse.root / paths[i]).convert("RGB")) for i in ids]
    return torch.cat([encoder.forward(tensor[None], [hook]).activations[hook] for tensor in tensors])


@pytest.mark.parametrize(("tokens", "n_rows"), [("cls", 10), ("patches", 160), ("mean", 10)])
def test_numbers_are_those_of_images_spread_evenly(warehouse, encoder, make_form, tokens, n_rows):
    sae = CommonSae("test", make_form(24, 60))
    done = try_on_images(warehouse.layout, encoder, sae, HOOK, tokens, n_images=10)
    acts_btd = by_hand(warehouse, encoder, HOOK, range(0, 30, 3))
    rows = {"cls": acts_btd[:, 0], "patches": acts_btd[:, 1:].flatten(0, 1), "mean": acts_btd[:, 1:].mean(1)}
    acts_nd = rows[tokens]
    expected = self_test(sae, acts_nd)
    assert done.self_test.n_rows == n_rows == len(acts_nd)
    assert done.self_test.explained_variance == pytest.approx(expected.explained_variance, rel=1e-4)
    assert done.self_test.l0 == pytest.approx(expected.l0)
    codes = sae.encode(acts_nd)
    assert done.n_silent == 60 - len(set(codes.feature.tolist()))
    lengths = [np.linalg.norm(x.numpy(), axis=1).mean() for x in (sae.decode(codes, n_rows, acts_nd), acts_nd)]
    assert done.length_ratio == pytest.approx(lengths[0] / lengths[1], rel=1e-4)
    assert (done.n_images, done.n_failed) == (10, 0)


def test_of_many_patches_some_are_drawn(warehouse, encoder, make_form, monkeypatch):
    """Of every batch its share, from all places of the map."""
    monkeypatch.setattr(trial, "SELF_TEST_ROWS", 100)
    sae = CommonSae("test", make_form(24, 60))
    done = try_on_images(warehouse.layout, encoder, sae, HOOK, "patches")
    assert done.self_test.n_rows == 100
    assert done == try_on_images(warehouse.layout, encoder, sae, HOOK, "patches"), "the same every time"
    columns = torch.arange(160)[:, None].expand(160, 2)
    drawn = trial._some_rows(columns, 40)[:, 0]
    assert len(drawn) == len(drawn.unique()) == 40
    assert len((drawn % 16).unique()) > 10


def test_more_images_than_there_are(warehouse, encoder, make_form):
    assert try_on_images(warehouse.layout, encoder, CommonSae("a", make_form(24, 60)), HOOK, "cls").n_images == 30


def fitted(acts_nd):
    """An SAE whose features are the vectors' own differences to their mean, both ways: it fits them, and is sparse."""
    mean_d = acts_nd.mean(0)
    rows_fd = torch.linalg.svd(acts_nd - mean_d, full_matrices=False).Vh
    n_more = 40 * len(rows_fd)  # features that are never active, so that what is active is few of all
    both_fd = torch.cat([rows_fd, -rows_fd, torch.zeros(n_more, acts_nd.shape[1])])
    bias_f = torch.cat([torch.zeros(2 * len(rows_fd)), torch.full((n_more,), -1.0)])
    return CommonSae("fitted", CommonForm(both_fd.T.contiguous(), bias_f, both_fd, mean_d))


def test_what_was_trained_elsewhere_is_said_even_where_it_fits(warehouse, encoder):
    sae = fitted(by_hand(warehouse, encoder, HOOK, range(30))[:, 0])
    assert try_on_images(warehouse.layout, encoder, sae, HOOK, "cls").wrong == ()
    sae.hook, sae.tokens = "blocks.0.resid_post", "patches"
    (words,) = try_on_images(warehouse.layout, encoder, sae, HOOK, "cls").wrong
    assert words == (
        "the SAE fitted was trained on hook blocks.0.resid_post, not blocks.1.resid_post and tokens patches, not cls."
    )


def test_what_cannot_be_tried(warehouse, encoder, make_form, tmp_path):
    sae = CommonSae("test", make_form(24, 60))
    with pytest.raises(UsageError, match=r"blocks\.9"):
        try_on_images(warehouse.layout, encoder, sae, "blocks.9", "cls")
    with pytest.raises(ModelError, match="takes vectors of width 8"):
        try_on_images(warehouse.layout, encoder, CommonSae("test", make_form(8, 60)), HOOK, "cls")
    with pytest.raises(UsageError, match="has no images yet"):
        try_on_images(Warehouse.create(tmp_path / "empty.glasshouse").layout, encoder, sae, HOOK, "cls")
    encoder.layers[1] = torch.full_like(encoder.layers[1], float("nan"))
    with pytest.raises(ModelError, match=r"No activation of blocks\.1\.resid_post of toy:0 on these"):
        try_on_images(warehouse.layout, encoder, sae, HOOK, "cls")


def test_weights_are_described(make_form):
    form = make_form(8, 20, activation="jumprelu", centred=True, soft_cap=2.0)
    form.w_dec_fd[3:5] = 0
    form.w_dec_fd[6] *= 1e4
    found = inspect(CommonSae("x", form, notes=["n"], about={"format": "F", "model": "m"}))
    norm_f = np.linalg.norm(form.w_dec_fd.numpy(), axis=1)
    alive_f = np.sort(norm_f[norm_f > 0])
    assert found.n_dead == 2
    assert found.decoder_norm == pytest.approx((alive_f[0], alive_f[8], alive_f[-1]), rel=1e-5)
    assert found.threshold.max == pytest.approx(float(form.threshold_f.max()))
    assert (found.is_centred, found.soft_cap, found.is_gated) == (True, 2.0, False)
    assert len(found.wrong) == 2
    assert "2 of 20 features" in found.wrong[0]
    assert "not on one scale" in found.wrong[1]
    assert found.as_dict()["threshold"]["max"] == found.threshold.max
    plain = inspect(CommonSae("x", make_form(8, 20)))
    assert (plain.n_dead, plain.wrong, plain.threshold) == (0, (), None)
