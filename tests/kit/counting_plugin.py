"""A plugin with small analyzers, for tests of the runner: what they compute is not the point."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from glasshouse.plugins import hookimpl
from glasshouse.plugins.analyzer import Analyzer, Parameters
from glasshouse.schema.errors import UsageError


class CountParameters(Parameters):
    least: int = Field(0, ge=0, description="Only features with so many images.")
    kind: Literal["plain", "double"] = Field("plain", description="What to count.")
    names: tuple[str, ...] = Field((), description="Names.")
    share: float | None = Field(None, description="A share.")
    quick: bool = Field(True, description="Do not sleep.")
    seed: int = Field(0, description="Of nothing.")


class Count(Analyzer[CountParameters]):
    """Count the images of each feature."""

    summary = "counts images"
    parameters = CountParameters
    schema = pa.schema([("feature_id", pa.int32()), ("kind", pa.string()), ("n", pa.int64())])
    facets = ("kind",)
    in_features = ("n",)

    def run(self, view: Any, parameters: CountParameters) -> pa.Table:
        frame = view.statistics()
        n = frame["n_active"].to_numpy().astype(np.int64) * (2 if parameters.kind == "double" else 1)
        keep = n >= parameters.least
        view.note(n_kept=int(keep.sum()))
        if not parameters.quick:
            view.progress(1, 2)
            time.sleep(60)
        return pa.table(
            {
                "feature_id": frame["feature_id"].to_numpy()[keep],
                "kind": [parameters.kind] * int(keep.sum()),
                "n": n[keep],
            }
        )


class Directions(Analyzer[Parameters]):
    """Give each feature a vector: its number and 1."""

    summary = "vectors"
    schema = pa.schema([("feature_id", pa.int32()), ("vector", pa.list_(pa.float32()))])
    requires = ("count",)

    def run(self, view: Any, parameters: Parameters) -> Iterator[pa.RecordBatch]:
        features = view.result("count")["feature_id"].to_list()
        for start in range(0, len(features), 7):
            part = features[start : start + 7]
            yield pa.record_batch(
                {"feature_id": pa.array(part, pa.int32()), "vector": [[float(feature), 1.0] for feature in part]}
            )


class Signed(Analyzer[Parameters]):
    """Two rows for each feature; `features` shows the one of the larger absolute value."""

    summary = "two rows each"
    schema = pa.schema([("feature_id", pa.int32()), ("side", pa.string()), ("size", pa.float64())])
    in_features = ("side", "size")
    strongest = "size"

    def run(self, view: Any, parameters: Parameters) -> pa.Table:
        features = np.arange(view.n_features, dtype=np.int32)
        return pa.table(
            {
                "feature_id": np.concatenate([features, features]),
                "side": ["left"] * len(features) + ["right"] * len(features),
                "size": np.concatenate([features - 5.0, np.full(len(features), 2.0)]),
            }
        )


class PieceParameters(Parameters):
    features: tuple[int, ...] = Field((0,), description="Which features.")
    word: str = Field("a", description="What is said of them.")
    file: Path | None = Field(None, description="A file that says it instead.")


class Pieces(Analyzer[PieceParameters]):
    """Say a word of some features; runs add to each other."""

    summary = "piece by piece"
    parameters = PieceParameters
    schema = pa.schema([("feature_id", pa.int32()), ("word", pa.string())])
    in_features = ("word",)
    is_incremental = True

    def run(self, view: Any, parameters: PieceParameters) -> pa.Table:
        word = parameters.word if parameters.file is None else view.file(parameters.file).read_text()
        return pa.table(
            {
                "feature_id": pa.array(parameters.features, pa.int32()),
                "word": [word] * len(parameters.features),
            }
        )


class BadParameters(Parameters):
    how: str = Field("raise", description="What goes wrong.")


class Bad(Analyzer[BadParameters]):
    """Go wrong, in the way that is asked for."""

    summary = "goes wrong"
    parameters = BadParameters
    schema = pa.schema([("feature_id", pa.int32()), ("n", pa.int64())])
    in_features = ("n",)

    def resolve(self, view: Any, parameters: BadParameters) -> BadParameters:
        if parameters.how == "impossible":
            raise UsageError("It needs something that is not there. Run `glasshouse add`.")
        return parameters

    def run(self, view: Any, parameters: BadParameters) -> Any:
        one = {"feature_id": pa.array([0], pa.int32()), "n": pa.array([1])}
        bad = {
            "columns": {"feature_id": one["feature_id"], "m": one["n"]},
            "type": {"feature_id": one["feature_id"], "n": ["many"]},
            "feature": {"feature_id": pa.array([view.n_features], pa.int32()), "n": one["n"]},
            "twice": {"feature_id": pa.array([0, 0], pa.int32()), "n": pa.array([1, 2])},
        }
        if parameters.how == "die":
            os.kill(os.getpid(), 9)
        if parameters.how not in bad:
            raise KeyError(parameters.how)
        return pa.table(bad[parameters.how])


@hookimpl
def register_analyzers(register: Any) -> None:
    register("directions", Directions())
    register("count", Count())
    register("signed", Signed())
    register("pieces", Pieces())
    register("bad", Bad())
