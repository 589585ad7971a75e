"""The networks of other widths that a benchmark trains, as encoders of a warehouse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.classifiers import SCHEME, WIDTHS, accuracy_of_width, encoder_of_width, plugins_of_widths
from glasshouse.plugins.starter.classifier import LAST_HOOK
from glasshouse.schema.errors import UsageError

NARROW = min(WIDTHS)


def test_a_width_is_trained_once_and_read_after_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = encoder_of_width(tmp_path, NARROW, quick=True)
    assert "trained" in capsys.readouterr().err
    read = plugins_of_widths(tmp_path, quick=True).load_encoder(f"{SCHEME}:{NARROW}")
    assert capsys.readouterr().err == ""
    assert (read.spec, read.fingerprint) == (f"{SCHEME}:{NARROW}", trained.fingerprint)
    assert {point.name: point.width for point in read.hook_points()}[LAST_HOOK] == 64
    batch_bchw = torch.zeros(2, 3, 64, 64)
    torch.testing.assert_close(read.forward(batch_bchw, []).embedding_be, trained.forward(batch_bchw, []).embedding_be)
    assert 0 < accuracy_of_width(tmp_path, NARROW, quick=True) < 0.5


def test_an_unknown_width_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Known: 0\.5, 1\.0, 2\.0"):
        plugins_of_widths(tmp_path, quick=True).load_encoder(f"{SCHEME}:3")
    assert not any(tmp_path.iterdir())
