"""What is written in glasshouse's own format is the same SAE, whatever it came from; and what is not is not kept."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from glasshouse.plugins.saes import convert as convert_module
from glasshouse.plugins.saes import local, own_format
from glasshouse.plugins.saes.common import CommonSae
from glasshouse.plugins.saes.convert import convert
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.catalogue import CATALOGUE_FILE

FORMS = {
    "relu": {},
    "gated": {"gated": True, "normalization": "layer_norm"},
    "topk": {"activation": "topk", "k": 4, "apply_b_dec_to_input": False},
    "jumprelu": {"activation": "jumprelu", "normalization": "constant_norm_rescale"},
    "batchtopk": {"activation": "batchtopk", "threshold_f": torch.tensor([0.4])},
    "centred": {"centred": True, "input_scale": 0.3, "soft_cap": 1.5, "normalization": "layer_norm"},
    "capped": {"soft_cap": 30.0, "activation": "tanh-relu"},
}
KNOWN = {"hook": "blocks.3.resid_post", "tokens": "cls", "encoder": "starter:clip"}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("known", [True, False])
def test_every_form_is_kept(tmp_path, make_form, naive, dense, name, known):
    prefixes = (4, 20) if name == "batchtopk" else None
    sae = CommonSae("spec", make_form(6, 20, **FORMS[name]), prefixes=prefixes, notes=["beware"], about={"format": "X"})
    done = convert(sae, tmp_path / "a" / "b", **(KNOWN if known else {}))
    assert done.n_codes > 100
    loaded = local.load(str(tmp_path / "a" / "b"), "cpu")
    assert (loaded.fingerprint, loaded.prefixes, loaded.notes) == (sae.fingerprint, prefixes, ("beware",))
    assert (loaded.hook, loaded.tokens) == (("blocks.3.resid_post", "cls") if known else (None, None))
    description, _ = own_format.read(done.file)
    assert description.format == (1 if known and name not in ("centred", "capped") else 2)
    assert description.training["converted_from"]["spec"] == "spec"
    acts_nd = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    expected = naive(acts_nd, sae.form)
    np.testing.assert_allclose(dense(loaded.encode(acts_nd), 9, 20), expected.codes_nf, atol=1e-4)


def test_what_does_not_give_the_same_codes_is_not_kept(tmp_path, make_form, monkeypatch, refused):
    sae = CommonSae("spec", make_form(6, 20))
    right = convert_module._tensors

    def wrong(sae):
        return right(sae) | {"b_enc": sae.form.b_enc_f + 1e-3}

    monkeypatch.setattr(convert_module, "_tensors", wrong)
    refused(lambda: convert(sae, tmp_path / "sae"), "does not give the codes of spec; nothing is kept")
    assert list((tmp_path / "sae").iterdir()) == []
    monkeypatch.setattr(convert_module, "_tensors", right)
    convert(sae, tmp_path / "sae")
    with pytest.raises(UsageError, match="exists"):
        convert(sae, tmp_path / "sae")


def test_what_the_file_said_is_carried_on(tmp_path, make_form):
    """A file of our own that is converted again keeps its training and self-test, and says where it came from."""
    form = make_form(6, 20)
    tensors = {"W_enc": form.w_enc_df, "b_enc": form.b_enc_f, "W_dec": form.w_dec_fd, "b_dec": form.b_dec_d}
    described = {
        "format": 1, "activation": "relu", "apply_b_dec_to_input": True, "normalization": "none", **KNOWN,
        "encoder_weights_sha256": "ab", "training": {"seed": 7}, "self_test": {"l0": 3.0},
    }  # fmt: skip
    own_format.write(tmp_path / "sae.safetensors", tensors, described)
    convert(own_format.load(tmp_path, "cpu", "first"), tmp_path / "second")
    description, _ = own_format.read(tmp_path / "second" / "sae.safetensors")
    assert description.training["seed"] == 7
    assert description.training["converted_from"]["spec"] == "first"
    assert (description.self_test, description.encoder_weights_sha256) == ({"l0": 3.0}, "ab")
    assert (description.hook, description.encoder) == ("blocks.3.resid_post", "starter:clip")


def test_files_and_warehouses_are_no_folders_to_write_into(tmp_path, make_form):
    sae = CommonSae("spec", make_form(6, 20), about={"format": "X"})
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file is a file, and a folder is needed"):
        convert(sae, tmp_path / "file")
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "catalogue" / CATALOGUE_FILE).write_text("")
    with pytest.raises(UsageError, match="lies within the warehouse"):
        convert(sae, tmp_path / "catalogue" / "sae")


def test_the_file_is_as_readable_as_any_other(tmp_path, make_form):
    previous = os.umask(0o022)
    try:
        done = convert(CommonSae("spec", make_form(6, 20), about={"format": "X"}), tmp_path / "sae")
    finally:
        os.umask(previous)
    assert done.file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in (tmp_path / "sae").iterdir()] == ["sae.safetensors"]
