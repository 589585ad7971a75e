"""The real command line, in processes of its own, on right and on wrong input."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from conftest import TOY_PLUGIN

EXTRACT = ("extract", "--encoder", "toy:0", "--space", "cls", "--hook", "blocks.0.resid_post", "--embed", "toy")


@pytest.fixture
def filled(glasshouse: Any, pictures: Path, tmp_path: Path) -> Path:
    """Return a warehouse that was made with the command line alone; it is the only one in its folder."""
    assert glasshouse("init", "w.glasshouse").returncode == 0
    assert glasshouse("add", "pictures").stdout == "30 new images\n"
    assert glasshouse(*EXTRACT).stdout == "cls: 30 new images\ntoy: 30 new images\n"
    return tmp_path / "w.glasshouse"


def test_the_way_of_a_new_user(filled: Path, glasshouse: Any) -> None:
    assert glasshouse(*EXTRACT).stdout == "cls: up to date\ntoy: up to date\n"
    assert glasshouse("embed", "--encoder", "toy:1").stdout == "toy-1: 30 new images\n"
    status = glasshouse("status")
    assert "30 images" in status.stdout and "toy:0" in status.stdout and "ready" in status.stdout
    parsed = json.loads(glasshouse("status", "--json").stdout)
    assert parsed["tables"]["images"] == 30 and parsed["spaces"][0]["state"] == "ready"
    assert glasshouse("check").stdout == "w.glasshouse is in order.\n"
    assert json.loads(glasshouse("check", "--json").stdout) == {"repaired": [], "remaining": []}
    assert glasshouse("drop", "space", "cls", "--yes").returncode == 0
    assert "cls" not in glasshouse("status").stdout
    assert glasshouse("check").returncode == 0


QUERY = "SELECT image_id, path, 0.5 AS half, NULL AS nothing, [1, 2] AS list FROM images ORDER BY image_id"


def test_sql_formats_hold_the_same_rows(filled: Path, glasshouse: Any, tmp_path: Path) -> None:
    expected = [(i, f"pictures/{i:05d}.png") for i in range(30)]

    def short(rows: Any) -> list[tuple[int, str]]:
        return [(int(i), path[-18:]) for i, path in rows]

    rows = list(csv.DictReader(io.StringIO(glasshouse("sql", QUERY, "--format", "csv").stdout)))
    assert short((r["image_id"], r["path"]) for r in rows) == expected
    assert rows[0]["half"] == "0.5" and rows[0]["nothing"] == "" and rows[0]["list"] == "[1, 2]"
    objects = json.loads(glasshouse("sql", QUERY, "--format", "json").stdout)
    assert short((r["image_id"], r["path"]) for r in objects) == expected
    assert objects[0]["nothing"] is None and objects[0]["list"] == [1, 2]
    for name in ("out.parquet", "out.arrow", "out.json", "out.csv", "out.txt"):
        done = glasshouse("sql", QUERY, "-o", name)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    for table in (pq.read_table(tmp_path / "out.parquet"), pyarrow.feather.read_table(tmp_path / "out.arrow")):
        assert short(zip(table["image_id"].to_pylist(), table["path"].to_pylist(), strict=True)) == expected
    assert json.loads((tmp_path / "out.json").read_text()) == objects
    printed = glasshouse("sql", QUERY).stdout.splitlines()
    assert len(printed) == 31 and "image_id" in printed[0]
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 31
    assert sorted(path.name for path in tmp_path.iterdir() if "tmp" in path.name) == []


def test_sql_reads_files_stdin_and_parameters(filled: Path, glasshouse: Any, tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("SELECT count(*) AS n FROM images WHERE image_id < $top")
    assert glasshouse("sql", "-f", "q.sql", "-p", "top=7", "--format", "csv").stdout == "n\n7\n"
    assert glasshouse("sql", "-", "--format", "csv", input="SELECT 1 AS a").stdout == "a\n1\n"
    assert glasshouse("sql", "SELECT 1 AS a WHERE false", "--format", "csv").stdout == "a\n"
    assert glasshouse("sql", "SELECT 1 AS a WHERE false", "--format", "json").stdout == "[]\n"


def test_sql_of_awkward_values(filled: Path, glasshouse: Any) -> None:
    query = (
        "SELECT 'nan'::DOUBLE AS nan, DATE '2020-02-03' AS day, {'a': 1, 'b': [2]} AS nested, "
        "'two\nlines, \"quoted\"' AS text, 1.50::DECIMAL(5, 2) AS decimal, 2::HUGEINT AS huge, '[red]x[/red]' AS markup"
    )
    row = json.loads(glasshouse("sql", query, "--format", "json").stdout)[0]
    assert row["nan"] is None and row["day"] == "2020-02-03" and row["nested"] == {"a": 1, "b": [2]}
    assert row["text"] == 'two\nlines, "quoted"'
    back = next(csv.DictReader(io.StringIO(glasshouse("sql", query, "--format", "csv").stdout)))
    assert back["text"] == 'two\nlines, "quoted"' and json.loads(back["nested"]) == {"a": 1, "b": [2]}
    assert "[red]x[/red]" in glasshouse("sql", query).stdout


def test_sql_of_names_twice_and_types_without_a_form(filled: Path, glasshouse: Any, tmp_path: Path) -> None:
    query = "SELECT 1 AS a, 2 AS a, 'ab'::BLOB AS b, '101'::BIT AS bit, INTERVAL 3 DAY AS i"
    expected = {"a": 1, "a_1": 2, "b": "6162", "i": "0 months 3 days 0 seconds"}
    row = json.loads(glasshouse("sql", query, "--format", "json").stdout)[0]
    assert {name: row[name] for name in expected} == expected
    csv_row = next(csv.DictReader(io.StringIO(glasshouse("sql", query, "--format", "csv").stdout)))
    assert csv_row["a_1"] == "2" and csv_row["b"] == "6162"
    for name in ("x.parquet", "x.arrow"):
        assert glasshouse("sql", query, "-o", name).stderr == ""
    assert pq.read_table(tmp_path / "x.parquet").to_pylist()[0]["i"] == expected["i"]


def test_sql_that_fails_late_and_sql_that_never_ends(filled: Path, glasshouse: Any) -> None:
    late = "SELECT CASE WHEN i = 300000 THEN 'z' ELSE '1' END::INT AS n FROM range(400000) t(i)"
    for words in ((), ("--format", "csv")):
        done = glasshouse("sql", late, *words)
        assert done.returncode == (0 if not words else 2), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    endless = glasshouse("sql", "FROM range(1000000000000)")
    assert len(endless.stdout.splitlines()) == 1001 and "more than 1,000 rows" in endless.stderr


def test_parameters_keep_their_text(filled: Path, glasshouse: Any) -> None:
    for value, kind in (
        ("7", "INTEGER"),
        ("007", "VARCHAR"),
        ("1_000", "VARCHAR"),
        ("nan", "VARCHAR"),
        ("1.5", "DOUBLE"),
    ):
        done = glasshouse("sql", "SELECT $x::VARCHAR AS x, typeof($x) AS kind", "-p", f"x={value}", "--format", "csv")
        assert done.stdout == f"x,kind\n{value},{kind}\n"


def test_a_plugin_s_command_that_fails_is_one_line(filled: Path, glasshouse: Any, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(
        "from glasshouse.plugins import hookimpl\n@hookimpl\ndef register_commands(cli):\n"
        "    @cli.command()\n    def fail():\n        1 / 0\n"
    )
    done = glasshouse("--plugin", "fails.py", "fail")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "ZeroDivisionError" in done.stderr
    assert "Traceback" in glasshouse("--plugin", "fails.py", "fail", GLASSHOUSE_DEBUG="1").stderr


def test_a_table_given_by_mistake_does_not_hide_pictures(filled: Path, glasshouse: Any, tmp_path: Path) -> None:
    """Its absent files become failures; rows that name pictures in another folder still find them."""
    (tmp_path / "ratings.csv").write_text("image,beauty\n00000.png,3\n00001.png,4\n")
    assert "2 of 2 rows used" in glasshouse("add", "--ratings", "ratings.csv").stdout
    assert "2 unusable" in glasshouse("add", "ratings.csv", "--image-root", ".").stdout
    assert "2 of 2 rows used" in glasshouse("add", "--ratings", "ratings.csv").stdout
    assert glasshouse("sql", "SELECT count(*) AS n FROM ratings", "--format", "csv").stdout == "n\n2\n"


def test_one_address_that_nothing_reads_does_not_stop_the_others(filled: Path, glasshouse: Any, tmp_path: Path) -> None:
    (tmp_path / "mixed.csv").write_text("path\nnosuch://host/x.png\npictures/00000.png\npictures/00001.png\n")
    done = glasshouse("add", "mixed.csv")
    assert done.returncode == 0 and "2 known already, 1 unusable" in done.stdout, done.stderr
    assert "the protocol 'nosuch' is unknown" in glasshouse("sql", "FROM failures").stdout


def test_a_demo_never_shrinks(tmp_path: Path, glasshouse: Any) -> None:
    """Stopped at once, before anything is extracted: worlds and tables are what counts here."""
    from glasshouse.plugins.manager import Plugins
    from glasshouse.plugins.starter.demo import build_demo

    def n_images_of_demo(n_images: int) -> int:
        report = build_demo(
            tmp_path / "d.glasshouse", n_images, 0, Plugins(external=False), lambda name: lambda done, total: None,
            stop=lambda: True,
        )  # fmt: skip
        assert report.stopped
        return int(report.warehouse.sql("SELECT count(DISTINCT image_id) AS n FROM image_labels")["n"][0])

    assert [n_images_of_demo(n) for n in (40, 20, 50)] == [40, 40, 50]
    other = glasshouse("demo", "--dir", str(tmp_path / "d.glasshouse"), "--seed", "1")
    assert other.returncode == 2 and "made with --seed 0" in other.stderr


def test_a_failing_query_leaves_no_file(filled: Path, glasshouse: Any, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("before")
    done = glasshouse("sql", "SELECT error('stop') FROM images", "-o", "out.csv")
    assert done.returncode == 2 and "stop" in done.stderr
    assert (tmp_path / "out.csv").read_text() == "before"
    assert list(tmp_path.glob(".out*")) == []


def test_a_reader_that_has_seen_enough(filled: Path) -> None:
    glasshouse = f"{sys.executable} -c 'from glasshouse.cli.main import run; run()'"
    words = f"{glasshouse} sql 'FROM range(1000000)' --format csv | head -2"
    done = subprocess.run(words, shell=True, cwd=filled.parent, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("range\n0\n", "")


WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("status", "-w", "none"), 1, "none is not a warehouse: it does not exist. Create one with `glasshouse init none`"),
    (("sql", "SELEC 1"), 2, "syntax error"),
    (("sql", "DROP TABLE images"), 2, "read-only"),
    (("sql", "FROM imags"), 2, 'Did you mean "images'),
    (("sql", ""), 2, "The query is empty"),
    (("sql",), 2, "Give a query"),
    (("sql", "SELECT $x"), 2, "x"),
    (("sql", "SELECT 1", "-o", "x.docx"), 2, "names no format"),
    (("sql", "SELECT 1", "-o", "no/such/folder.csv"), 2, "There is no folder no/such for folder.csv."),
    (("sql", "SELECT 1", "-p", "novalue"), 2, "NAME=VALUE"),
    (("add", "absent"), 1, "There is no file or folder"),
    (("add",), 2, "Nothing to add"),
    (("extract",), 2, "Give --preset NAME, or --encoder"),
    (("extract", "--preset", "prisma"), 2, "Did you mean 'prisma-clip-b32'"),
    (("extract", "--encoder", "toy:0", "--space", "x", "--hook", "blocks.7"), 2, "no hook point 'blocks.7'"),
    (("extract", "--encoder", "toy:0", "--space", "x", "--hook", "blocks.0.resid_post", "--tokens", "all"), 2,
     "no token policy 'all'"),
    (("extract", "--encoder", "toy:0", "--space", "a", "--space", "b", "--space", "c", "--hook", "x", "--hook", "y"), 2,
     "--hook is given 2 times for 3 spaces"),
    (("extract", "--encoder", "toy:0", "--space", "x", "--hook", "blocks.0.resid_post", "--sae", "pictures"), 1,
     "holds no SAE"),
    (("extract", "--encoder", "toy:1", "--space", "cls", "--hook", "blocks.0.resid_post"), 2,
     "glasshouse drop space cls"),
    (("embed", "--encoder", "nothing"), 2, "neither a folder nor a spec"),
    (("import", "features", "absent.npz", "--space", "x"), 1, "There is no file"),
    (("drop", "space", "nothing", "--yes"), 2, "no space 'nothing'"),
    (("frobnicate",), 2, "No such command 'frobnicate'"),
    (("demo", "--dir", "pictures"), 1, "no empty folder"),
]  # fmt: skip


def test_wrong_input_ends_in_one_clear_line(filled: Path, glasshouse: Any) -> None:
    for words, code, message in WRONG:
        done = glasshouse(*words)
        assert done.returncode == code, (words, done.stderr)
        assert message in done.stderr, (words, done.stderr)
        assert "Traceback" not in done.stderr and done.stdout == "", (words, done.stderr)
        if code == 1:
            assert done.stderr.startswith("glasshouse: ") and done.stderr.count("\n") == 1, done.stderr


def test_a_newer_warehouse_is_refused(filled: Path, glasshouse: Any) -> None:
    with duckdb.connect(str(filled / "catalog.duckdb")) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (999, 'later', now()::TIMESTAMP)")
    done = glasshouse("status")
    assert done.returncode == 1 and "pip install --upgrade glasshouse" in done.stderr


def test_strict_and_not(filled: Path, glasshouse: Any, pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(b"no picture")
    lenient = glasshouse("add", "pictures")
    assert lenient.returncode == 0 and "1 unusable" in lenient.stdout
    assert glasshouse("add", "pictures", "--strict").returncode == 1
    assert glasshouse("sql", "SELECT count(*) AS n FROM failures", "--format", "csv").stdout == "n\n1\n"


def test_import_from_the_command_line(filled: Path, glasshouse: Any, tmp_path: Path) -> None:
    (tmp_path / "acts.json").write_text(json.dumps({"00000.png": {"3": 0.5}, "nowhere.png": {"1": 1}}))
    done = glasshouse("import", "features", "acts.json", "--space", "mine", "--n-features", "10")
    assert done.returncode == 0 and "1 new image of 2 given" in done.stdout and "nowhere.png" in done.stdout
    pl.DataFrame({"image": ["00000", "00001"], "vector": [[1.0, 2.0], [3.0, 4.0]]}).write_parquet(
        tmp_path / "v.parquet"
    )
    assert json.loads(glasshouse("import", "embeddings", "v.parquet", "--name", "v", "--json").stdout)["n_new"] == 2


def test_help_and_sql_answer_quickly(filled: Path, glasshouse: Any) -> None:
    """No time is asserted (machines differ): what must not be imported is not."""
    code = (
        "import sys; from glasshouse.cli import main; sys.argv = ['glasshouse', *{words}];\n"
        "main.exit_code(); print(sorted({{'torch', 'lancedb', 'transformers', 'timm', 'open_clip', 'polars', 'scipy', "
        "'pyarrow', 'duckdb', 'numpy'}} & set(sys.modules)), file=sys.stderr)"
    )
    for words, allowed in ((["--help"], set()), (["sql", "SELECT 1"], {"duckdb", "pyarrow", "numpy"})):
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code.format(words=words)],
            cwd=filled.parent,
            capture_output=True,
            text=True,
            timeout=60,
        )
        loaded = set(json.loads(done.stderr.splitlines()[-1].replace("'", '"')))
        assert loaded <= allowed, f"{words} imports {loaded - allowed} ({time.monotonic() - started:.1f} s)"


def test_a_full_disk_in_the_middle_of_an_extraction(filled: Path, glasshouse: Any) -> None:
    """A limit on the size of files stands in for a disk without space: writes beyond it fail the same way."""
    words = ("extract", "--encoder", "toy:0", "--space", "full", "--hook", "blocks.0.resid_post", "--tokens", "patches")
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        "sys.argv = ['glasshouse', *{words}]; from glasshouse.cli.main import run; run()"
    )
    said = set()
    for limit in (1_000, 20_000, 300_000):
        code = limited.format(limit=limit, words=["--plugin", str(TOY_PLUGIN), *words])
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=filled.parent, capture_output=True, text=True, timeout=60
        )
        said.add((done.returncode, done.stderr.count("\n")))
        assert "Traceback" not in done.stderr and done.returncode in (0, 1), done.stderr
        assert done.returncode == 0 or "run the same command again" in done.stderr, done.stderr
    assert (1, 1) in said
    assert glasshouse(*words).returncode == 0
    assert glasshouse("sql", "SELECT count(*) AS n FROM images", "--format", "csv").stdout == "n\n30\n"
    assert glasshouse("check").returncode == 0


def test_a_read_only_warehouse(filled: Path, glasshouse: Any, pictures: Path) -> None:
    """Nothing can be written, and that is said in one line; reading goes on."""
    from conftest import write_pictures

    write_pictures(pictures, 2, first=900)
    with read_only(filled):
        done = glasshouse("add", "pictures")
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert "permission" in done.stderr.lower() or "read-only" in done.stderr.lower(), done.stderr
        assert glasshouse("sql", "SELECT count(*) AS n FROM images", "--format", "csv").stdout == "n\n30\n"
        assert glasshouse("status").returncode == 0
        assert glasshouse("check").returncode == 0
    assert glasshouse("add", "pictures").stdout.startswith("2 new images")


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder and all below read-only, for root too: by a read-only mount where permissions do not bind."""
    if os.geteuid() == 0:
        mount = subprocess.run(["mount", "--bind", "-o", "ro", folder, folder], capture_output=True, text=True)
        if mount.returncode != 0:
            pytest.skip(f"root without the right to mount: {mount.stderr.strip()}")
        try:
            yield
        finally:
            subprocess.run(["umount", folder], check=True)
        return
    everything = [folder, *folder.rglob("*")]
    for path in everything:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        yield
    finally:
        for path in everything:
            path.chmod(0o700 if path.is_dir() else 0o600)
