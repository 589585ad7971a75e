"""What an audit of the starter's misled classifier finds, and what pruning gives back, beside the control network.

Worlds with the watermark on half of each class, of seeds that no training has seen. Truth: the correlation of a
channel's largest activation with the watermark. Means come from four fifths of the images, accuracies from the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import say
from glasshouse.plugins.analyzers.relevance_classes import classifier_of
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.pruning.prune import Cue, PruneReport, prune
from glasshouse.plugins.starter.world.vocabulary import OBJECT_ATTRIBUTES
from glasshouse.plugins.starter.world.write import write_world
from glasshouse.plugins.view import AnalysisView
from glasshouse.warehouse.warehouse import Warehouse

SEEDS: Final = (3, 21, 40)
N_IMAGES: Final = 8_000
N_QUICK: Final = 320
CLASS: Final = "heart"
SPACES: Final = {"last": "starter:classifier", "clean": "starter:classifier-clean"}
DETECTS: Final = 0.4
"""Correlation with the watermark from which a channel counts as about it."""


class Audited(NamedTuple):
    """What came of one world: correlations of found and flagged channels, of both networks, and the pruning."""

    searched: list[float]
    flagged: dict[str, list[float]]
    pruning: PruneReport | None


def run(setting: Setting) -> Iterator[Row]:
    """Yield a row for search, audit, and pruning."""
    found = []
    for seed in SEEDS[: 1 if setting.quick else None]:
        say(f"  world of seed {seed}")
        found.append(audited(setting.scratch / f"audit-{seed}", seed, N_QUICK if setting.quick else N_IMAGES))
    first = [one.searched[0] for one in found]
    among = [sum(r >= DETECTS for r in one.searched) for one in found]
    what = f"text search for the watermark: detectors (r >= {DETECTS}) among its first 3, in {len(found)} worlds"
    yield Row(
        "audit",
        what,
        ", ".join(map(str, among)),
        f"r of the first {_listed(first)}",
        target=">= 1",
        met=min(among) >= 1,
    )
    counts = [len(one.flagged["last"]) for one in found]
    least = [min(one.flagged["last"], default=float("nan")) for one in found]
    control = [len(one.flagged["clean"]) for one in found]
    what = f"audit of {CLASS}: channels flagged, and the smallest r among them"
    good = min(counts) >= 1 and min(least) > 0.1 and max(control) == 0
    measured = f"{', '.join(map(str, counts))}; r {_listed(least)}"
    yield Row(
        "audit",
        what,
        measured,
        f"control network {', '.join(map(str, control))}",
        target="none valid, 0 of control",
        met=good,
    )
    yield from _pruned([one.pruning for one in found if one.pruning is not None])


def _pruned(reports: list[PruneReport]) -> Iterator[Row]:
    back = [report.given_back() or 0.0 for report in reports]
    hearts, rest, plain = (
        [_row(report, name, cue) for report in reports]
        for name, cue in ((CLASS, False), ("other classes", True), ("other classes", False))
    )
    n = ", ".join(str(row.n) for row in hearts)
    what = f"pruned to the mean: share given back of what the cue costs {CLASS} without it (of {n} images)"
    controls = {name: _listed(_back(report, name) for report in reports) for name in ("other", "random")}
    against = f"zero {controls['other']}; random components {controls['random']}"
    yield Row("audit", what, _listed(back), against, target=">= .5", met=bool(back) and min(back) >= 0.5)
    measured = "; ".join(f"{row.as_is:.3f} to {row.pruned:.3f}" for row in hearts)
    yield Row("audit", f"accuracy of {CLASS} without the cue", measured, f"zero {_listed(row.other for row in hearts)}")
    for rows, words in ((rest, "with"), (plain, "without")):
        cost = max(row.as_is - row.pruned for row in rows) if rows else float("nan")
        measured = "; ".join(f"{row.as_is:.3f} to {row.pruned:.3f}" for row in rows)
        against = f"zero {_listed(row.other for row in rows)}"
        yield Row(
            "audit", f"accuracy of other classes {words} the cue", measured, against, None, "costs <= .02", cost <= 0.02
        )


def _back(report: PruneReport, control: str) -> float:
    """Share of the cost that a control gives back."""
    with_cue, without = _row(report, CLASS, True), _row(report, CLASS, False)
    cost = with_cue.as_is - without.as_is
    return float((getattr(without, control) - without.as_is) / cost) if cost > 0 else float("nan")


def _row(report: PruneReport, name: str, cue: bool) -> Any:
    return next(row for row in report.rows if row.name == name and row.cue == cue)


def _listed(values: Any) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def audited(folder: Path, seed: int, n_images: int) -> Audited:
    """Write a world, audit both networks on it as docs/audit.md does, and prune what is flagged."""
    write_world(folder / "world", n_images, seed, confounded=True, cue="balanced")
    (folder / "valid.txt").write_text(
        "\n".join(value for name in ("shape", "colour", "texture") for value in OBJECT_ATTRIBUTES[name]),
        encoding="utf-8",
    )
    (folder / "spurious.txt").write_text("watermark", encoding="utf-8")
    warehouse = Warehouse.create(folder / "w.glasshouse", Plugins(external=False))
    warehouse.add([folder / "world" / "images"], labels=[folder / "world" / "labels.csv"])
    warehouse.extract("starter:clip", embedding="clip")
    flagged: dict[str, list[float]] = {}
    for space, encoder in SPACES.items():
        warehouse.extract(encoder, [(space, "layer4", "max", "neurons")])
        list(warehouse.plugins.analyze(warehouse, "concepts", [space], {"crop": True}))
        given = {"class_name": CLASS, "valid": folder / "valid.txt", "spurious": folder / "spurious.txt"}
        *_, report = warehouse.plugins.analyze(warehouse, "audit", [space], given)
        ids = warehouse.result_rows(report.run).filter("is_flagged")["feature_id"].to_list()
        r_f = correlations(warehouse, space)
        flagged[space] = [float(r_f[feature]) for feature in ids]
        if space == "last":
            components = ids
            found = warehouse.search("watermark", space=space, k=3, crop=True)["feature_id"].to_list()
            searched = [float(r_f[feature]) for feature in found]
    view = AnalysisView(warehouse, "last")
    pruning = None
    if components:
        pruning = prune(
            view, classifier_of(view), components, to="mean", attribute="class", class_name=CLASS,
            cue=Cue("watermark", "present"), seed=0,
        )  # fmt: skip
    return Audited(searched, flagged, pruning)


def correlations(warehouse: Warehouse, space: str) -> npt.NDArray[np.float64]:
    """Return the correlation of each channel with the watermark [F]; 0 where it never changes."""
    marked = warehouse.sql("SELECT image_id FROM image_labels WHERE attribute = 'watermark' AND value = 'present'")
    is_marked_n = np.isin(np.arange(warehouse.images().height), marked["image_id"].to_numpy()).astype(float)
    acts_nf = warehouse.sparse_matrix(space).toarray().astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        r_f = np.corrcoef(acts_nf.T, is_marked_n)[-1, :-1]
    return np.nan_to_num(r_f)
