"""What an SAE says its user should know reaches whoever extracts with it."""

from __future__ import annotations

from glasshouse.plugins.saes.common import CommonSae


def test_notes_are_among_an_extractions_complaints(warehouse, toy_encoder_class, make_form):
    encoder = toy_encoder_class("0")
    point = encoder.hook_points()[0]
    noted = CommonSae("noted", make_form(point.width, 30), notes=["its scale was not saved"])
    silent = CommonSae("silent", make_form(point.width, 30, seed=1))
    requests = [("a", point.name, "cls", noted), ("b", point.name, "cls", silent)]
    said = warehouse.extract(encoder, requests).complaints
    assert "space 'a', SAE noted: its scale was not saved" in said
    assert not any("saved" in words for words in said if "'b'" in words)
