"""The runner: what is computed, what is not computed twice, what is left when something goes wrong."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from conftest import command as command_line
from conftest import write_pictures

from analysis.conftest import COUNTING_PLUGIN, extract
from glasshouse.schema.errors import PluginError, UsageError
from glasshouse.warehouse.checking.check import check


def done(reports: list[Any]) -> list[tuple[str, bool]]:
    return [(report.analyzer, report.is_new) for report in reports]


def test_a_result_is_a_view_with_its_provenance(analysed: Any) -> None:
    (report,) = analysed.analyze("count", "x", least=12)
    counted = analysed.sql("SELECT feature_id, n FROM count WHERE space = 'x' AND NOT stale ORDER BY 1")
    by_hand = analysed.sql(
        "SELECT feature_id, count(*) AS n FROM activations WHERE space = 'x' GROUP BY 1 HAVING n >= 12 ORDER BY 1"
    )
    assert counted.equals(by_hand) and 0 < counted.height < 24
    run = report.run
    assert (run.analyzer, run.version, run.space, run.seed) == ("count", "1", "x", 0)
    assert run.parameters == {"least": 12, "kind": "plain", "names": [], "share": None, "quick": True, "seed": 0}
    assert run.notes == {"n_kept": counted.height} and run.n_rows == counted.height
    inputs = analysed.sql("SELECT kind, name, state FROM run_inputs").to_dicts()
    fingerprint = analysed.spaces()["fingerprint"][0]
    assert inputs == [{"kind": "space", "name": "x", "state": f"{fingerprint}|30|{by_hand_activations(analysed)}"}]


def by_hand_activations(warehouse: Any) -> int:
    return int(warehouse.sql("SELECT count(*) AS n FROM activations WHERE space = 'x'")["n"][0])


def test_the_same_run_again_does_nothing_and_another_one_does(analysed: Any) -> None:
    assert done(analysed.analyze("count", "x")) == [("count", True)]
    assert done(analysed.analyze("count", "x")) == [("count", False)]
    assert done(analysed.analyze("count", "x", force=True)) == [("count", True)]
    assert done(analysed.analyze("count", "x", least=2)) == [("count", True)]
    # The first parameters again: their rows are there, but the view shows those of the run in between.
    assert done(analysed.analyze("count", "x")) == [("count", True)]
    assert [run.is_latest for run in analysed.runs()] == [False, False, False, True]


def test_facets_stand_side_by_side_and_features_shows_the_newest(analysed: Any) -> None:
    analysed.analyze("count", "x", kind="double")
    analysed.analyze("count", "x", kind="plain")
    both = analysed.sql("SELECT kind, sum(n)::INT AS n FROM count GROUP BY 1 ORDER BY 1").rows()
    total = by_hand_activations(analysed)
    assert both == [("double", 2 * total), ("plain", total)]
    assert analysed.sql("SELECT sum(n)::INT AS n FROM features")["n"][0] == total
    analysed.analyze("count", "x", kind="double", force=True)
    assert analysed.sql("SELECT sum(n)::INT AS n FROM features")["n"][0] == 2 * total


def test_requirements_are_run_first_and_only_when_needed(analysed: Any) -> None:
    assert done(analysed.analyze("directions", "x")) == [("count", True), ("directions", True)]
    assert done(analysed.analyze("directions", "x")) == [("directions", False)]
    vectors = analysed.result_vectors(analysed.runs()[-1])
    assert vectors.vectors_ke.shape == (24, 2) and vectors.vectors_ke[:, 0].tolist() == vectors.feature_ids.tolist()
    assert "vector" not in analysed.sql("FROM directions").columns
    # Another result of what it requires makes it stale.
    analysed.analyze("count", "x", least=12)
    assert [run.is_stale for run in analysed.runs()] == [False, True, False]
    assert done(analysed.analyze("directions", "x")) == [("directions", True)]
    assert len(analysed.result_vectors(analysed.runs()[-1]).feature_ids) < 24


def test_new_images_make_results_stale_all_the_way_down(analysed: Any, pictures: Path) -> None:
    analysed.analyze("directions", "x")
    write_pictures(pictures, 5, first=100)
    analysed.add([pictures])
    assert not any(run.is_stale for run in analysed.runs()), "the space is still the same"
    extract(analysed)
    assert all(run.is_stale for run in analysed.runs())
    assert analysed.sql("SELECT DISTINCT stale FROM count").rows() == [(True,)]
    assert analysed.sql("SELECT DISTINCT stale FROM features").rows() == [(True,)]
    assert done(analysed.analyze("directions", "x")) == [("count", True), ("directions", True)]
    assert [run.is_stale for run in analysed.runs() if run.is_latest] == [False, False]
    assert analysed.sql("SELECT DISTINCT stale FROM features").rows() == [(False,)]


def test_features_shows_the_strongest_of_several_rows(analysed: Any) -> None:
    analysed.analyze("signed", "x")
    rows = analysed.sql("SELECT feature_id, side, size FROM features ORDER BY 1").rows()
    expected = [(f, "left", f - 5.0) if abs(f - 5) > 2 else (f, "right", 2.0) for f in range(24)]
    # At a tie (|f − 5| = 2) either row is right.
    assert all(row == want or abs(row[0] - 5) == 2 for row, want in zip(rows, expected, strict=True))
    assert len(analysed.sql("FROM signed")) == 48


def test_incremental_runs_add_to_each_other(analysed: Any) -> None:
    analysed.analyze("pieces", "x", features=(0, 1, 2), word="old")
    analysed.analyze("pieces", "x", features=(2, 3), word="new")
    expected = [(0, "old"), (1, "old"), (2, "new"), (3, "new")]
    assert analysed.sql("SELECT feature_id, word FROM pieces ORDER BY 1").rows() == expected
    shown = analysed.sql("SELECT feature_id, word FROM features WHERE word IS NOT NULL ORDER BY 1").rows()
    assert shown == expected
    first, second = analysed.runs()
    assert sorted(analysed.result_rows(second).rows()) == expected
    assert sorted(analysed.result_rows(first).rows()) == [(0, "old"), (1, "old"), (2, "old")]
    assert done(analysed.analyze("pieces", "x", features=(0, 1, 2), word="old")) == [("pieces", False)]


def test_attach_sql_shows_the_same_views(analysed: Any) -> None:
    analysed.analyze("directions", "x")
    analysed.analyze("signed", "x")
    with duckdb.connect() as client:
        client.execute((analysed.root / "attach.sql").read_text())
        for view in ("count", "directions", "signed", "features"):
            theirs = client.sql(f"FROM {view}").to_arrow_table().sort_by("feature_id")
            assert theirs.num_rows and theirs.num_rows == len(analysed.sql(f"FROM {view}"))
            assert theirs.column_names == analysed.sql(f"FROM {view}").columns


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "'bad'.*KeyError"),
        ("columns", "declares the columns feature_id, n but gave feature_id, m"),
        ("type", "other types than it declares"),
        ("feature", "rows for features from 24 to 24; the space has 0 to 23"),
        ("twice", "several rows for one feature"),
    ],
)
def test_a_failing_analyzer_is_named_and_leaves_nothing(analysed: Any, how: str, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        analysed.analyze("bad", "x", how=how)
    assert analysed.runs() == []
    with pytest.raises(UsageError, match="bad"):
        analysed.sql("FROM bad")


def test_spaces_that_do_not_fit_are_left_out_unless_they_are_named(analysed: Any) -> None:
    from kit.patch_space import make_patch_space

    values = np.ones((30, 4, 3), dtype=np.float32)
    values[:15, :, 1] = 0
    with pytest.raises(UsageError, match="'impurity' needs patches, and the space 'x'"):
        analysed.analyze("impurity")
    make_patch_space(analysed, "w", values, (2, 2))
    reports = analysed.analyze("cooccurrence")
    assert [(report.space, report.run is None) for report in reports] == [("w", False), ("x", True)]
    assert "the space 'x' holds one vector per image. Name another with --space" in reports[1].left_out
    for space, words in (("x", r"^'hierarchy' reads the result of 'cooccurrence', which .* the space 'x'"), ("q", "q")):
        with pytest.raises(UsageError, match=words):
            analysed.analyze("hierarchy", space)
    with pytest.raises(UsageError, match="'impurity' fits none of the spaces w, x"):
        analysed.analyze("impurity")
    with pytest.raises(UsageError, match="--cover"):
        analysed.analyze("impurity", cover=-1)


def test_wrong_requests_say_what_there_is(analysed: Any) -> None:
    with pytest.raises(UsageError, match=r"no analyzer 'cuont'. Did you mean 'count'"):
        analysed.analyze("cuont", "x")
    with pytest.raises(UsageError, match="no space 'y'"):
        analysed.analyze("count", "y")
    with pytest.raises(UsageError, match=r"--least: .*greater than or equal to 0"):
        analysed.analyze("count", "x", least=-1)
    with pytest.raises(UsageError, match=r"has no parameter 'leats'. It has: least"):
        analysed.analyze("count", "x", leats=1)
    with pytest.raises(UsageError, match="glasshouse add"):
        analysed.analyze("bad", "x", how="impossible")
    assert analysed.runs() == []


def test_a_changed_table_is_refused_until_forgotten(analysed: Any, plugins: Any) -> None:
    import pyarrow as pa

    analysed.analyze("count", "x")
    counting = plugins.analyzers.get("count")
    with pytest.MonkeyPatch.context() as patch:
        wider = pa.schema([*counting.schema, ("more", pa.float64())])
        patch.setattr(type(counting), "schema", wider)
        patch.setattr(type(counting), "version", "2")
        original = type(counting).run
        patch.setattr(type(counting), "run", lambda s, v, p: original(s, v, p).append_column("more", [[1.5] * 24]))
        (report,) = analysed.analyze("count", "x")
        assert report.is_new and report.run.version == "2"
        assert analysed.sql("SELECT DISTINCT more FROM count").rows() == [(1.5,)]
    with pytest.raises(PluginError, match=r"now fills other columns.*glasshouse forget count"):
        analysed.analyze("count", "x")
    assert len(analysed.runs()) == 2
    analysed.forget(analysed.runs())
    assert done(analysed.analyze("count", "x")) == [("count", True)]


def test_forgetting_and_dropping_leave_nothing_behind(analysed: Any) -> None:
    analysed.analyze("directions", "x")
    vectors = analysed.root / "vectors" / "results"
    assert list(vectors.iterdir())
    analysed.forget([run for run in analysed.runs() if run.analyzer == "count"])
    assert [(run.analyzer, run.is_stale) for run in analysed.runs()] == [("directions", True)]
    analysed.drop("space", "x")
    assert analysed.runs() == [] and not vectors.exists()
    assert check(analysed.layout).remaining == []


def test_check_finds_and_mends_damaged_results(analysed: Any) -> None:
    analysed.analyze("directions", "x")
    folder = analysed.root / "vectors" / "results"
    (table,) = folder.iterdir()
    stray = folder / "directions-0123456789abcdef.lance"
    table.rename(stray)
    found = {problem.where: problem.what for problem in check(analysed.layout).remaining}
    assert found["run 2 of 'directions'"] == "its vectors are missing"
    assert found[f"vectors/results/{stray.name}"] == "left by an analysis that was interrupted"
    check(analysed.layout, repair=True)
    assert check(analysed.layout).remaining == [] and [run.analyzer for run in analysed.runs()] == ["count"]
    with analysed.catalogue.writing() as connection:
        connection.execute("DELETE FROM results.count WHERE feature_id = 3")
    (problem,) = check(analysed.layout).remaining
    assert problem.what == "its record says 24 rows, there are 23"


def test_nobody_holds_the_catalogue_while_computing_and_ctrl_c_leaves_nothing(analysed: Any, tmp_path: Path) -> None:
    words = [*command_line(), "--plugin", str(COUNTING_PLUGIN), "analyze", "count", "--no-quick"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lock = analysed.layout.lock_file("analysis", "count-x").with_suffix(".holder")
    deadline = time.monotonic() + 60
    while not lock.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    with duckdb.connect(str(analysed.layout.catalogue)) as connection:  # for writing: fails while anyone holds it
        connection.execute("CREATE TABLE proof (n INTEGER)")
        connection.execute("DROP TABLE proof")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130 and "Stopped." in complaint and "Traceback" not in complaint
    assert analysed.runs() == []


def test_two_at_once_compute_once(analysed: Any) -> None:
    reports: list[Any] = []
    threads = [threading.Thread(target=lambda: reports.extend(analysed.analyze("count", "x"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.is_new for report in reports) == [False, True]
    assert len(analysed.runs()) == 1


def test_a_killed_commit_leaves_vectors_that_check_removes(analysed: Any, tmp_path: Path, driver: Any) -> None:
    """Killed after the vectors and before the record: no run, and a stray table that is found."""
    analysed.analyze("count", "x")
    analysed.close()
    from conftest import TOY_PLUGIN

    words = ["--plugin", str(TOY_PLUGIN), "--plugin", str(COUNTING_PLUGIN), "analyze", "directions"]
    killed = driver.run(words, tmp_path, die_at=("glasshouse.warehouse.results.store", "write_vectors", True))
    assert killed.returncode == -9
    assert [run.analyzer for run in analysed.runs()] == ["count"]
    (problem,) = check(analysed.layout, repair=True).repaired
    assert "interrupted" in problem.what
    assert done(analysed.analyze("directions", "x")) == [("directions", True)]
    assert check(analysed.layout).remaining == []


def test_sql_reads_are_noted_as_inputs(analysed: Any) -> None:
    from glasshouse.plugins.view import AnalysisView

    analysed.analyze("count", "x")
    for query, expected in (
        ("SELECT 1 AS one", {("space", "x")}),
        ("SELECT n_active FROM features", {("space", "x")}),
        ("SELECT n FROM features", {("space", "x"), ("run", 'count|x|{"kind":"plain"}')}),
        ("WITH q AS (FROM ratings) SELECT * FROM q JOIN Count USING (n)", None),
        ("SELECT image_id FROM images JOIN captions USING (image_id)",
         {("space", "x"), ("table", "images"), ("table", "captions")}),
    ):  # fmt: skip
        view = AnalysisView(analysed, "x")
        if expected is None:
            inputs = set(analysed.inputs_of(query))
            assert inputs == {("table", "ratings"), ("run", 'count|x|{"kind":"plain"}')}
            continue
        view.sql(query)
        assert {(given.kind, given.name) for given in view.inputs()} == expected, query


def test_a_change_while_computing_makes_the_result_stale(analysed: Any, pictures: Path, plugins: Any) -> None:
    counting = plugins.analyzers.get("count")
    original = type(counting).run

    def run_slowly(self: Any, view: Any, parameters: Any) -> Any:
        table = original(self, view, parameters)
        write_pictures(pictures, 3, first=300)
        analysed.add([pictures])
        extract(analysed)
        return table

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(counting), "run", run_slowly)
        analysed.analyze("count", "x")
    assert [run.is_stale for run in analysed.runs()] == [True]


def test_changed_ratings_make_what_read_them_stale(analysed: Any, tmp_path: Path) -> None:
    table = tmp_path / "ratings.csv"
    table.write_text("image,beauty\n00001.png,3\n00002.png,4\n")
    analysed.add(ratings=[table])
    from glasshouse.warehouse.results.inputs import current_input

    before = current_input(analysed.catalogue, "table", "ratings")
    analysed.add(ratings=[table])
    assert current_input(analysed.catalogue, "table", "ratings") == before
    table.write_text("image,beauty\n00001.png,3\n00002.png,5\n")
    analysed.add(ratings=[table])
    assert current_input(analysed.catalogue, "table", "ratings") != before


def test_a_changed_file_is_read_again(analysed: Any, tmp_path: Path) -> None:
    file = tmp_path / "word.txt"
    file.write_text("first")
    assert done(analysed.analyze("pieces", "x", file=file)) == [("pieces", True)]
    assert done(analysed.analyze("pieces", "x", file=file)) == [("pieces", False)]
    file.write_text("second")
    assert done(analysed.analyze("pieces", "x", file=file)) == [("pieces", True)]
    assert analysed.sql("SELECT word FROM pieces").rows() == [("second",)]
    file.unlink()
    with pytest.raises(PluginError, match="FileNotFoundError"):
        analysed.analyze("pieces", "x", file=file)


def test_all_renews_what_is_stale_as_it_was_and_leaves_the_rest(analysed: Any, pictures: Path, plugins: Any) -> None:
    def run_all() -> list[tuple[str, bool]]:
        reports = list(plugins.runner(analysed).run_all("x"))
        return [(r.analyzer, r.is_new) for r in reports if r.run is not None and r.analyzer in ("count", "pieces")]

    analysed.analyze("count", "x", kind="double")
    analysed.analyze("count", "x", least=12)
    assert run_all() == [("count", False), ("pieces", True)]
    assert run_all() == [("count", False), ("pieces", False)]
    write_pictures(pictures, 5, first=100)
    analysed.add([pictures])
    extract(analysed)
    assert run_all() == [("count", True), ("count", True), ("pieces", True)]
    counts = [run for run in analysed.runs() if run.analyzer == "count" and run.is_latest]
    assert [(run.facets["kind"], run.parameters["least"], run.is_stale) for run in counts] == [
        ("double", 0, False),
        ("plain", 12, False),
    ]


def test_what_asks_a_service_is_left_out_of_all_and_what_is_incomplete_goes_on(analysed: Any, plugins: Any) -> None:
    def of_pieces() -> Any:
        return next(r for r in plugins.runner(analysed).run_all("x") if r.analyzer == "pieces")

    pieces = type(plugins.analyzers.get("pieces"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "asks_a_service", lambda self, view, parameters: True)
        assert "can cost money; run `glasshouse analyze pieces` yourself" in of_pieces().left_out
        original = pieces.run

        def run_half(self: Any, view: Any, parameters: Any) -> Any:
            view.note(incomplete="half of it")
            return original(self, view, parameters)

        patch.setattr(pieces, "run", run_half)
        assert done(analysed.analyze("pieces", "x")) == [("pieces", True)]
        patch.setattr(pieces, "run", original)
        assert done(analysed.analyze("pieces", "x")) == [("pieces", True)], "the first one was incomplete"
        assert done(analysed.analyze("pieces", "x")) == [("pieces", False)]
        assert of_pieces().left_out == "" and not of_pieces().is_new


def test_runs_that_add_to_each_other_count_while_a_row_of_theirs_does(analysed: Any, command: Any) -> None:
    for number in range(3):
        analysed.analyze("pieces", "x", features=(number, 9), word=f"w{number}")
    assert [run.is_latest for run in analysed.runs()] == [True, True, True]
    analysed.analyze("pieces", "x", features=(0,), word="again")
    assert [run.is_latest for run in analysed.runs()] == [False, True, True, True]
    before = analysed.sql("SELECT feature_id, word FROM pieces ORDER BY 1").rows()
    assert command("forget", "pieces", "--old", "--yes").stdout == "Forgot 1 run.\n"
    assert analysed.sql("SELECT feature_id, word FROM pieces ORDER BY 1").rows() == before and len(before) == 4


def test_features_says_of_each_row_whether_it_is_stale(analysed: Any, pictures: Path) -> None:
    analysed.analyze("pieces", "x", features=(0, 1), word="old")
    write_pictures(pictures, 5, first=100)
    analysed.add([pictures])
    extract(analysed)
    analysed.analyze("pieces", "x", features=(1, 2), word="new")
    shown = analysed.sql("SELECT feature_id, word, stale FROM features WHERE feature_id < 4 ORDER BY 1").rows()
    assert shown == [(0, "old", True), (1, "new", False), (2, "new", False), (3, None, False)]


def test_another_newest_result_makes_what_read_it_stale(analysed: Any) -> None:
    analysed.analyze("directions", "x")
    analysed.analyze("count", "x", kind="double")
    assert [run.is_stale for run in analysed.runs() if run.analyzer == "directions"] == [True]


def test_a_run_that_takes_anothers_place_says_so(analysed: Any, command: Any) -> None:
    command("analyze", "count", "--least", "3")
    said = command("analyze", "count", "--seed", "4").stdout
    assert "; in place of run 1, which had least=3, seed=0" in said
    assert "in place" not in command("analyze", "count", "--seed", "4", "--force").stdout
    assert "in place" not in command("analyze", "count", "--kind", "double").stdout


def test_a_file_in_the_warehouse_is_found_wherever_one_stands(analysed: Any, command: Any, tmp_path: Path) -> None:
    from glasshouse.plugins.view import AnalysisView

    inside = analysed.root / "word.txt"
    inside.write_text("inside")
    view = AnalysisView(analysed, "x")
    assert view.portable("word.txt") == view.portable(inside) == "word.txt" and view.file("word.txt") == inside
    outside = tmp_path / "outside.txt"
    outside.write_text("outside")
    assert view.portable(outside) == str(outside) and view.portable("nowhere.txt") == "nowhere.txt"
    assert [given.name for given in view.inputs() if given.kind == "file"] == ["word.txt"]


def test_what_cannot_be_renewed_as_it_was_says_how_to_go_on(analysed: Any, plugins: Any) -> None:
    analysed.analyze("pieces", "x")
    pieces = type(plugins.analyzers.get("pieces"))
    with pytest.MonkeyPatch.context() as patch:

        def refuse(self: Any, view: Any, parameters: Any) -> Any:
            raise UsageError("There is no embedding 'gone'.")

        patch.setattr(pieces, "resolve", refuse)
        (report,) = [r for r in plugins.runner(analysed).run_all("x") if r.analyzer == "pieces"]
    assert report.left_out == (
        "There is no embedding 'gone'. That is how it was run before; "
        "`glasshouse analyze pieces` runs it with defaults."
    )
