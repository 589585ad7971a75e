"""Spaces whose decoder lies in CLIP's space: which they are, and what their features decode to."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest
import torch
from kit.clip_space import WIDTH, clip_space, sae_tensors

from glasshouse.plugins.analyzers.clip_space import decoder, decoder_bias, decoder_vectors, require_clip_space
from glasshouse.plugins.analyzers.space_models import encoder_of, sae_of
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.saes import own_format
from glasshouse.plugins.view import AnalysisView
from glasshouse.schema.errors import ModelError, UsageError
from glasshouse.warehouse.warehouse import Warehouse


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory):
    """A few rendered scenes with the space `here` of starter:dinoised, and `neurons` at the same hook point."""
    made = clip_space(tmp_path_factory.mktemp("clip-space"), n_images=6)
    made.extract("starter:dinoised", [("raw", "dinoised", "patches", "neurons")])
    made.extract("starter:clip", [("elsewhere", "blocks.2.resid_post", "patches", "neurons")])
    yield made
    made.close()


def test_codes_decode_with_the_vectors_and_the_bias(warehouse):
    view = AnalysisView(warehouse, "here")
    found = decoder(view)
    assert found.vectors_fe.shape == (view.n_features, WIDTH) and found.vectors_fe.dtype == np.float32
    acts_nd = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(0)) * 5
    sae = sae_of(view)
    codes = sae.encode(acts_nd)
    dense_nf = np.zeros((9, view.n_features))
    dense_nf[codes.row, codes.feature] = codes.value
    assert (dense_nf > 0).sum() > 30
    np.testing.assert_allclose(dense_nf @ found.vectors_fe + found.bias_e, sae.decode(codes, 9), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(decoder_vectors(view), found.vectors_fe)
    np.testing.assert_array_equal(decoder_bias(view), found.bias_e)


def test_neurons_decode_to_themselves(warehouse):
    found = decoder(AnalysisView(warehouse, "raw"))
    np.testing.assert_array_equal(found.vectors_fe, np.eye(WIDTH, dtype=np.float32))
    assert not found.bias_e.any()


def test_other_spaces_have_none(warehouse):
    view = AnalysisView(warehouse, "elsewhere")
    assert decoder(view) is None and decoder_vectors(view) is None and decoder_bias(view) is None
    with pytest.raises(UsageError, match=r"'segment' needs a space of patches in CLIP's space.*starter:dinoised"):
        require_clip_space(view, "segment")
    require_clip_space(AnalysisView(warehouse, "here"), "segment")


def test_texts_lie_in_the_same_space(warehouse):
    encoder = encoder_of(AnalysisView(warehouse, "here"))
    assert encoder.embed_text(["a red star"]).shape == (1, WIDTH)


def test_scale_and_centre_of_an_sae_are_undone(tmp_path):
    description = json.loads(json.dumps(sae_tensors(0)[1])) | {"format": 2, "input_scale": 4.0}
    tensors = sae_tensors(0)[0] | {"center": torch.full((WIDTH,), 0.5)}
    with closing(clip_space(tmp_path, 3, (tensors, description))) as made:
        found = decoder(AnalysisView(made, "here"))
    np.testing.assert_allclose(found.vectors_fe, sae_tensors(0)[0]["W_dec"] / 4, atol=1e-6)
    np.testing.assert_allclose(found.bias_e, sae_tensors(0)[0]["b_dec"] / 4 + 0.5, atol=1e-6)


def test_other_weights_are_refused(tmp_path):
    with closing(clip_space(tmp_path, 3)) as made:
        own_format.write(tmp_path / "sae" / "sae.safetensors", *sae_tensors(1))
        with pytest.raises(ModelError, match="other weights than when the space 'here' was extracted"):
            decoder(AnalysisView(made, "here"))
        bare = Warehouse.open(made.root)
        with pytest.raises(UsageError, match="opened without plugins"):
            decoder(AnalysisView(bare, "here"))
        bare.close()
        assert Plugins(external=False).load_sae(str(tmp_path / "sae")).width == WIDTH
