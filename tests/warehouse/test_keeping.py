"""Spaces that keep the strongest images only, against the same activations kept whole and sorted by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from conftest import TOY_PLUGIN, write_pictures
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kit.table_encoder import HOOK, TableEncoder, write_numbered
from polars.testing import assert_frame_equal

from glasshouse.schema.errors import UsageError, WarehouseError
from glasshouse.warehouse.catalogue import Catalogue
from glasshouse.warehouse.checking.check import check
from glasshouse.warehouse.extraction import keeping
from glasshouse.warehouse.extraction.shards import ShardFolder, summary_of
from glasshouse.warehouse.histograms import bins_of, edges_of
from glasshouse.warehouse.warehouse import Warehouse

WHOLE = [
    ("cls", "blocks.1.resid_post", "cls", "neurons"),
    ("patches", "blocks.0.resid_post", "patches", "neurons"),
]
KEPT = [(f"kept_{space[0]}", *space[1:]) for space in WHOLE]
KEEP = 5
Array = np.ndarray[Any, Any]


@pytest.fixture
def folding(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that sets how large shards may grow; 0 folds them into the file after every batch."""
    return lambda n_bytes: monkeypatch.setattr(keeping, "enough_to_fold", lambda file: n_bytes)


def rows_of(warehouse: Warehouse, table: str, space: str) -> pl.DataFrame:
    """Return the rows of a space as its file has them."""
    with duckdb.connect(str(warehouse.layout.space_file(space)), read_only=True) as connection:
        return connection.sql(f"SELECT * FROM {table} ORDER BY rowid").pl()


def strongest(frame: pl.DataFrame, keep: int) -> pl.DataFrame:
    """Return the rows of a whole space's `activations` that one with `keep` has, in its order."""
    frame = frame.sort("feature_id", "value", "image_id", descending=[False, True, False])
    return frame.group_by("feature_id", maintain_order=True).head(keep)


def assert_kept(warehouse: Warehouse, kept: str, whole: str, keep: int) -> None:
    """The rows are the strongest of the whole space, statistics and histogram are those of all its images."""
    expected = strongest(rows_of(warehouse, "activations", whole), keep)
    assert rows_of(warehouse, "activations", kept).equals(expected.select("image_id", "feature_id", "value", "token"))
    tokens = rows_of(warehouse, "token_activations", whole)
    expected_tokens = tokens.join(expected, on=["image_id", "feature_id"], how="semi", maintain_order="left")
    assert rows_of(warehouse, "token_activations", kept).equals(expected_tokens)
    assert rows_of(warehouse, "image_top_features", kept).height == 0
    assert rows_of(warehouse, "space_images", kept).equals(rows_of(warehouse, "space_images", whole))
    statistics = warehouse.feature_statistics(kept)
    assert_frame_equal(statistics, warehouse.feature_statistics(whole), rel_tol=1e-9, abs_tol=1e-9)
    assert_histograms(warehouse, kept, whole)


def assert_histograms(warehouse: Warehouse, kept: str, whole: str) -> None:
    """The counts are numpy's between the same edges; bins without images are not listed; 0 is apart."""
    values_nf = warehouse.sparse_matrix(whole).toarray()[warehouse.space(whole).image_ids()]
    rows = warehouse.sql(f"FROM feature_histograms WHERE space = '{kept}' ORDER BY feature_id, bin")
    assert (rows["n_images"] > 0).all()
    for feature, column in enumerate(values_nf.T):
        own = rows.filter(feature_id=feature)
        assert own["n_images"].sum() == len(values_nf)
        assert own.filter(bin=0)["n_images"].sum() == (column == 0).sum()
        for row in own.filter(pl.col("bin") > 0).iter_rows(named=True):
            edges = np.array([row["lower"], row["upper"]], dtype=np.float32)
            assert row["n_images"] == np.sum((column >= edges[0]) & (column < edges[1]))


@pytest.mark.parametrize("fold_bytes", [0, 1 << 40], ids=["folded after every batch", "finalised at once"])
def test_kept_rows_are_the_strongest_of_the_whole(
    warehouse: Warehouse, folding: Callable[[int], None], fold_bytes: int
) -> None:
    folding(fold_bytes)
    warehouse.extract("toy:0", WHOLE, batch_size=8)
    report = warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8)
    assert report.new_images == {"kept_cls": 30, "kept_patches": 30}
    for kept, whole in zip(KEPT, WHOLE, strict=True):
        assert_kept(warehouse, kept[0], whole[0], KEEP)
    record = {row["name"]: row for row in warehouse.spaces().to_dicts()}
    assert [record[name]["keep"] for name in ("cls", "kept_cls", "kept_patches")] == [None, KEEP, KEEP]
    assert record["kept_cls"]["n_activations"] == rows_of(warehouse, "activations", "kept_cls").height
    assert record["kept_cls"]["n_images"] == 30
    assert warehouse.sql("SELECT DISTINCT space FROM feature_histograms ORDER BY 1")["space"].to_list() == [
        "kept_cls",
        "kept_patches",
    ]
    assert check(warehouse.layout, hashes=True).remaining == []
    again = warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8)
    assert (again.n_computed, again.new_images) == (0, {"kept_cls": 0, "kept_patches": 0})


N_NUMBERED = 20


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Return a warehouse whose pictures are numbers, for encoders that are tables."""
    from glasshouse.plugins.manager import Plugins

    folder = tmp_path_factory.mktemp("numbered")
    warehouse = Warehouse.create(folder / "w.glasshouse", Plugins(external=False))
    warehouse.add([write_numbered(folder / "pictures", N_NUMBERED)])
    return warehouse


# Few different values, so that many are equal at the place where keeping ends; 0 and below are silent.
LEVELS = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.5000001, 1.0, 6.0])
TABLES = st.integers(1, 3).flatmap(
    lambda n_features: st.lists(
        st.lists(st.lists(LEVELS, min_size=n_features, max_size=n_features), min_size=3, max_size=3),
        min_size=N_NUMBERED,
        max_size=N_NUMBERED,
    )
)


# Without shrinking: an example takes most of a second.
@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(table=TABLES, keep=st.integers(1, 6), batch_size=st.integers(6, N_NUMBERED), folded=st.booleans())
def test_batches_merge_to_the_same_whatever_their_size(
    numbered: Warehouse, table: list[list[list[float]]], keep: int, batch_size: int, folded: bool
) -> None:
    encoder = TableEncoder(np.array(table), spec=str(hash(str(table))))
    sae = numbered.plugins.load_sae("neurons")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "enough_to_fold", lambda file: 0 if folded else 1 << 40)
        spaces = [(name, HOOK, "patches", sae) for name in ("kept", "whole")]
        numbered.extract(encoder, spaces, keep=[keep, None], batch_size=batch_size)
    try:
        assert_kept(numbered, "kept", "whole", keep)
    finally:
        for name in ("kept", "whole"):
            numbered.drop("space", name)


def test_of_equal_values_the_lower_images_stay(numbered: Warehouse, folding: Callable[[int], None]) -> None:
    """As where an activation is clipped: the N-th best value is that of nearly all images."""
    folding(0)
    values_ntd = np.full((N_NUMBERED, 1, 2), 6.0)
    values_ntd[7, 0, 1] = 7.0
    numbered.extract(
        TableEncoder(values_ntd, "equal"), [("equal", HOOK, "cls", numbered.plugins.load_sae("neurons"))],
        keep=3, batch_size=4,
    )  # fmt: skip
    found = rows_of(numbered, "activations", "equal")
    assert found.filter(feature_id=0)["image_id"].to_list() == [0, 1, 2]
    assert found.filter(feature_id=1)["image_id"].to_list() == [7, 0, 1]
    numbered.drop("space", "equal")


def test_rows_that_can_no_longer_be_among_the_strongest_are_not_written(
    numbered: Warehouse, folding: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is stronger than the last in feature 0 and weaker in feature 1."""
    written: list[dict[int, int]] = []
    write = ShardFolder.write

    def counting(self: ShardFolder, table: Any, record: Any, summary: Any = None) -> None:
        counts = pl.from_arrow(table)["feature_id"].value_counts()
        written.append(dict(counts.iter_rows()))
        write(self, table, record, summary)

    monkeypatch.setattr(ShardFolder, "write", counting)
    folding(0)
    rising = np.arange(1.0, N_NUMBERED + 1)
    values_ntd = np.stack([rising, rising[::-1]], axis=1)[:, None, :]
    sae = numbered.plugins.load_sae("neurons")
    numbered.extract(TableEncoder(values_ntd, "rising"), [("rising", HOOK, "cls", sae)], keep=3, batch_size=5)
    assert written == [{0: 3, 1: 3}, {0: 3}, {0: 3}, {0: 3}]
    assert warehouse_is_empty_of_shards(numbered)
    numbered.drop("space", "rising")


def warehouse_is_empty_of_shards(warehouse: Warehouse) -> bool:
    return not list(warehouse.layout.shards.glob("*/*.parquet"))


def everything(warehouse: Warehouse, *spaces: str) -> dict[str, pl.DataFrame]:
    """Return all rows of spaces, and what the catalogue says of them."""
    tables = ("activations", "token_activations", "feature_stats", "feature_histograms", "space_images")
    found = {f"{space} {table}": rows_of(warehouse, table, space) for space in spaces for table in tables}
    found["spaces"] = warehouse.spaces().filter(pl.col("name").is_in(spaces)).drop("created_at", "finalised_at")
    found["failures"] = warehouse.sql("FROM failures ORDER BY ALL")
    return found


def assert_equal(found: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    """To the last digit."""
    for name, frame in expected.items():
        assert found[name].equals(frame), name


def test_stopping_and_going_on_gives_the_same_rows(
    tmp_path: Path, pictures: Path, plugins: Any, folding: Callable[[int], None]
) -> None:
    """Shards go into the file at other places than in the undisturbed run, and some lie there when it is stopped."""
    warehouses = [Warehouse.create(tmp_path / f"{name}.glasshouse", plugins) for name in "ab"]
    for warehouse in warehouses:
        warehouse.add([pictures])
    undisturbed, stopped = warehouses
    undisturbed.extract("toy:0", KEPT, keep=KEEP, batch_size=4)
    folding(15_000)
    for n_batches in (0, 1, 2):
        count = iter(range(n_batches))
        report = stopped.extract("toy:0", KEPT, keep=KEEP, batch_size=4, stop=lambda c=count: next(c, None) is None)
        assert report.stopped
        assert stopped.spaces()["state"].to_list() == ["extracting", "extracting"]
        assert check(stopped.layout).remaining == []
        with pytest.raises(UsageError, match="not finished"):
            stopped.top_images("kept_cls", 0, 1)
    assert stopped.layout.space_file("kept_patches").exists() and not warehouse_is_empty_of_shards(stopped)
    assert stopped.extract("toy:0", KEPT, keep=KEEP, batch_size=4).n_computed < 30
    names = [space[0] for space in KEPT]
    assert_equal(everything(stopped, *names), everything(undisturbed, *names))
    assert warehouse_is_empty_of_shards(stopped)


def test_images_added_later_take_the_places_of_weaker_ones(
    warehouse: Warehouse, tmp_path: Path, folding: Callable[[int], None]
) -> None:
    warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8)
    before = rows_of(warehouse, "activations", "kept_cls")
    write_pictures(tmp_path / "more", 25, first=100)
    warehouse.add([tmp_path / "more"])
    folding(0)
    report = warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8)
    assert (report.n_computed, report.new_images) == (25, {"kept_cls": 25, "kept_patches": 25})
    warehouse.extract("toy:0", WHOLE, batch_size=8)
    for kept, whole in zip(KEPT, WHOLE, strict=True):
        assert_kept(warehouse, kept[0], whole[0], KEEP)
    after = rows_of(warehouse, "activations", "kept_cls")
    assert 0 < after.join(before, on=["feature_id", "image_id"], how="anti").height < after.height


def test_unreadable_pictures_are_failures_and_come_in_when_they_are_back(
    warehouse: Warehouse, pictures: Path, folding: Callable[[int], None]
) -> None:
    """A picture with a low id that comes last: what its rows have to beat was found by others."""
    folding(0)
    gone = pictures / "00003.png"
    content = gone.read_bytes()
    gone.unlink()
    assert warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8).n_failed == 1
    assert warehouse.sql("FROM failures ORDER BY source")["source"].to_list() == [
        "space kept_cls",
        "space kept_patches",
    ]
    assert warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8).n_failed == 1
    assert warehouse.sql("FROM failures").height == 2
    gone.write_bytes(content)
    assert warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8).n_failed == 0
    assert warehouse.sql("FROM failures").height == 0
    warehouse.extract("toy:0", WHOLE, batch_size=8)
    for kept, whole in zip(KEPT, WHOLE, strict=True):
        assert_frame_equal(  # a batch of one picture rounds otherwise than one of eight
            rows_of(warehouse, "activations", kept[0]).select("feature_id", "value"),
            strongest(rows_of(warehouse, "activations", whole[0]), KEEP).select("feature_id", "value"),
            rel_tol=1e-5,
        )
        assert warehouse.feature_statistics(kept[0])["n_active"].equals(
            warehouse.feature_statistics(whole[0])["n_active"]
        )


def test_whole_and_kept_spaces_take_one_pass(warehouse: Warehouse, toy_encoder_class: Any) -> None:
    encoder = toy_encoder_class("0")
    sae = warehouse.plugins.load_sae("neurons")
    spaces = [(name, "blocks.1.resid_post", "cls", sae) for name in ("all", "five", "two")]
    warehouse.extract(encoder, spaces, "toy", keep=[None, 5, 2], batch_size=8)
    assert encoder.n_forward == 4
    assert_kept(warehouse, "five", "all", 5)
    assert_kept(warehouse, "two", "all", 2)
    with pytest.raises(UsageError, match="keep names 2 numbers for 3 spaces"):
        warehouse.extract(encoder, spaces, keep=[1, 2])


def test_another_keep_is_refused_and_says_what_to_type(warehouse: Warehouse) -> None:
    warehouse.extract("toy:0", [WHOLE[0]])
    warehouse.extract("toy:0", [KEPT[0]], keep=KEEP)
    with pytest.raises(UsageError, match=r"keeps every activation.*Leave --keep away.*drop space cls"):
        warehouse.extract("toy:0", [WHOLE[0]], keep=KEEP)
    with pytest.raises(UsageError, match=r"keeps the 5 strongest images.*the 6 strongest.*Give --keep 5"):
        warehouse.extract("toy:0", [KEPT[0]], keep=6)
    with pytest.raises(UsageError, match=r"every activation cannot be mixed with it. Give --keep 5"):
        warehouse.extract("toy:0", [KEPT[0]])
    with pytest.raises(UsageError, match="at least 1 image"):
        warehouse.extract("toy:0", [("none", *KEPT[0][1:])], keep=0)
    warehouse.drop("space", "kept_cls")
    warehouse.extract("toy:0", [KEPT[0]], keep=6)
    assert warehouse.spaces().filter(name="kept_cls")["keep"].to_list() == [6]


def test_shards_that_relied_on_a_file_go_with_it(
    warehouse: Warehouse, tmp_path: Path, folding: Callable[[int], None]
) -> None:
    """They lack rows that the file's images beat, and some of those may be unreadable when all is done again."""
    folding(1 << 40)
    warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8)
    write_pictures(tmp_path / "more", 20, first=100)
    warehouse.add([tmp_path / "more"])
    assert warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=20, stop=lambda: True).stopped
    assert not warehouse_is_empty_of_shards(warehouse)
    warehouse.close()
    warehouse.layout.space_file("kept_cls").write_bytes(b"broken" * 1000)
    with pytest.raises(WarehouseError, match="glasshouse check --repair"):
        warehouse.extract("toy:0", KEPT, keep=KEEP)
    assert check(warehouse.layout, repair=True).remaining == []
    for path in warehouse.images()["path"][:28]:
        Path(path).unlink()
    warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8)
    warehouse.extract("toy:0", WHOLE, batch_size=8)
    assert_kept(warehouse, "kept_cls", "cls", KEEP)
    assert warehouse.space("kept_patches").image_ids().tolist() == list(range(50))


def test_a_shard_without_its_summary_is_done_again(warehouse: Warehouse, folding: Callable[[int], None]) -> None:
    folding(1 << 40)
    assert warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8, stop=lambda: True).stopped
    shards = ShardFolder(warehouse.layout.shard_folder("space", "kept_cls"), "")
    (file,) = shards.files()
    summary_of(file).write_bytes(b"broken")
    assert warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8).n_computed == 30
    warehouse.extract("toy:0", WHOLE, batch_size=8)
    assert_kept(warehouse, "kept_cls", "cls", KEEP)
    assert_kept(warehouse, "kept_patches", "patches", KEEP)


def test_check_finds_damage_in_kept_spaces(warehouse: Warehouse, folding: Callable[[int], None]) -> None:
    warehouse.extract("toy:0", KEPT, keep=KEEP)
    with duckdb.connect(str(warehouse.layout.space_file("kept_cls"))) as connection:
        connection.execute("DROP TABLE feature_histograms")
    (problem,) = check(warehouse.layout, hashes=True).remaining
    assert "kept_cls" in problem.where and "cannot be read" in problem.what
    assert check(warehouse.layout, repair=True, hashes=True).remaining == []
    # A file that an unfinished extraction was folded into is looked at too.
    folding(0)
    assert warehouse.extract("toy:0", [KEPT[0]], keep=KEEP, batch_size=8, stop=lambda: True).stopped
    warehouse.layout.space_file("kept_cls").write_bytes(b"broken" * 1000)
    (problem,) = check(warehouse.layout).remaining
    assert "cannot be read" in problem.what
    assert check(warehouse.layout, repair=True).remaining == []
    assert warehouse.extract("toy:0", [KEPT[0]], keep=KEEP, batch_size=8).new_images == {"kept_cls": 30}


def test_a_file_of_another_keep_is_never_taken_for_the_whole(warehouse: Warehouse) -> None:
    """Another process has made the space anew while this one had it open; or a file was put in another's place."""
    warehouse.extract("toy:0", [WHOLE[0]])
    assert warehouse.sparse_matrix("cls").shape == (30, 24)
    other = Warehouse(warehouse.root, warehouse.plugins)
    other.drop("space", "cls")
    other.extract("toy:0", [WHOLE[0]], keep=KEEP)
    for _ in range(2):
        with pytest.raises(UsageError, match="made anew and keeps the 5 strongest images of each feature now"):
            warehouse.sparse_matrix("cls")
    warehouse.close()
    assert warehouse.top_images("cls", 0, KEEP).height > 0
    with Catalogue(warehouse.root).writing() as connection:
        connection.execute("UPDATE spaces SET keep = NULL")
    (problem,) = (problem for problem in check(warehouse.layout).remaining if problem.where == "space 'cls'")
    assert "keeps the 5 strongest images of each feature, the catalogue says every activation" in problem.what
    assert check(warehouse.layout, repair=True).remaining == []


def test_shards_that_wait_are_finalised_by_check(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8)
    write_pictures(tmp_path / "more", 20, first=100)
    warehouse.add([tmp_path / "more"])
    warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8, stop=lambda: True)
    assert {problem.what for problem in check(warehouse.layout).remaining} == {"1 shards wait to be finalised"}
    assert check(warehouse.layout, repair=True).remaining == []
    assert warehouse.extract("toy:0", KEPT, keep=KEEP, batch_size=8).n_computed == 18
    warehouse.extract("toy:0", WHOLE, batch_size=8)
    assert_kept(warehouse, "kept_patches", "patches", KEEP)


def test_files_of_older_versions_have_no_histograms_and_work(warehouse: Warehouse, tmp_path: Path) -> None:
    warehouse.extract("toy:0", WHOLE)
    warehouse.close()
    for space in WHOLE:
        with duckdb.connect(str(warehouse.layout.space_file(space[0]))) as connection:
            connection.execute("DROP TABLE feature_histograms")
            connection.execute("ALTER TABLE space DROP COLUMN keep")
    warehouse.extract("toy:0", [KEPT[0]], keep=KEEP)
    assert warehouse.sparse_matrix("cls").shape == (30, 24)
    assert warehouse.sql("SELECT DISTINCT space FROM feature_histograms")["space"].to_list() == ["kept_cls"]
    assert check(warehouse.layout, hashes=True).remaining == []
    write_pictures(tmp_path / "more", 3, first=100)
    warehouse.add([tmp_path / "more"])
    warehouse.extract("toy:0", WHOLE)
    assert warehouse.sparse_matrix("patches").shape == (33, 24)


# -- what a kept space does not know -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Return a warehouse with whole spaces and the same ones kept, and an embedding; tests may only read it."""
    from glasshouse.plugins.manager import Plugins

    folder = tmp_path_factory.mktemp("kept")
    write_pictures(folder / "pictures", 30)
    warehouse = Warehouse.create(folder / "w.glasshouse", Plugins([TOY_PLUGIN], external=False))
    warehouse.add([folder / "pictures"])
    warehouse.extract("toy:0", [*WHOLE, *KEPT], "toy", keep=[None, None, KEEP, KEEP], batch_size=8)
    return warehouse


REFUSED: dict[str, Callable[[Warehouse], object]] = {
    "has no matrix of all activations": lambda w: w.sparse_matrix("kept_cls"),
    "and 6 were asked for. Ask for at most 5": lambda w: w.top_images("kept_cls", 0, 6),
    "does not know which features are active on an image": lambda w: w.features_of_image("kept_cls", 3),
    "lacks the activations of all others": lambda w: w.space("kept_cls").connection().__enter__(),
    "and 12 were asked for": lambda w: w.feature("kept_cls", 0),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_needs_all_activations_is_refused_in_one_line(kept: Warehouse, reason: str) -> None:
    with pytest.raises(UsageError, match=r"keeps only the 5 strongest images of each feature.*--keep") as refused:
        REFUSED[reason](kept)
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_what_the_strongest_images_tell_is_the_same_as_in_the_whole_space(kept: Warehouse) -> None:
    for feature in range(24):
        assert kept.top_images("kept_patches", feature, KEEP).equals(kept.top_images("patches", feature, KEEP))
    image = int(kept.top_images("patches", 2, 1)["image_id"][0])
    np.testing.assert_array_equal(kept.token_map("kept_patches", 2, image), kept.token_map("patches", 2, image))
    weakest = int(kept.top_images("patches", 2, 30)["image_id"][-1])
    with pytest.raises(UsageError, match=f"image {weakest} is none of those of feature 2"):
        kept.token_map("kept_patches", 2, weakest)
    card = kept.feature("kept_patches", 2, KEEP)
    assert card.statistics["n_active"] == kept.feature("patches", 2, KEEP).statistics["n_active"]
    assert "strongest features of kept_cls\n  not known: it keeps only the 5 strongest" in str(kept.image(3))
    assert "kept_cls" not in kept.image(3).features and "cls" in kept.image(3).features


def test_silent_features_have_empty_maps(numbered: Warehouse) -> None:
    """Of a feature with no more images than are kept, an image without a row is one on which it is silent."""
    values_ntd = np.zeros((N_NUMBERED, 3, 2))
    values_ntd[:4, 1, 0] = 1.0
    sae = numbered.plugins.load_sae("neurons")
    numbered.extract(TableEncoder(values_ntd, "rare"), [("rare", HOOK, "patches", sae)], keep=4)
    assert numbered.token_map("rare", 0, 3).tolist() == [[1.0, 0.0]]
    assert numbered.token_map("rare", 0, 9).tolist() == [[0.0, 0.0]]
    assert numbered.token_map("rare", 1, 9).tolist() == [[0.0, 0.0]]
    assert numbered.feature_statistics("rare")["n_active"].to_list() == [4, 0]
    numbered.drop("space", "rare")


# -- histograms ----------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(2.0**-126, np.finfo(np.float32).max, width=32), min_size=1))
def test_bins_hold_their_values_and_are_narrow(values: list[float]) -> None:
    value_n = np.array(values, dtype=np.float32)
    lower_n, upper_n = (edge_n.astype(np.float64) for edge_n in edges_of(bins_of(value_n)))
    assert (lower_n <= value_n).all() and (value_n < upper_n).all()
    finite_n = np.isfinite(upper_n)
    assert (upper_n[finite_n] - lower_n[finite_n] <= lower_n[finite_n] / 8).all()
    assert bins_of(np.zeros(1, dtype=np.float32)).tolist() == [0]


def test_quantiles_are_within_a_bin_of_the_exact_ones(kept: Warehouse) -> None:
    shares = [0.0, 0.1, 0.5, 0.75, 0.9, 1.0]
    found = kept.feature_quantiles("kept_patches", shares)
    values_nf = kept.sparse_matrix("patches").toarray()
    assert found.height == 24 * len(shares)
    for feature, share, value in found.iter_rows():
        exact = np.quantile(values_nf[:, feature], share, method="inverted_cdf")
        assert value == pytest.approx(exact, rel=0.125)
    largest = found.filter(share=1.0)["value"].to_numpy()
    np.testing.assert_allclose(largest, values_nf.max(axis=0), rtol=1e-6)
    with pytest.raises(UsageError, match="has no histograms"):
        kept.feature_quantiles("patches", shares)
    with pytest.raises(UsageError, match="from 0 to 1"):
        kept.feature_quantiles("kept_patches", [50])


def test_copies_of_a_warehouse_with_kept_spaces_work(kept: Warehouse, tmp_path: Path) -> None:
    kept.close()
    shutil.copytree(kept.root, tmp_path / "copy.glasshouse")
    copy = Warehouse(tmp_path / "copy.glasshouse")
    assert check(copy.layout, repair=True).remaining == []
    with duckdb.connect() as connection:
        connection.execute(copy.layout.attach_sql.read_text())
        rows = connection.sql("SELECT space, sum(n_images) FROM feature_histograms GROUP BY 1 ORDER BY 1").fetchall()
    assert rows == [("kept_cls", 24 * 30), ("kept_patches", 24 * 30)]
