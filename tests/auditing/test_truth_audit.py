"""What the audit must find on the starter's misled classifier, and must not find on its control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from glasshouse.plugins.analyzers.relevance_classes import classifier_of
from glasshouse.plugins.pruning.prune import Cue, PruneReport, prune
from glasshouse.plugins.view import AnalysisView


def correlation_with_watermark(warehouse: Any, space: str) -> Any:
    marked = set(
        warehouse.sql("SELECT image_id FROM image_labels WHERE attribute = 'watermark' AND value = 'present'")[
            "image_id"
        ]
    )
    is_marked_n = np.array([image in marked for image in range(warehouse.images().height)], dtype=float)
    acts_nf = warehouse.sparse_matrix(space).toarray()
    return np.array([np.corrcoef(column, is_marked_n)[0, 1] if column.std() else 0.0 for column in acts_nf.T])


@pytest.fixture(scope="session")
def audits(classes: Any, concept_files: tuple[Path, Path]) -> dict[str, pl.DataFrame]:
    """Return the audit of each space, cut-outs as published."""
    valid, spurious = concept_files
    found = {}
    for space in ("last", "clean"):
        classes.plugins.analyze(classes, "concepts", [space], {"crop": True})
        given = {"class_name": "heart", "valid": valid, "spurious": spurious, "crop": True}
        *_, report = classes.plugins.analyze(classes, "audit", [space], given)
        found[space] = classes.result_rows(report.run)
    return found


def test_text_search_finds_the_watermark_first(classes: Any, audits: Any) -> None:
    r_f = correlation_with_watermark(classes, "last")
    found = classes.search("watermark", space="last", k=3, crop=True)["feature_id"].to_list()
    assert [r_f[feature] >= 0.4 for feature in found[:2]] == [True, True], [round(r_f[f], 2) for f in found]
    control = correlation_with_watermark(classes, "clean")
    assert np.abs(control).max() < 0.25, "no channel of the control is about the watermark"


def test_the_audit_flags_detectors_of_the_watermark_and_nothing_valid(classes: Any, audits: Any) -> None:
    r_f = correlation_with_watermark(classes, "last")
    flagged = audits["last"].filter("is_flagged")["feature_id"].to_list()
    assert len(flagged) >= 2
    assert min(r_f[feature] for feature in flagged) >= 0.3, [round(r_f[feature], 2) for feature in flagged]
    assert audits["clean"]["is_flagged"].sum() == 0


def report(warehouse: Any, components: list[int], to: Any) -> PruneReport:
    view = AnalysisView(warehouse, "last")
    cue = Cue("watermark", "present")
    return prune(
        view, classifier_of(view), components, to=to, attribute="class", class_name="heart", cue=cue, seed=0
    )  # fmt: skip


def test_pruning_gives_back_what_the_cue_costs(classes: Any, audits: Any) -> None:
    """At least half, at most .02 of the other classes, with the mean of one set and accuracy on another."""
    flagged = audits["last"].filter("is_flagged")["feature_id"].to_list()
    found = report(classes, flagged, "mean")
    rows = {(row.name, row.cue): row for row in found.rows}
    without = rows["heart", False]
    assert rows["heart", True].as_is - without.as_is >= 0.1, "the cue costs something"
    back = found.given_back()
    assert back is not None and back >= 0.5, rows
    for cue in (True, False):
        others = rows["other classes", cue]
        assert others.pruned >= others.as_is - 0.02, others
    assert without.random - without.as_is < (without.pruned - without.as_is) / 2, "random components do not do it"
