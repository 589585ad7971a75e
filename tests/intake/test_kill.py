"""kill -9 in the middle of `add`, at many points; two processes at once; a disk that is full; a read-only folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from glasshouse.schema.errors import WarehouseError

Write = Callable[..., Path]
Dump = Callable[[Path], dict[str, list[Any]]]

DRIVER = '''
import json, os, resource, signal, sys
from pathlib import Path
import duckdb, numpy, pyarrow, pyarrow.parquet
from glasshouse.plugins.sources.coco import CocoSource
from glasshouse.plugins.sources.folder import FolderSource
from glasshouse.plugins.sources.table import TableSource
from glasshouse.plugins.sources.webdataset import WebdatasetSource
from glasshouse.schema.errors import GlasshouseError
from glasshouse.warehouse.intake import images
from glasshouse.warehouse.intake.add import add

WATCHED = {"execute", "register", "close", "connect", "replace", "write_bytes", "next"}

def call(root, what, kill_at=None, file_limit=None):
    """Run one add; die at the `kill_at`-th call into a library that matters, counted in the main thread."""
    n_calls = 0
    def count(frame, event, argument):
        nonlocal n_calls
        name = getattr(argument, "__name__", "") if event == "c_call" else frame.f_code.co_name
        if event in ("c_call", "c_return", "return") and name in WATCHED:
            n_calls += 1
            if n_calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    images.BATCH_SIZE = 12
    if file_limit is not None:  # no counting: it makes long tables slow
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    elif kill_at != 0:
        sys.setprofile(count)
    rows = {key: what[key] for key in ("ratings", "captions", "labels", "annotations") if key in what}
    try:
        add(Path(root), what["paths"], (WebdatasetSource(), CocoSource(), TableSource(), FolderSource()), **rows)
    except GlasshouseError as error:
        sys.setprofile(None)
        print(f"{type(error).__name__}: {error}")
    sys.setprofile(None)
    return n_calls

if sys.argv[1] == "one":
    _, _, root, what, limit = sys.argv
    n_calls = call(root, json.loads(what), file_limit=int(limit) or None)
    print(n_calls)
else:  # a fork for each point: everything is imported, no thread runs and nothing is open
    for root, kill_at in json.loads(sys.argv[2]):
        for again in (False, True):
            child = os.fork()
            if child == 0:
                call(root, json.loads(sys.argv[3]), 0 if again else kill_at)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            print(root, kill_at, status)
'''


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    file = tmp_path / "driver.py"
    file.write_text(DRIVER)
    return file


def run_driver(*arguments: str | Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture
def everything(tmp_path: Path, write_png: Write, png: Callable[..., bytes]) -> dict[str, list[str]]:
    """Pictures of every kind of source, failures, duplicates, and rows of every kind, some of which do not join."""
    folder = tmp_path / "in"
    for number in range(16):
        write_png(folder / "photos" / f"{number:03d}.png", number % 13)
    (folder / "photos" / "broken.png").write_bytes(b"broken")
    for name in ("plain.tar", "packed.tar.gz"):
        with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as tar:
            for number in range(3):
                for ending, data in ((".png", png(100 + number)), (".txt", b"a caption"), (".cls", b"3")):
                    member = tarfile.TarInfo(f"{name[:5]}{number}{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    coco = {
        "images": [{"id": number, "file_name": f"{number:03d}.png", "height": 8, "width": 12} for number in range(19)],
        "categories": [{"id": 1, "name": "thing", "supercategory": "all"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 2, 2], "segmentation": [[0, 0, 4, 0, 4, 4]]}
            for n in range(19)
        ],
    }
    (folder / "coco.json").write_text(json.dumps(coco))
    rows = "\n".join(f"{number:03d}.png,{number % 7},{'x' if number == 3 else ''}" for number in range(18))
    (folder / "ratings.csv").write_text(f"image,beauty,liking\n{rows}\n")
    return {
        "paths": [str(folder / name) for name in ("photos", "plain.tar", "packed.tar.gz", "coco.json")],
        "ratings": [str(folder / "ratings.csv")],
        "labels": [str(folder / "ratings.csv")],
    }


@pytest.mark.slow
def test_killed_anywhere_and_run_again_it_is_the_same_warehouse(
    tmp_path: Path, warehouse: Path, driver: Path, everything: dict[str, list[str]], dump: Dump
) -> None:
    undisturbed = shutil.copytree(warehouse, tmp_path / "undisturbed.glasshouse")
    n_calls = int(run_driver(driver, "one", undisturbed, json.dumps(everything), "0")[-1])
    assert n_calls > 100
    rng = random.Random(5)
    points = [1, 2, n_calls - 1, *(rng.randrange(1, n_calls) for _ in range(5))]
    roots = [shutil.copytree(warehouse, tmp_path / f"{number}.glasshouse") for number in range(len(points))]
    plan = [(str(root), point) for root, point in zip(roots, points, strict=True)]
    statuses = [line.split()[-1] for line in run_driver(driver, "many", json.dumps(plan), json.dumps(everything))]
    assert statuses == ["9", "0"] * len(points)  # killed, then well
    expected = dump(undisturbed)
    assert all(expected[name] for name in ("images", "image_paths", "failures", "rejected_rows", "ratings"))
    for root, point in plan:
        assert dump(Path(root)) == expected, f"killed at call {point} of {n_calls}"
        assert not list(Path(root).glob("cache/.*"))


def test_killed_at_any_time_too(
    tmp_path: Path, warehouse: Path, driver: Path, everything: dict[str, list[str]], dump: Dump
) -> None:
    """From outside, wherever its threads and DuckDB happen to be."""
    undisturbed = shutil.copytree(warehouse, tmp_path / "undisturbed.glasshouse")
    command = [sys.executable, str(driver), "one"]
    began = time.monotonic()
    run_driver(driver, "one", undisturbed, json.dumps(everything), "0")
    took = time.monotonic() - began
    rng = random.Random(6)
    for _ in range(2):
        process = subprocess.Popen([*command, str(warehouse), json.dumps(everything), "0"], stdout=subprocess.DEVNULL)
        time.sleep(took * rng.uniform(0.3, 1.0))
        process.kill()
        process.wait()
    run_driver(driver, "one", warehouse, json.dumps(everything), "0")
    assert dump(warehouse) == dump(undisturbed)


def test_two_processes_at_once_give_every_picture_its_own_number(
    tmp_path: Path, warehouse: Path, driver: Path, write_png: Write, query: Callable[..., list[Any]]
) -> None:
    for number in range(42):
        write_png(tmp_path / ("even" if number % 2 else "odd") / f"{number:02d}.png", number // 3)
    processes = [
        subprocess.Popen(
            [sys.executable, driver, "one", warehouse, json.dumps({"paths": [str(tmp_path / name)]}), "0"],
            stdout=subprocess.DEVNULL,
        )
        for name in ("even", "odd")
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert query("SELECT image_id FROM images ORDER BY image_id") == list(range(14))
    found = query("SELECT p.path, i.sha256 FROM image_paths p JOIN images i USING (image_id)")
    assert len(found) == 42
    assert all(hashlib.sha256(Path(path).read_bytes()).hexdigest() == sha256 for path, sha256 in found)


def test_a_full_disk_is_a_clear_error_and_loses_nothing(
    tmp_path: Path, warehouse: Path, driver: Path, write_png: Write, query: Callable[..., list[Any]], dump: Dump
) -> None:
    """A limit on the size of files stands for the disk: writing past it fails as on a full one."""
    for number in range(20):
        write_png(tmp_path / "p" / f"{number:02d}.png", number)
    rng = random.Random(1)
    rows = (f"{number % 20:02d}.png,d{number},{rng.random()}" for number in range(60_000))
    (tmp_path / "r.csv").write_text("image,dimension,value\n" + "\n".join(rows) + "\n")
    run_driver(driver, "one", warehouse, json.dumps({"paths": [str(tmp_path / "p")]}), "0")
    before = dump(warehouse)
    limit = (warehouse / "catalog.duckdb").stat().st_size
    output = run_driver(
        driver, "one", warehouse, json.dumps({"paths": [], "ratings": [str(tmp_path / "r.csv")]}), str(limit)
    )
    assert output[0].startswith("WarehouseError: Could not write") and "free some space" in output[0]
    assert len(output) == 2
    assert dump(warehouse) == before
    run_driver(driver, "one", warehouse, json.dumps({"paths": [], "ratings": [str(tmp_path / "r.csv")]}), str(10**12))
    assert query("SELECT count(*) FROM ratings") == [60_000]


@contextmanager
def without_root() -> Iterator[None]:
    """Permissions do not bind root: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_warehouse_is_a_clear_error(
    warehouse: Path, write_png: Write, run_add: Callable[..., Any], png: Callable[..., bytes]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        outside = Path(name)
        outside.chmod(0o755)
        root = shutil.copytree(warehouse, outside / "w.glasshouse")
        write_png(outside / "p" / "a.png", 1)
        (root / "catalog.duckdb").chmod(0o444)
        root.chmod(0o555)
        with without_root(), pytest.raises(WarehouseError, match=r"Cannot open .*catalog\.duckdb") as caught:
            run_add(outside / "p", root=root)
        root.chmod(0o755)
        assert "\n" not in str(caught.value)


def test_a_read_only_cache_is_a_clear_error(
    warehouse: Path, run_add: Callable[..., Any], png: Callable[..., bytes]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        outside = Path(name)
        root = shutil.copytree(warehouse, outside / "w.glasshouse")
        with tarfile.open(outside / "t.tar.gz", "w:gz") as tar:
            member = tarfile.TarInfo("a.png")
            member.size = len(png(1))
            tar.addfile(member, io.BytesIO(png(1)))
        (root / "cache").mkdir()
        for folder in (outside, root):
            folder.chmod(0o777)
        (root / "cache").chmod(0o555)
        (root / "catalog.duckdb").chmod(0o666)
        with without_root(), pytest.raises(WarehouseError, match=r"Could not write .*check permissions"):
            run_add(outside / "t.tar.gz", root=root)
        (root / "cache").chmod(0o755)
