"""The demo: the rendered world as a warehouse, through the same doors as a user's own images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glasshouse.plugins.starter.world.vocabulary import ALL_VALUES
from glasshouse.plugins.starter.world.write import write_world
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.atomic import replacing
from glasshouse.warehouse.catalogue import CATALOGUE_FILE
from glasshouse.warehouse.contracts import TokenPolicy
from glasshouse.warehouse.warehouse import Progress, Warehouse

if TYPE_CHECKING:
    from glasshouse.plugins.manager import Plugins
    from glasshouse.plugins.starter.findings import SpaceEnding

WORLD_FOLDER = "world"
WORLD_NOTE = "world.json"
WORLD_WORDS = "words.txt"
REPORT = "report.html"
COVARIATES = ("brightness", "saturation", "edge_energy")
DINOISED: tuple[str, str, TokenPolicy, str] = ("dinoised", "dinoised", "patches", "starter:sae-dinoised")
"""The space in which Insight is tried as it was published: its features decode to vectors of CLIP."""
N_LABELS = 512
"""Features that are labelled at most: all that a space of the starter has."""

Step = Callable[[str], Progress]
Analysis = tuple[str, dict[str, Any]]
"""Name and parameters."""


@dataclass(frozen=True)
class DemoReport:
    """What a demo made: the warehouse, whether it was stopped early, analyses that were left out and why.

    `told` are the spaces whose findings are told at the end.
    """

    warehouse: Warehouse
    stopped: bool
    left_out: list[str] = field(default_factory=list)
    told: tuple[str, ...] = ("cls", "patches")


def build_demo(
    root: Path, n_images: int, seed: int, plugins: Plugins, step: Step, stop: Callable[[], bool] = lambda: False
) -> DemoReport:
    """Render the world into `root`/world and make a warehouse of it, or complete one that was begun.

    Args:
        root: the warehouse's folder; new, empty, or an earlier demo's.
        n_images: how many images; more than an earlier demo had adds the rest, fewer changes nothing.
        seed: of the world.
        plugins: loads the starter's models.
        step: told what is happening; gives the progress function for it.
        stop: asked after every batch.

    Raises:
        UsageError: the folder holds something else, or a world of another seed.
    """
    warehouse = _open_or_create(root, plugins)
    world = root / WORLD_FOLDER
    n_images = _note_world(world, seed, n_images)
    rendering = step("rendering")
    write_world(world, n_images, seed, progress=lambda done: rendering(done, n_images))
    warehouse.add(
        [world / "images"],
        ratings=[world / "ratings.csv"],
        captions=[world / "captions.csv"],
        labels=[world / "labels.csv"],
        annotations=[world / "annotations.json"],
        progress=step("adding"),
    )
    preset = plugins.presets.get("starter")
    report = warehouse.extract(
        preset.encoder,
        [(space.name, space.hook, space.tokens, space.sae) for space in preset.spaces],
        "clip",
        stop=stop,
        progress=step("CLIP and its SAEs"),
    )
    if not report.stopped:
        report = warehouse.extract("starter:dinov2", embedding="dinov2", stop=stop, progress=step("DINOv2"))
    if not report.stopped:
        report = warehouse.extract("starter:dinoised", [DINOISED], stop=stop, progress=step("patches in CLIP's space"))
    if report.stopped:
        return DemoReport(warehouse, stopped=True)
    left_out: list[str] = []
    finished = analyse(warehouse, _write_words(world), plugins, step, stop, left_out)
    return DemoReport(warehouse, not finished, left_out)


def analyse(
    warehouse: Warehouse, words: Path, plugins: Plugins, step: Step, stop: Callable[[], bool], left_out: list[str]
) -> bool:
    """Run the analyses whose results the demo shows; say whether all of them had their turn.

    Labels come before tiers, so that every scored feature gets one and not only those in a tier; of the correlations
    the plain one is last, so that it is the one that tiers and the view `features` see.
    """
    scores: list[Analysis] = [
        ("monosemanticity", {}),
        ("concepts", {}),
        ("labels", {"vocabulary": str(words), "n": N_LABELS}),
        ("label_score", {}),
        ("correlation", {"covariates": COVARIATES}),
        ("correlation", {}),
        ("tiers", {}),
        ("uniqueness", {}),
        ("soft_wpmi", {"vocabulary": str(words)}),
    ]
    insight: list[Analysis] = [("locality", {}), ("hierarchy", {}), ("names", {"vocabulary": str(words)})]
    probe: list[Analysis] = [("probe", {"attribute": "shape"})]
    plan = {"cls": scores, "patches": [*scores, *insight, *probe], DINOISED[0]: [*insight, ("segment", {})]}
    runner = plugins.runner(warehouse, step)
    for space, analyses in plan.items():
        for name, parameters in analyses:
            if stop():
                return False
            try:
                list(runner.run(name, space, parameters))
            except UsageError as error:  # a world of a handful of images is too small for some
                left_out.append(f"{name} on {space}: {error}")
    return True


def write_demo_report(warehouse: Warehouse, endings: Sequence[SpaceEnding]) -> Path:
    """Write the report of the demo into its folder, the truth about each rating beside it; return its path."""
    # Late: Pillow and numpy, for which the start of the demo should not wait.
    from glasshouse.plugins.starter.findings import remarks
    from glasshouse.warehouse.showing.report import ReportOptions, write_report

    path = warehouse.root / REPORT
    options = ReportOptions(
        hits={ending.space: ending.hits for ending in endings if ending.hits},
        remarks=remarks(),
        introduction="A small rendered world whose truth is known: what pictures show and what ratings follow.",
    )
    write_report(warehouse, path, options)
    return path


def _write_words(world: Path) -> Path:
    """Write the world's words as a vocabulary for labels: the values by which features are judged, and their groups."""
    path = world / WORLD_WORDS
    with replacing(path) as temporary:
        temporary.write_text("\n".join(ALL_VALUES) + "\n", encoding="utf-8")
    return path


def _open_or_create(root: Path, plugins: Plugins) -> Warehouse:
    if not (root / CATALOGUE_FILE).is_file():
        return Warehouse.create(root, plugins)
    if not (root / WORLD_FOLDER / WORLD_NOTE).is_file():
        raise UsageError(f"{root} is a warehouse, but no demo. Choose another folder with --dir.")
    return Warehouse(root, plugins)


def _note_world(world: Path, seed: int, n_images: int) -> int:
    """Remember seed and size; returns the size to render, which never shrinks: the truth of extracted images stays.

    Raises:
        UsageError: another seed; its images would take the place of those that were extracted.
    """
    note = world / WORLD_NOTE
    if note.is_file():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["seed"] != seed:
            raise UsageError(f"{world.parent} was made with --seed {known['seed']}. Choose another folder with --dir.")
        n_images = max(n_images, known["images"])
    world.mkdir(parents=True, exist_ok=True)
    with replacing(note) as temporary:
        temporary.write_text(json.dumps({"seed": seed, "images": n_images}), encoding="utf-8")
    return n_images
