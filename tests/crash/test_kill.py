"""kill -9 at random points of the writing commands, then the same command again: as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import KIT, TOY_PLUGIN, command, write_pictures
from kit.forking import Done, Driver

from glasshouse.warehouse.checking.check import check
from glasshouse.warehouse.warehouse import Warehouse

FOLDING_PLUGIN = KIT / "folding_plugin.py"

EXTRACT = ["extract", "--encoder", "toy:0", "--space", "cls", "--space", "patches", "--hook", "blocks.0.resid_post",
           "--tokens", "cls", "--tokens", "patches", "--embed", "toy", "--batch-size", "4"]  # fmt: skip
N_VICTIMS = 12

KEEP = ["--plugin", str(FOLDING_PLUGIN), "extract", "--encoder", "toy:0", "--space", "cls", "--space", "patches",
        "--hook", "blocks.0.resid_post", "--tokens", "cls", "--tokens", "patches", "--keep", "3", "--keep", "4",
        "--batch-size", "4"]  # fmt: skip
"""The same with spaces that keep the strongest images only, whose shards are folded into the file on the way."""
N_KEEP_VICTIMS = 4


def contents(root: Path, plugins: Any) -> dict[str, pl.DataFrame]:
    """Return every row of every table, times of day left out."""
    warehouse = Warehouse(root, plugins)
    frames = {}
    for name in ("images", "image_paths", "failures", "ratings", "rejected_rows", "intakes", "activations",
                 "token_activations", "image_top_features", "features", "feature_histograms", "spaces",
                 "embeddings"):  # fmt: skip
        frame = warehouse.sql(f"FROM {name} ORDER BY ALL")
        frames[name] = frame.drop([column for column in ("created_at", "finalised_at") if column in frame.columns])
    for name in warehouse.embedding_names():
        ids, vectors_ne = warehouse.embeddings(name)
        frames[f"embedding {name}"] = pl.DataFrame({"id": ids, "vector": vectors_ne})
    warehouse.close()
    return frames


def assert_same(root: Path, expected: dict[str, pl.DataFrame], plugins: Any, when: str) -> None:
    """Every row as in an undisturbed run, and nothing left lying about."""
    found = contents(root, plugins)
    for table, frame in expected.items():
        assert found[table].equals(frame), f"{when}: {table} differs"
    assert check(Warehouse(root).layout).remaining == [], when


def run(driver: Driver, words: list[str], root: Path, **how: Any) -> Done:
    return driver.run(["--plugin", str(TOY_PLUGIN), *words, "-w", str(root)], root.parent, **how)


def succeed(driver: Driver, words: list[str], root: Path) -> float:
    """Run a command undisturbed; returns how long it took."""
    done = run(driver, words, root)
    assert done.returncode == 0, done.stderr
    return done.seconds


@pytest.fixture
def prepared(tmp_path: Path, driver: Driver) -> Path:
    """Return a warehouse with 40 pictures that no process has open."""
    write_pictures(tmp_path / "pictures", 40)
    Warehouse.create(tmp_path / "w.glasshouse")
    succeed(driver, ["add", str(tmp_path / "pictures")], tmp_path / "w.glasshouse")
    return tmp_path / "w.glasshouse"


@pytest.mark.slow
@pytest.mark.parametrize(("words", "n_victims"), [(EXTRACT, N_VICTIMS), (KEEP, N_KEEP_VICTIMS)], ids=["all", "keep"])
def test_extract_survives_kill_at_random_points(
    prepared: Path, tmp_path: Path, plugins: Any, driver: Driver, words: list[str], n_victims: int
) -> None:
    reference = tmp_path / "reference.glasshouse"
    shutil.copytree(prepared, reference)
    seconds = succeed(driver, words, reference)
    expected = contents(reference, plugins)

    generator = random.Random(7)
    n_killed = 0
    for attempt in range(n_victims):
        victim = tmp_path / f"victim{attempt}.glasshouse"
        shutil.copytree(prepared, victim)
        for _ in range(generator.choice([1, 1, 2, 3])):  # some runs are killed more than once
            done = run(driver, words, victim, kill_after=seconds * generator.random())
            n_killed += done.returncode == -signal.SIGKILL
        succeed(driver, words, victim)
        assert_same(victim, expected, plugins, f"attempt {attempt}")
        shutil.rmtree(victim)
    assert n_killed >= n_victims // 4  # on a machine that was busier before, some kills come too late


FINALISING = [
    ("glasshouse.warehouse.extraction.finalise", "_build", False),
    ("glasshouse.warehouse.extraction.finalise", "_build", True),
    ("glasshouse.warehouse.extraction.finalise", "record_space", False),
    ("glasshouse.warehouse.extraction.finalise", "record_space", True),
    ("glasshouse.warehouse.extraction.finalise", "finalise_embedding", False),
    ("glasshouse.warehouse.vectors:VectorStore", "append", True),
    ("glasshouse.warehouse.extraction.shards:ShardFolder", "clear", False),
    ("glasshouse.warehouse.extraction.shards:ShardFolder", "clear", True),
    ("glasshouse.warehouse.surface", "write_attach_sql", False),
]


FOLDING = [
    *FINALISING[1:3],
    FINALISING[6],
    ("glasshouse.warehouse.extraction.shards:ShardFolder", "_write", True),
]
"""Steps of the first folding: a file that has no name yet, has no record, is recorded; a summary without its shard."""


@pytest.mark.slow
@pytest.mark.parametrize(("words", "steps"), [(EXTRACT, FINALISING), (KEEP, FOLDING)], ids=["all", "keep"])
def test_every_step_of_finalising_may_be_the_last(
    prepared: Path,
    tmp_path: Path,
    plugins: Any,
    driver: Driver,
    words: list[str],
    steps: list[tuple[str, str, bool]],
) -> None:
    """Each step between the last shard and the end is made fatal once."""
    reference = tmp_path / "reference.glasshouse"
    shutil.copytree(prepared, reference)
    succeed(driver, words, reference)
    expected = contents(reference, plugins)
    for step in steps:
        victim = tmp_path / "victim.glasshouse"
        shutil.copytree(prepared, victim)
        died = run(driver, words, victim, die_at=step)
        assert died.returncode == -signal.SIGKILL, f"{step} was not reached: {died.stderr}"
        succeed(driver, words, victim)
        assert_same(victim, expected, plugins, f"killed at {step}")
        shutil.rmtree(victim)


@pytest.mark.parametrize("step", [FINALISING[2], FINALISING[6]], ids=["before the record", "before the clean-up"])
def test_images_added_after_a_kill_come_in_once(
    prepared: Path, tmp_path: Path, plugins: Any, driver: Driver, step: tuple[str, str, bool]
) -> None:
    """The shards then hold both: images that are finalised already, and new ones."""
    reference, victim = tmp_path / "reference.glasshouse", tmp_path / "victim.glasshouse"
    more = write_pictures(tmp_path / "more", 10, first=200)
    shutil.copytree(prepared, reference)
    shutil.copytree(prepared, victim)
    succeed(driver, EXTRACT, reference)
    assert run(driver, EXTRACT, victim, die_at=step).returncode == -signal.SIGKILL
    for root in (reference, victim):
        succeed(driver, ["add", str(more[0].parent)], root)
        succeed(driver, EXTRACT, root)
    assert_same(victim, contents(reference, plugins), plugins, "added after the kill")


@pytest.mark.slow
def test_an_import_survives_kill_at_random_points(prepared: Path, tmp_path: Path, plugins: Any, driver: Driver) -> None:
    values = np.random.default_rng(3).random((40, 500)).astype(np.float32)
    np.savez(tmp_path / "acts.npz", activations=values, images=np.array([f"{i:05d}" for i in range(40)]))
    words = ["import", "features", str(tmp_path / "acts.npz"), "--space", "mine"]
    reference = tmp_path / "reference.glasshouse"
    shutil.copytree(prepared, reference)
    seconds = succeed(driver, words, reference)
    expected = contents(reference, plugins)
    generator = random.Random(11)
    for attempt in range(N_VICTIMS):
        victim = tmp_path / f"victim{attempt}.glasshouse"
        shutil.copytree(prepared, victim)
        run(driver, words, victim, kill_after=seconds * generator.random())
        succeed(driver, words, victim)
        assert_same(victim, expected, plugins, f"attempt {attempt}")
        shutil.rmtree(victim)


@pytest.mark.slow
def test_ctrl_c_finishes_the_batch_and_says_how_to_go_on(prepared: Path, plugins: Any, driver: Driver) -> None:
    words = [
        "extract",
        "--encoder",
        "toy:0/slow",
        "--space",
        "cls",
        "--hook",
        "blocks.0.resid_post",
        "--batch-size",
        "4",
    ]
    process = subprocess.Popen(
        [*command(), *words, "-w", str(prepared)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    shards = prepared / "shards" / "space-cls"
    deadline = time.monotonic() + 60
    while not list(shards.glob("batch-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopping after this batch" in errors and "Run the same command again to go on" in errors
    assert "Traceback" not in errors
    done = {file.name for file in shards.glob("batch-*")}
    assert 0 < len(done) < 10
    succeed(driver, words, prepared)
    assert Warehouse(prepared, plugins).spaces()["n_images"].to_list() == [40]


def test_two_extractions_at_once_do_not_mix(prepared: Path, plugins: Any) -> None:
    words = [
        "extract",
        "--encoder",
        "toy:0/slow",
        "--space",
        "cls",
        "--hook",
        "blocks.0.resid_post",
        "--batch-size",
        "8",
    ]
    both = [
        subprocess.Popen(
            [*command(), *words, "-w", str(prepared)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sorted(out for out, _ in outputs) == ["cls: 40 new images\n", "cls: up to date\n"]


def test_the_second_extraction_says_who_is_first(prepared: Path) -> None:
    words = [
        "extract",
        "--encoder",
        "toy:0/slow",
        "--space",
        "cls",
        "--hook",
        "blocks.0.resid_post",
        "--batch-size",
        "1",
    ]
    first = subprocess.Popen(
        [*command(), *words, "-w", str(prepared)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not list((prepared / "shards").glob("space-cls/batch-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        second = subprocess.run(
            [*command(), *words, "-w", str(prepared)],
            capture_output=True, text=True, timeout=60, env={**os.environ, "GLASSHOUSE_LOCK_TIMEOUT": "0.2"},
        )  # fmt: skip
        assert second.returncode == 1
        assert f"is being written by process {first.pid}" in second.stderr
        # A reader beside the running extraction is let in.
        assert Warehouse(prepared).sql("SELECT count(*) AS n FROM images")["n"][0] == 40
    finally:
        first.kill()
        first.wait()
