"""The cheap benchmarks run and give whole rows; their times are nobody's business here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from benchmarks import synthetic, table
from benchmarks.__main__ import main
from benchmarks.storage import table_bytes

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    return main(
        [
            "storage",
            "queries",
            "clarity",
            "correlation",
            "cooccurrence",
            "locality",
            "probe",
            "training",
            "search",
            "truth",
            "startup",
            "--quick",
        ]
    )


def test_every_benchmark_gives_rows_with_a_figure(rows: list[Any]) -> None:
    assert {row.benchmark for row in rows} == {
        "finalise",
        "size",
        "queries",
        "clarity",
        "correlation",
        "cooccurrence",
        "locality",
        "probe",
        "training",
        "search",
        "truth",
        "startup",
    }
    for row in rows:
        assert row.what and any(character.isdigit() for character in row.measured), row
        assert (row.met is None) == (row.target == ""), row
        assert row.ratio is None or row.ratio > 0, row
        assert row.benchmark != "finalise" or row.ratio is not None, row


def test_sizes_hold_on_small_spaces_too(rows: list[Any]) -> None:
    sizes = [row for row in rows if row.benchmark == "size" and row.target]
    assert len(sizes) == 3 and all(row.met for row in sizes)


def test_the_table_lines_up_and_replaces_its_block_in_the_document(rows: list[Any], tmp_path: Path) -> None:
    lines = table.aligned([row.cells() for row in rows]).splitlines()
    assert table.table_cells("\n".join(lines)) == [row.cells() for row in rows]
    assert len(lines) == len(rows) + 2
    assert {len(line) for line in lines} == {len(lines[0])}
    assert {line.count(" | ") for line in lines if not line.startswith("|-")} == {len(table.HEADINGS) - 1}

    document = tmp_path / "page.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.write(rows, "a machine", document)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "a machine" in text and lines[-1] in text and "old" not in text
    startup = table.Row("startup", "a new row", "1 s")
    table.write([startup], "another machine", document)
    kept = table.table_cells(document.read_text())
    others = [row.cells() for row in rows if row.benchmark != "startup"]
    assert sorted(kept) == sorted([*others, startup.cells()])
    assert [cells[0] for cells in kept] == sorted((cells[0] for cells in kept), key=table.ORDER.index)
    document.write_text("no block")
    with pytest.raises(ValueError, match="no block between"):
        table.write(rows, "a machine", document)


def test_truth_has_rows_of_every_measure(rows: list[Any]) -> None:
    """Figures of 300 images mean little, but for these: what was planted in ratings, and the controls' silence."""
    truth = [row for row in rows if row.benchmark == "truth"]
    parts = {row.what.partition(",")[0].partition(":")[0] for row in truth}
    assert parts == {
        "search", "search for images", "ratings", "labels", "soft_wpmi", "label_score", "names", "caption",
        "monosemanticity", "probe", "ablate", "segment",
    }  # fmt: skip
    assert not [row for row in truth if "nan" in row.measured + row.against]
    assert all(row.met for row in truth if "places of" in row.what)
    assert all("shuffled 0.00" in row.against for row in truth if "of the 36 values" in row.what and row.against)


def test_synthetic_spaces_hold_what_they_say() -> None:
    cls = synthetic.SpaceShape("cls", 100, 64, 1024)
    tables = [table for table, _ in synthetic.batches(cls, seed=0)]
    assert [table.num_rows for table in tables] == [64 * 64, 36 * 64]
    pairs = np.stack([tables[0]["image_id"].to_numpy(), tables[0]["feature_id"].to_numpy()])
    assert np.unique(pairs, axis=1).shape[1] == 64 * 64
    assert (np.asarray(tables[0]["rank"]) < 64).all() and tables[0]["token"].null_count == 64 * 64

    patches = synthetic.SpaceShape("patches", 3, 32, 1024, (7, 7))
    ((table, record),) = list(synthetic.batches(patches, seed=0))
    assert table.num_rows == 3 * 49 * 32 and record.images == [0, 1, 2]
    triples = np.stack([table[name].to_numpy() for name in ("image_id", "token", "feature_id")])
    assert np.unique(triples, axis=1).shape[1] == table.num_rows
    for image in range(3):
        assert len(np.unique(triples[2][triples[0] == image])) <= synthetic.PALETTE


def test_bytes_of_a_table_are_its_blocks(tmp_path: Path) -> None:
    """A file that holds one table of random numbers is hardly larger than what is counted for it."""
    file = tmp_path / "one.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE t AS SELECT random() AS a, random()::FLOAT AS b FROM range(1_000_000)")
    counted, size = table_bytes(file, "t"), file.stat().st_size
    assert 0.9 * size <= counted <= size
    assert counted >= 10_000_000


def test_an_unknown_name_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["storrage"])
    assert "no benchmark 'storrage'" in capsys.readouterr().err
