"""`neurons`: the identity with a ReLU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from glasshouse.plugins.saes import neurons
from glasshouse.schema.errors import ModelError, UsageError


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12),
        elements=st.floats(-1e3, 1e3, width=32),
    )
)
def test_codes_are_the_positive_entries(dense, acts_nd):
    n_rows, width = acts_nd.shape
    sae = neurons.load("", "cpu")
    codes = sae.encode(torch.from_numpy(acts_nd))
    np.testing.assert_array_equal(dense(codes, n_rows, width), np.maximum(acts_nd, 0))
    decoded_nd = sae.decode(codes, n_rows, torch.from_numpy(acts_nd))
    np.testing.assert_array_equal(decoded_nd.numpy(), np.maximum(acts_nd, 0))


def test_it_fits_every_width_and_says_what_it_is():
    sae = neurons.load("", "cpu")
    assert sae.width is None
    assert [sae.n_features(width) for width in (1, 768)] == [1, 768]
    assert sae.is_lossless
    assert sae.spec == "neurons"
    assert sae.fingerprint == neurons.load("", "cpu").fingerprint
    assert len(sae.fingerprint) == 64


def test_it_takes_no_name_and_decodes_with_the_width():
    with pytest.raises(ModelError, match=r"takes nothing after it, not ':layer4'. Write --sae neurons"):
        neurons.load("layer4", "cpu")
    sae = neurons.load("", "cpu")
    with pytest.raises(UsageError, match="acts_nd"):
        sae.decode(sae.encode(torch.ones(1, 2)), 1)
