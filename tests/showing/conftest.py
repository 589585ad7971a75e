"""A small warehouse whose every text is hostile, with results of known and unknown analyses."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from kit.hostile import HOSTILE, HOSTILE_FILE
from PIL import Image

from glasshouse.warehouse.results.records import Request, ResultTable
from glasshouse.warehouse.results.store import Outcome, commit_run
from glasshouse.warehouse.warehouse import Warehouse

SIZES = [(20, 20), (64, 24), (24, 64), (300, 200), (7, 5), (20, 31)]


def store(
    warehouse: Warehouse,
    analyzer: str,
    space: str,
    rows: list[Mapping[str, Any]],
    *,
    facets: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
    in_features: tuple[str, ...] = (),
    strongest: str | None = None,
) -> None:
    """Commit rows as the runner does."""
    table = pa.Table.from_pylist(rows)
    request = Request(analyzer, "1", space, dict(facets or {}), dict(facets or {}))
    outcome = Outcome(table, [], datetime(2026, 1, 1), 0.1, None, dict(notes or {}))
    commit_run(warehouse.layout, request, ResultTable(analyzer, table.schema, in_features, strongest), outcome)


@pytest.fixture
def bare(tmp_path: Path, plugins: Any) -> Iterator[Warehouse]:
    """Return a warehouse of six pictures of odd sizes, a CLS and a patch space, and no analysis."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, (width, height) in enumerate(SIZES):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / (HOSTILE_FILE if i == 0 else f"{i}.png"))
    with (tmp_path / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), (HOSTILE_FILE, HOSTILE), ("1.png", "plain words")])
    with (tmp_path / "ratings.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "joy <b>"))
        writer.writerows((HOSTILE_FILE if i == 0 else f"{i}.png", i % 4 + 1) for i in range(len(SIZES)))
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "kind"), (HOSTILE_FILE, "<i>x</i>")])
    warehouse = Warehouse.create(tmp_path / "w.glasshouse", plugins)
    warehouse.add(
        [folder], ratings=[tmp_path / "ratings.csv"], captions=[tmp_path / "captions.csv"],
        labels=[tmp_path / "labels.csv"],
    )  # fmt: skip
    warehouse.extract(
        "toy:0",
        [
            ("cls", "blocks.1.resid_post", "cls", "neurons"),
            ("patches", "blocks.0.resid_post", "patches", "neurons"),
        ],
        "toy",
    )
    yield warehouse
    warehouse.close()


@pytest.fixture
def analysed(bare: Warehouse) -> Warehouse:
    """Return the same with results, hostile where they are text."""
    for space in ("cls", "patches"):
        n = bare.space(space).n_features
        store(
            bare, "monosemanticity", space,
            [
                {"feature_id": f, "variant": "top", "embedding": "dinov2", "ms": f / n, "ms_class": "moderate",
                 "n_images": 6, "ms_low": f / n - 0.1, "ms_high": f / n + 0.1, "concentration": 1.0}
                for f in range(n)
            ],
            facets={"variant": "top", "embedding": "dinov2"}, in_features=("ms", "ms_class"),
            notes={"mu": 0.2, "sigma": 0.15, "n_pairs": 50000, "seed": 0, "moderate_from": 0.35,
                   "monosemantic_from": 0.5},
        )  # fmt: skip
        rows = [
            {"feature_id": f, "dimension": "joy <b>", "method": "pearson", "r": (-1) ** f * f / (2 * n), "p": 0.01,
             "q": 0.02, "n": 6, "r_low": -0.1, "r_high": 0.6, "covariates": ""}
            for f in range(n)
        ]  # fmt: skip
        store(
            bare, "correlation", space, rows, facets={"method": "pearson", "covariates": []}, strongest="r",
            in_features=("r", "dimension", "q"),
        )  # fmt: skip
        store(
            bare, "correlation", space,
            [{**row, "r": row["r"] / 10, "covariates": "brightness,saturation"} for row in rows],
            facets={"method": "pearson", "covariates": ["brightness", "saturation"]}, strongest="r",
            in_features=("r", "dimension", "q"),
        )  # fmt: skip
        store(
            bare, "tiers", space,
            [{"feature_id": n - 1, "tier": 1, "tier_name": "elite", "rank": 0, "ms": 0.9, "r": 0.4,
              "dimension": "joy <b>"}],
            in_features=("tier",),
        )  # fmt: skip
        store(
            bare, "labels", space,
            [{"feature_id": n - 1, "label": HOSTILE, "description": HOSTILE, "visual_elements": [HOSTILE, "b"],
              "rating_effect": "", "confidence": 0.5, "labeler": "vocabulary", "model": HOSTILE, "failure": None,
              "reply": HOSTILE}],
            in_features=("label",),
        )  # fmt: skip
        store(
            bare, "stranger", space,
            [{"feature_id": n - 1, "verdict <u>": HOSTILE, "weight": 0.25}], in_features=("verdict <u>",),
        )  # fmt: skip
        vectors = np.random.default_rng(1).normal(size=(n, 8)).astype(np.float32)
        vectors[n - 2] = 2 * vectors[n - 1]
        store(
            bare, "concepts", space,
            [{"feature_id": f, "n_images": 12, "vector": vectors[f].tolist()} for f in range(n)],
            facets={"embedding": "toy", "crop": False},
        )  # fmt: skip
    return bare
