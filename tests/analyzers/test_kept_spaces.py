"""Analyses of a space that keeps the strongest images only: the rows of the whole space, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import TOY_PLUGIN, write_pictures
from polars.testing import assert_frame_equal

from glasshouse.plugins.analyzers.attribution_maps import maps_by_block
from glasshouse.plugins.analyzers.example_vectors import Examples
from glasshouse.plugins.manager import Plugins
from glasshouse.plugins.view import AnalysisView
from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.warehouse import Warehouse

KEEP = 6
CONCEPTS = {"n": 5, "embedding": "toy"}
RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("monosemanticity", {"variant": "top", "k": KEEP, "min_images": 5, "circular": True}),
    ("uniqueness", {"k": 4}),
    ("examples", CONCEPTS),
    ("concepts", CONCEPTS),
    ("clarity", CONCEPTS),
    ("polysemanticity", CONCEPTS),
    ("redundancy", {"embedding": "toy"}),
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("monosemanticity", {"variant": "all", "circular": True}),
    ("monosemanticity", {"variant": "top", "k": KEEP + 1, "min_images": 2, "circular": True}),
    ("monosemanticity", {"variant": "top", "k": 2, "min_images": KEEP + 1, "circular": True}),
    ("uniqueness", {"k": KEEP + 1}),
    ("examples", {**CONCEPTS, "n": KEEP + 1}),
    ("correlation", {}),
    ("tiers", {}),
    ("probe", {"attribute": "kind", "c": 1.0}),
    ("cooccurrence", {}),
    ("hierarchy", {}),
    ("locality", {}),
    ("impurity", {}),
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """Return a warehouse with a patch space and the same one kept, an embedding, ratings, labels and masks."""
    folder = tmp_path_factory.mktemp("kept")
    write_pictures(folder / "pictures", 40)
    rng = np.random.default_rng(0)
    rows = [f"{i:05d}.png,{rng.random():.3f},{'ab'[i % 2]}\n" for i in range(40)]
    (folder / "ratings.csv").write_text("image,beauty\n" + "".join(row.rsplit(",", 1)[0] + "\n" for row in rows))
    (folder / "labels.csv").write_text("image,kind\n" + "".join(f"{r[:9]},{r[-2]}\n" for r in rows))
    warehouse = Warehouse.create(folder / "w.glasshouse", Plugins([TOY_PLUGIN], external=False))
    warehouse.add([folder / "pictures"], ratings=[folder / "ratings.csv"], labels=[folder / "labels.csv"])
    warehouse.add(annotations=[squares(folder)])
    spaces = [(name, "blocks.0.resid_post", "patches", "neurons") for name in ("whole", "kept")]
    warehouse.extract("toy:0", spaces, "toy", keep=[None, KEEP])
    yield warehouse
    warehouse.close()


def squares(folder: Path) -> Path:
    """Write annotations: a square on the left half of every picture."""
    import json

    annotations = [
        {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [0, 0, 10, 20], "area": 200, "iscrowd": 0,
         "segmentation": [[0, 0, 10, 0, 10, 20, 0, 20]]} for i in range(40)
    ]  # fmt: skip
    images = [{"id": i, "file_name": f"{i:05d}.png", "width": 20, "height": 20} for i in range(40)]
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "other"}]
    (folder / "squares.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return folder / "squares.json"


@pytest.mark.parametrize(("name", "parameters"), RIGHT, ids=[name for name, _ in RIGHT])
def test_what_reads_the_strongest_images_gives_the_rows_of_the_whole(
    filled: Warehouse, name: str, parameters: dict[str, Any]
) -> None:
    frames = []
    for space in ("whole", "kept"):
        run = filled.analyze(name, space, **parameters)[-1].run
        frame = filled.result_rows(run)
        frames.append(frame.drop([column for column in ("run_id", "space", "stale") if column in frame.columns]))
    assert frames[0].height > 0
    assert_frame_equal(frames[1], frames[0], rel_tol=1e-6)


@pytest.mark.parametrize(("name", "parameters"), REFUSED, ids=[f"{name}-{i}" for i, (name, _) in enumerate(REFUSED)])
def test_what_reads_more_is_refused_in_one_line(filled: Warehouse, name: str, parameters: dict[str, Any]) -> None:
    if name == "tiers":  # the first result that it reads can be had, the second cannot
        filled.analyze("monosemanticity", "kept", **dict(RIGHT)["monosemanticity"])
    with pytest.raises(UsageError, match=r"'kept' keeps only the 6 strongest images of each feature") as refused:
        filled.analyze(name, "kept", **parameters)
    assert "--keep" in str(refused.value) and "\n" not in str(refused.value)


def test_of_all_spaces_those_that_keep_too_little_are_left_out(filled: Warehouse) -> None:
    reports = {report.space: report for report in filled.analyze("correlation")}
    assert reports["whole"].run is not None
    assert "keeps only the 6 strongest" in reports["kept"].left_out


def test_what_ablation_sets_features_to_is_the_same_or_refused(filled: Warehouse) -> None:
    from glasshouse.plugins.analyzers.ablate import AblateParameters, change_of

    spaces = [(name, "blocks.0.resid_post", "cls", "neurons") for name in ("whole_cls", "kept_cls")]
    filled.extract("toy:0", spaces, keep=[None, KEEP])
    whole, kept = (change_of(AnalysisView(filled, name), AblateParameters(to="mean")) for name, *_ in spaces)
    assert whole.value_f.max() > 0
    np.testing.assert_allclose(kept.value_f, whole.value_f, rtol=1e-12)
    with pytest.raises(UsageError, match="keeps only the 6 strongest"):
        change_of(AnalysisView(filled, "kept"), AblateParameters(to="mean"))


def test_maps_of_other_examples_are_refused(filled: Warehouse) -> None:
    """Examples by relevance need not be the strongest; their maps are not kept, and empty ones would be a lie."""
    weakest = AnalysisView(filled, "whole").top_images(40).group_by("feature_id", maintain_order=True).tail(1)
    strongest = AnalysisView(filled, "kept").top_images(KEEP)

    def maps(frame: pl.DataFrame) -> list[Any]:
        feature_p, image_p = frame["feature_id"].to_numpy(), frame["image_id"].to_numpy()
        examples = Examples(feature_p, image_p, np.zeros(len(feature_p)))
        return [one for block in maps_by_block(AnalysisView(filled, "kept"), examples) for one in block]

    assert len(maps(strongest)) == strongest.height
    with pytest.raises(UsageError, match="Choose examples by activation"):
        maps(weakest)
