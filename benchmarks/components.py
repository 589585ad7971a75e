"""All components of a CNN's last layer: from pictures to scores, beside the bare forward passes that this needs.

ResNet-50 with random weights over 2,000 pictures; 30 cut-outs of each of its 2,048 channels through the starter's CLIP
(64 pixels); concept vectors, clarity and polysemanticity. The limit is the two networks alone on tensors in memory:
twice the pictures through the first (to extract, and to find where components are active), once all cut-outs through
the second, each timed on a sample.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from typing import Any, Final

import torch

from benchmarks.pictures import write_pictures
from benchmarks.synthetic import Setting
from benchmarks.table import Row
from benchmarks.timing import say, seconds
from glasshouse.plugins.manager import Plugins
from glasshouse.warehouse.warehouse import Warehouse

N_IMAGES: Final = 2_000
N_EXAMPLES: Final = 30
N_SAMPLE: Final = 128
BATCH: Final = 16
SPACE, HOOK, EMBEDDING = "last", "layer4", "clip"
ANALYSES = ("examples", "concepts", "clarity", "polysemanticity")


def run(setting: Setting) -> Iterator[Row]:
    """Yield the whole, and its parts."""
    name, n_images, size = (
        ("timm:test_resnet/random:0", 24, (200, 160))
        if setting.quick
        else ("timm:resnet50/random:0", N_IMAGES, (320, 240))
    )
    folder = setting.scratch / "components"
    say(f"  writing {n_images:,} pictures")
    write_pictures(folder / "pictures", n_images, size, ".jpg")
    warehouse = Warehouse.create(folder / "c.glasshouse", Plugins(external=False))
    warehouse.add([folder / "pictures"])
    parts = {"extract": seconds(lambda: warehouse.extract(name, [(SPACE, HOOK, "max", "neurons")]))}
    say(f"  extracted in {parts['extract']:.0f} s")
    warehouse.extract("starter:clip", embedding=EMBEDDING)
    given = {"embedding": EMBEDDING, "crop": True, "n": N_EXAMPLES}
    for analysis in ANALYSES:
        parts[analysis] = seconds(
            lambda analysis=analysis: warehouse.plugins.analyze(warehouse, analysis, [SPACE], given)
        )  # type: ignore[misc]
        say(f"  {analysis} in {parts[analysis]:.0f} s")
    n_cuts = int(warehouse.sql("SELECT count(*) AS n FROM examples")["n"][0])
    n_features = warehouse.space(SPACE).n_features
    first, second = bare(name), bare("starter:clip")
    limit, whole = 2 * n_images * first + n_cuts * second, sum(parts.values())
    what = f"{name}, {n_features:,} components of {HOOK} over {n_images:,} pictures: {', '.join(parts)}"
    against = (
        f"{limit:.0f} s bare passes: 2 x {n_images:,} pictures at {1000 * first:.0f} ms, {n_cuts:,} cut-outs at "
        f"{1000 * second:.1f} ms (each from {N_SAMPLE})"
    )
    yield Row("components", what, f"{whole:.0f} s", against, limit / whole)
    yield Row("components", "of it", ", ".join(f"{part} {took:.0f} s" for part, took in parts.items()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    yield Row("components", "peak of this process", f"{peak:.1f} GiB")


def bare(name: str) -> float:
    """Seconds that an image takes in the encoder alone, in batches, from tensors in memory."""
    encoder: Any = Plugins(external=False).load_encoder(name)
    batch_bchw = torch.randn(BATCH, 3, *encoder.transform.output_size)
    encoder.forward(batch_bchw, [])
    n_batches = N_SAMPLE // BATCH
    return seconds(lambda: [encoder.forward(batch_bchw, []) for _ in range(n_batches)]) / (n_batches * BATCH)
