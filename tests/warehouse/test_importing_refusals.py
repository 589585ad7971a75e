"""What an import refuses or leaves out, each in one line, and what it still takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse

from glasshouse.schema.errors import SourceError, UsageError
from glasshouse.warehouse.importing import store
from glasshouse.warehouse.importing.files import read_features, read_vectors
from glasshouse.warehouse.warehouse import Warehouse

N, F = 30, 100


@pytest.fixture
def dense() -> np.ndarray[Any, Any]:
    values = np.random.default_rng(5).random((N, F)).astype(np.float32)
    return np.where(values > 0.8, values, 0).astype(np.float32)


@pytest.fixture
def names(warehouse: Warehouse) -> list[str]:
    return [Path(path).name for path in warehouse.images()["path"]]


@pytest.mark.parametrize("cell", ["1.7", "", "nan", "inf", "1e300", "neuron_1", "99999999999999999999"])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_feature_is_a_whole_number(tmp_path: Path, cell: str, form: str) -> None:
    (tmp_path / "a.csv").write_text(f"image,feature,value\n1,0,1\n2,{cell},2\n")
    if form == "parquet":
        pl.read_csv(tmp_path / "a.csv").write_parquet(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"feature") as caught:
        read_features([tmp_path / f"a.{form}"])
    assert "\n" not in str(caught.value)


def test_what_a_wrong_feature_is_called(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,feature,value\n1,0,1\n2,1.7,2\n")
    with pytest.raises(SourceError, match=r"1\.7 \(row 2\) is no feature"):
        read_features([tmp_path / "a.csv"])
    (tmp_path / "a.csv").write_text("image,feature,value\n1,0,1\n2,2.0,2\n")
    assert read_features([tmp_path / "a.csv"]).feature_n.tolist() == [0, 2]
    (tmp_path / "a.json").write_text('{"x": {"99999999999999999999": 1}}')
    with pytest.raises(SourceError, match="99999999999999999999"):
        read_features([tmp_path / "a.json"])


def test_values_that_no_float_holds_are_rejected(warehouse: Warehouse, names: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"image,feature,value\n{names[0]},0,1\n{names[1]},0,1e300\n{names[2]},0,\n")
    assert warehouse.import_features("mine", read_features([tmp_path / "a.csv"])).n_rejected == 2
    assert warehouse.import_embeddings("v", [[1.0], [1e300]], names[:2]).n_rejected == 1


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((2, 3), complex),
        np.array([["a"], ["b"]]),
        np.array([[{}], [None]], object),
        np.ones(2),
        np.ones((2, 0)),
        [[1], [1, 2]],
        [[10**30, {}], [1, 2]],
    ],
    ids=["complex", "text", "objects", "scalars", "empty", "ragged", "mixed"],
)
def test_vectors_that_are_none(warehouse: Warehouse, tmp_path: Path, names: list[str], vectors: Any) -> None:
    with pytest.raises(SourceError) as caught:
        warehouse.import_embeddings("v", vectors, names[:2])
    assert "\n" not in str(caught.value)
    if isinstance(vectors, np.ndarray) and vectors.ndim == 2 and vectors.shape[1]:
        with pytest.raises(SourceError):
            warehouse.import_features("f", vectors, names[:2])
    if isinstance(vectors, np.ndarray) and vectors.dtype != object:
        np.save(tmp_path / "v.npy", vectors)
        (tmp_path / "names.txt").write_text("\n".join(names[:2]))
        with pytest.raises(SourceError):
            read_vectors(tmp_path / "v.npy", tmp_path / "names.txt")
    assert warehouse.sql("FROM embeddings").height == 0


@pytest.mark.parametrize(
    "column", [[1.0, 2.0], ["[1]", "[2]"], [["a"], ["b"]], [[1], [2, 3]], [[1], None], [[], []], [{"a": 1}, {"a": 2}]],
    ids=["scalars", "text", "lists of text", "lengths", "none", "empty", "structs"],
)  # fmt: skip
def test_columns_that_are_no_vectors(tmp_path: Path, column: list[Any]) -> None:
    pq.write_table(pa.table({"image": ["a", "b"], "vector": column}), tmp_path / "v.parquet")
    with pytest.raises(SourceError) as caught:
        read_vectors(tmp_path / "v.parquet")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", [[b"a", b"b"], [1.5, 2.5], [["a"], ["b"]], ["a", None], ["a", ""], [None, None]])
def test_columns_that_name_no_images(tmp_path: Path, column: list[Any]) -> None:
    pq.write_table(pa.table({"image": column, "feature": [0, 1], "value": [1.0, 1.0]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="column 'image'"):
        read_features([tmp_path / "a.parquet"])


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr", "dia"])
def test_every_sparse_format(tmp_path: Path, dense: Any, names: list[str], form: str) -> None:
    file = tmp_path / "a.npz"
    dense = dense[:, :40]
    scipy.sparse.save_npz(file, scipy.sparse.csr_array(dense).asformat(form))
    with np.load(file) as arrays:
        np.savez(file, **dict(arrays), images=np.array(names))
    table = read_features([file])
    assert table.keys == names
    got = scipy.sparse.coo_array((table.value_n, (table.row_n, table.feature_n)), shape=(N, 40))
    np.testing.assert_array_equal(got.toarray(), dense)


def test_numpy_files_that_are_none_of_it(tmp_path: Path) -> None:
    names = np.array(["a", "b"])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"format": "xyz", "data": [1], "shape": (1, 1)}, "no sound sparse matrix"),
        ({"data": np.ones(2), "indices": [0, 9], "indptr": [0, 1, 2], "shape": (2, 2)}, "no sound sparse matrix"),
        ({"activations": np.array([[{}]], object)}, "Python objects"),
        ({"activations": np.ones((2, 2)), "images": np.ones((2, 5, 5, 3), np.uint8)}, "array 'images'"),
        ({"activations": np.ones((2, 2)), "images": np.ones(2)}, "array 'images'"),
    ]
    for arrays, message in cases:
        np.savez(tmp_path / "a.npz", **({"images": names} | arrays))
        with pytest.raises(SourceError, match=message) as caught:
            read_features([tmp_path / "a.npz"])
        assert "allow_pickle" not in str(caught.value)
    np.save(tmp_path / "a.npy", np.ones(2))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(SourceError, match="NPY file"):
        read_features([tmp_path / "a.npz"])


def test_files_that_are_none_of_it(warehouse: Warehouse, tmp_path: Path) -> None:
    cases = {
        "a.json": (b"[1, 2]", "object of objects"),
        "b.json": (b"{not json", "is no JSON"),
        "c.json": (b'{"x.png": {"one": 1}}', "whole numbers"),
        "d.npz": (b"hello", "cannot be read as NumPy"),
        "e.parquet": (b"hello", "cannot be read"),
        "f.docx": (b"", "are read from .json"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=message):
            read_features([tmp_path / name])
    with pytest.raises(SourceError, match="There is no file"):
        read_features([tmp_path / "absent.npz"])
    np.savez(tmp_path / "pickled.npz", activations=np.array([{"a": 1}], dtype=object), images=np.array(["x"]))
    with pytest.raises(SourceError, match="cannot be read as NumPy"):
        read_features([tmp_path / "pickled.npz"])
    np.savez(tmp_path / "nameless.npz", activations=np.ones((2, 2)))
    with pytest.raises(SourceError, match="--images FILE"):
        read_features([tmp_path / "nameless.npz"])
    with pytest.raises(SourceError, match="no column for the feature"):
        warehouse.import_features("x", pa.table({"image": ["a"], "value": [1.0]}))
    with pytest.raises(SourceError, match="one row per image"):
        warehouse.import_features("x", np.ones((3, 3)), ["a"])
    assert warehouse.spaces().height == 0


def _registered(warehouse: Warehouse) -> int:
    found = warehouse.sql("SELECT name FROM spaces UNION ALL SELECT name FROM embeddings").height
    return found + warehouse.sql("FROM rejected_rows").height


def test_an_import_of_nothing_useful_does_not_take_the_name(warehouse: Warehouse, names: list[str]) -> None:
    with pytest.raises(SourceError, match=r"None of the images .* row 1, 'nowhere.png': no image has this path"):
        warehouse.import_features("mine", np.ones((2, 3)), ["nowhere.png", "nor.png"])
    with pytest.raises(SourceError, match=r"None of the activations .* must not be negative"):
        warehouse.import_features("mine", -np.ones((2, 3)), names[:2])
    with pytest.raises(SourceError, match=r"None of the vectors .* 'nowhere.png'"):
        warehouse.import_embeddings("mine", np.ones((1, 3)), ["nowhere.png"])
    with pytest.raises(SourceError, match=r"None of the vectors .* NaN"):
        warehouse.import_embeddings("mine", np.full((1, 3), np.nan), names[:1])
    assert _registered(warehouse) == 0
    assert warehouse.import_features("mine", np.ones((2, 3)), names[:2]).n_new == 2
    assert warehouse.import_embeddings("mine", np.ones((1, 3)), names[:1]).n_new == 1


def test_empty_imports(warehouse: Warehouse, tmp_path: Path, names: list[str]) -> None:
    for content, message in (("{}", "no image is named"), (f'{{"{names[0]}": {{}}}}', "no image has a feature")):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(SourceError, match=message):
            warehouse.import_features("mine", read_features([tmp_path / "a.json"]))
    for matrix, images in ((np.ones((0, 3)), []), (np.ones((1, 0)), names[:1])):
        with pytest.raises(SourceError, match="nothing to import"):
            warehouse.import_features("mine", matrix, images)
    with pytest.raises(SourceError, match="nothing to import"):
        warehouse.import_embeddings("mine", np.ones((0, 3)), [])
    assert _registered(warehouse) == 0
    report = warehouse.import_features("mine", read_features([tmp_path / "a.json"]), n_features=3)
    assert (report.n_new, warehouse.sparse_matrix("mine").nnz) == (1, 0)


def test_absurd_features_are_refused_at_once(warehouse: Warehouse, names: list[str]) -> None:
    for feature in (10_000_000, 2**31, 2**62):
        table = pa.table({"image": names[:1], "feature": [feature], "value": [1.0]})
        with pytest.raises(SourceError, match="probably a mistake"):
            warehouse.import_features("mine", table)
    with pytest.raises(SourceError, match="probably a mistake"):
        warehouse.import_features("mine", scipy.sparse.coo_array(([1.0], ([0], [5])), shape=(1, 10**12)), names[:1])
    for n_features in (0, -1, 2**31):
        with pytest.raises(UsageError, match="from 1 to"):
            warehouse.import_features("mine", np.ones((1, 3)), names[:1], n_features=n_features)
    assert _registered(warehouse) == 0


def test_many_features_are_taken_where_their_number_is_given(
    warehouse: Warehouse, names: list[str], dense: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_GUESSED_FEATURES", 50)
    monkeypatch.setattr(store, "MAX_CELLS_PER_SHARD", 7 * F)  # many features make small shards
    with pytest.raises(SourceError, match="That would make 100 features"):
        warehouse.import_features("mine", dense, names)
    warehouse.import_features("mine", dense, names, n_features=F)
    np.testing.assert_array_equal(warehouse.sparse_matrix("mine").toarray(), dense)


def test_rejected_rows_are_filed_under_the_absolute_path(
    warehouse: Warehouse, tmp_path: Path, names: list[str], glasshouse: Any
) -> None:
    (tmp_path / "a.csv").write_text(f"image,feature,value\n{names[0]},0,1\nnowhere.png,0,1\n")
    warehouse.close()
    done = glasshouse("import", "features", "a.csv", "--space", "mine", "-w", warehouse.layout.root)
    assert done.returncode == 0, done
    assert warehouse.sql("SELECT source FROM rejected_rows")["source"].to_list() == [(tmp_path / "a.csv").as_posix()]


def test_an_unusual_name_is_rejected_like_any_other(warehouse: Warehouse, tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"half \ud800.png": {"0": 1}, names[0]: {"0": 1}}))
    assert warehouse.import_features("mine", read_features([tmp_path / "a.json"])).n_rejected == 1
    assert warehouse.sql("SELECT key FROM rejected_rows")["key"].to_list() == ["half \\ud800.png"]


def test_errors_are_short_and_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"x": {"9" * 5000: 1}}))
    with pytest.raises(SourceError, match=r"a\.json") as caught:
        read_features([tmp_path / "a.json"])
    assert len(str(caught.value)) < len(str(tmp_path)) + 200
    np.savez(tmp_path / "a.npz", activations=np.ones(2, complex), vectors=np.ones((2, 0)), images=np.array(["a", "b"]))
    with pytest.raises(SourceError, match=r"a\.npz: The activations are of the type complex"):
        read_features([tmp_path / "a.npz"])
    with pytest.raises(SourceError, match=r"a\.npz: .* hold no numbers"):
        read_vectors(tmp_path / "a.npz")
    pq.write_table(pa.table({}), tmp_path / "none.parquet")
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    with pytest.raises(SourceError, match="has no columns"):
        read_vectors(tmp_path / "a.npy", tmp_path / "none.parquet")
