"""Which spaces a report searches in."""

from __future__ import annotations

from typing import Any

from glasshouse.warehouse.showing.searched import searchable


def test_spaces_without_concept_vectors_are_left_out_unless_none_has_any(bare: Any) -> None:
    assert searchable(bare, ["cls", "patches"]) == ["cls", "patches"]
    bare.analyze("concepts", "patches", embedding="toy")
    assert searchable(bare, ["cls", "patches"]) == ["patches"]
    assert searchable(bare, ["cls"]) == ["cls"]
