"""Do wider networks of one kind have components of fewer meanings? Polysemanticity of one CNN in three widths.

The publication finds that it falls with the width (SemanticLens, arXiv 2501.05398). Same depth, scenes and recipe; what
comes out is told, whatever it is. Training the networks takes minutes: `GLASSHOUSE_WIDTHS=FOLDER` keeps them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.classifiers import SCHEME, WIDTHS, accuracy_of_width, encoder_of_width, plugins_of_widths
from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import say
from glasshouse.plugins.starter.world.write import write_world
from glasshouse.warehouse.warehouse import Warehouse

N_IMAGES: Final = 2_000
N_QUICK: Final = 80
HOOK: Final = "layer4.relu"
LAYERS_EMBEDDING: Final = "dinov2"
"""Examples are looked at by a model that is neither of these networks nor trained on texts."""


def run(setting: Setting) -> Iterator[Row]:
    """Yield mean polysemanticity and clarity of the last layer of each width, whole images and cut-outs."""
    folder = Path(os.environ.get("GLASSHOUSE_WIDTHS") or setting.scratch / "widths")
    root = setting.scratch / "widths-world"
    write_world(root / "world", N_QUICK if setting.quick else N_IMAGES, 0, confounded=True, cue="balanced")
    warehouse = Warehouse.create(root / "w.glasshouse", plugins_of_widths(folder, quick=setting.quick))
    warehouse.add([root / "world" / "images"])
    warehouse.extract("starter:dinov2", embedding=LAYERS_EMBEDDING)
    for width in WIDTHS:
        n_channels = encoder_of_width(folder, width, quick=setting.quick).embedding_width
        space = f"width-{width}".replace(".", "-")
        warehouse.extract(f"{SCHEME}:{width}", [(space, HOOK, "max", "neurons")])
        accuracy = accuracy_of_width(folder, width, quick=setting.quick)
        figures = []
        for crop in (False, True):
            given = {"embedding": LAYERS_EMBEDDING, "crop": crop}
            for analysis in ("clarity", "polysemanticity"):
                warehouse.plugins.analyze(warehouse, analysis, [space], given)
                means = warehouse.sql(
                    f"SELECT avg({analysis}) AS m FROM {analysis} WHERE space = '{space}' AND crop = {crop}"
                )
                figures.append(f"{analysis} {means['m'][0]:.3f}")
        say(f"  {space}: {figures}")
        whole, cut = ", ".join(figures[:2]), ", ".join(figures[2:])
        what = f"{n_channels} channels (width {width}, accuracy {accuracy:.3f}): mean of whole images; of cut-outs"
        yield Row("widths", what, f"{whole}; {cut}")
