"""Activations and vectors computed elsewhere, in every form they come in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from conftest import write_pictures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glasshouse.schema.errors import UsageError
from glasshouse.warehouse.importing.files import read_features, read_vectors
from glasshouse.warehouse.importing.tables import FeatureTable
from glasshouse.warehouse.warehouse import Warehouse

N, F = 30, 100


@pytest.fixture
def dense() -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(5)
    values = rng.random((N, F)).astype(np.float32)
    values[rng.random((N, F)) > 0.2] = 0
    return values


@pytest.fixture
def names(warehouse: Warehouse) -> list[str]:
    return [Path(path).name for path in warehouse.images()["path"]]


def test_json_batches(warehouse: Warehouse, tmp_path: Path, dense: Any, names: list[str]) -> None:
    folder = tmp_path / "batches"
    folder.mkdir()
    for start in range(0, N, 7):
        batch = {
            names[i]: {str(f): float(dense[i, f]) for f in np.flatnonzero(dense[i])}
            for i in range(start, min(N, start + 7))
        }
        (folder / f"batch_{start:03d}.json").write_text(json.dumps(batch))
    report = warehouse.import_features("mine", read_features([folder]), n_features=F)
    assert (report.n_given, report.n_new, report.n_rejected) == (N, N, 0)
    np.testing.assert_array_equal(warehouse.sparse_matrix("mine").toarray(), dense)
    assert warehouse.features_of_image("mine", 3, k=1)["feature_id"][0] == dense[3].argmax()


@pytest.mark.parametrize("form", ["csr", "csc", "dense", "parquet", "csv", "keys-file"])
def test_files(warehouse: Warehouse, tmp_path: Path, dense: Any, names: list[str], form: str) -> None:
    order = np.random.default_rng(0).permutation(N)  # rows need not be in the warehouse's order
    keys, shuffled = [names[i] for i in order], dense[order]
    file, keys_file = tmp_path / "acts.npz", None
    if form in ("csr", "csc"):
        matrix = scipy.sparse.csr_array(shuffled).asformat(form)
        np.savez(file, data=matrix.data, indices=matrix.indices, indptr=matrix.indptr, shape=matrix.shape,
                 format=np.array(form.encode()), images=np.array(keys))  # fmt: skip
    elif form == "dense":
        np.savez(file, activations=shuffled, images=np.array(keys))
    elif form == "keys-file":
        scipy.sparse.save_npz(file, scipy.sparse.csr_matrix(shuffled))
        keys_file = tmp_path / "images.txt"
        keys_file.write_text("\n".join(keys))
    else:
        row, feature = np.nonzero(shuffled)
        frame = pl.DataFrame({"Image": [keys[r] for r in row], "feature_id": feature, "value": shuffled[row, feature]})
        file = tmp_path / f"acts.{form}"
        frame.write_parquet(file) if form == "parquet" else frame.write_csv(file)
    warehouse.import_features("mine", read_features([file], keys_file), n_features=F)
    np.testing.assert_allclose(warehouse.sparse_matrix("mine").toarray(), dense, rtol=1e-6)


def test_arrays_and_arrow_through_the_door(warehouse: Warehouse, dense: Any, names: list[str]) -> None:
    warehouse.import_features("a", dense, names)
    warehouse.import_features("b", scipy.sparse.csr_array(dense), list(range(N)))
    row, feature = np.nonzero(dense)
    table = pa.table({"image": [names[r] for r in row], "feature": feature, "value": dense[row, feature]})
    warehouse.import_features("c", table, n_features=F)
    warehouse.import_features("d", pl.DataFrame(table), n_features=F)
    for name in "abcd":
        np.testing.assert_array_equal(warehouse.sparse_matrix(name).toarray(), dense)


def test_what_does_not_join_is_kept_with_its_reason(warehouse: Warehouse, dense: Any, names: list[str]) -> None:
    keys: list[Any] = list(names)
    keys[2], keys[5], keys[9] = "nowhere.png", names[4], 10_000
    bad = dense.copy()
    bad[7, 0], bad[8, 1] = np.nan, -1
    report = warehouse.import_features("mine", bad, keys, source="acts.npz")
    rejected = warehouse.sql("FROM rejected_rows ORDER BY row_number, key")
    reasons = dict(zip(rejected["key"], rejected["reason"], strict=True))
    assert report.n_rejected == 4 + (bad[8, 1] == -1)
    assert "no image has this path" in reasons["nowhere.png"]
    assert f"given already, as '{names[4]}'" in reasons[names[4]]
    assert "no image_id 10000" in reasons["10000"]
    assert "nan" in reasons[names[7]] and "-1" in reasons[names[8]]
    got = warehouse.sparse_matrix("mine").toarray()
    expected = dense.copy()
    expected[[2, 5, 9]] = 0
    expected[7, 0], expected[8, 1] = 0, 0
    np.testing.assert_array_equal(got, expected)
    assert warehouse.sql("SELECT n_images FROM spaces")["n_images"][0] == N - 3


def test_importing_again_changes_nothing_and_other_data_needs_another_name(
    warehouse: Warehouse, dense: Any, names: list[str]
) -> None:
    warehouse.import_features("mine", dense, names)
    file = warehouse.layout.space_file("mine")
    before = file.stat().st_mtime_ns
    assert warehouse.import_features("mine", dense, names).n_new == 0
    assert file.stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="glasshouse drop space mine"):
        warehouse.import_features("mine", dense * 2, names)


def test_the_same_feature_twice_is_rejected_once(warehouse: Warehouse, names: list[str]) -> None:
    table = pa.table({"image": [names[0]] * 3, "feature": [1, 1, 2], "value": [0.5, 0.7, 0.1]})
    report = warehouse.import_features("mine", table)
    assert report.n_rejected == 1
    assert warehouse.sparse_matrix("mine").toarray()[0].tolist() == pytest.approx([0, 0.5, 0.1])


@pytest.mark.parametrize("form", ["npy", "npz", "parquet"])
def test_vectors(warehouse: Warehouse, tmp_path: Path, names: list[str], form: str) -> None:
    vectors = np.random.default_rng(1).normal(size=(N, 12)).astype(np.float32)
    file, keys_file = tmp_path / f"v.{form}", tmp_path / "images.txt"
    keys_file.write_text("\n".join(names))
    if form == "npy":
        np.save(file, vectors)
    elif form == "npz":
        np.savez(file, vectors=vectors, images=np.array(names))
    else:
        pl.DataFrame({"image": names, "vector": vectors}).write_parquet(file)
    warehouse.import_embeddings("v", read_vectors(file, keys_file if form == "npy" else None))
    ids, got = warehouse.embeddings("v")
    assert ids.tolist() == list(range(N))
    np.testing.assert_array_equal(got, vectors)


def test_bad_vectors_are_left_out(warehouse: Warehouse, names: list[str]) -> None:
    vectors = np.ones((N, 3))
    vectors[4, 1] = np.inf
    report = warehouse.import_embeddings("v", vectors, names)
    assert (report.n_new, report.n_rejected) == (N - 1, 1)
    assert 4 not in warehouse.embeddings("v").image_ids


@pytest.fixture
def numbered(tmp_path: Path, plugins: Any) -> Iterator[Warehouse]:
    """Return a warehouse whose pictures 00003.png to 00007.png have the ids 0 to 4."""
    write_pictures(tmp_path / "numbered", 5, first=3)
    opened = Warehouse.create(tmp_path / "numbered.glasshouse", plugins)
    opened.add([tmp_path / "numbered"])
    yield opened
    opened.close()


@pytest.mark.parametrize("form", ["csv", "parquet", "npz", "text", "keys.csv"])
def test_numbers_in_files_are_names_unless_called_image_id(numbered: Warehouse, tmp_path: Path, form: str) -> None:
    frame = pl.DataFrame({"image": [4, 7], "feature": [0, 1], "value": [1.0, 2.0]})
    by_name = _written(tmp_path, form, frame)
    numbered.import_features("by-name", by_name)
    np.testing.assert_array_equal(numbered.sparse_matrix("by-name").toarray()[[1, 4]], [[1, 0], [0, 2]])
    assert numbered.sparse_matrix("by-name").nnz == 2
    if form != "text":
        numbered.import_features("by-id", _written(tmp_path, form, frame.rename({"image": "image_id"})[:1]))
        assert numbered.sparse_matrix("by-id").toarray().tolist() == [[0], [0], [0], [0], [1]]
    numbered.import_features("python", np.eye(2), np.array([4, 0]))
    assert numbered.sparse_matrix("python").toarray().tolist() == [[0, 1], [0, 0], [0, 0], [0, 0], [1, 0]]


def _written(folder: Path, form: str, frame: pl.DataFrame) -> FeatureTable:
    file, keys = folder / "acts.npz", None
    if form in ("csv", "parquet"):
        file = folder / f"acts.{form}"
        frame.write_csv(file) if form == "csv" else frame.write_parquet(file)
        return read_features([file])
    arrays = {"activations": np.diag(frame["value"].to_numpy())}
    if form == "npz":
        name = "image_ids" if "image_id" in frame.columns else "images"
        arrays[name] = frame[:, 0].to_numpy()
    else:
        keys = folder / form
        keys.write_text("4\n7\n\n\n" if form == "text" else frame.select(frame.columns[0]).write_csv())
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return read_features([file], keys)


def test_numbers_with_leading_zeros_stay_names_in_a_csv(numbered: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image_id,feature,value\n00003,0,1\n00004,1,2\n")
    numbered.import_features("mine", read_features([tmp_path / "a.csv"]))
    assert numbered.sparse_matrix("mine").toarray()[:2].tolist() == [[1, 0], [0, 2]]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_sparse_matrix_comes_back(warehouse: Warehouse, data: st.DataObject) -> None:
    n_features = data.draw(st.integers(1, 80))
    cells = data.draw(
        st.dictionaries(
            st.tuples(st.integers(0, N - 1), st.integers(0, n_features - 1)),
            st.floats(np.float32(1e-30), np.float32(1e30), width=32),
            max_size=60,
        )
    )
    matrix = np.zeros((N, n_features), np.float32)
    for (image, feature), value in cells.items():
        matrix[image, feature] = value
    warehouse.import_features("any", matrix, list(range(N)))
    try:
        np.testing.assert_array_equal(warehouse.sparse_matrix("any").toarray(), matrix)
        assert warehouse.feature_statistics("any")["n_active"].to_list() == (matrix > 0).sum(0).tolist()
    finally:
        warehouse.drop("space", "any")


@pytest.mark.parametrize("name", ["old", "main", "temp", "select", "activations"])
def test_a_space_may_have_the_name_of_something_in_duckdb(warehouse: Any, name: str) -> None:
    acts_nf = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    warehouse.import_features(name, acts_nf, images=[0, 1, 2])
    assert warehouse.feature_statistics(name).height == 4
    assert warehouse.sql("SELECT count(*) AS n FROM activations WHERE space = $space", {"space": name})["n"][0] == 12
