"""Rows of every kind into the catalogue: what is used, rejected and missing, and how it is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glasshouse.schema.errors import SourceError, UsageError
from glasshouse.warehouse.intake.masks import decode_mask
from glasshouse.warehouse.intake.records import ReadOptions

Add = Callable[..., Any]
Query = Callable[..., list[Any]]
Write = Callable[..., Path]


@pytest.fixture
def photos(tmp_path: Path, write_png: Write, run_add: Add) -> Path:
    """Four pictures (0 to 3), the last two with the same name, and a broken one."""
    for seed, name in enumerate(("a.png", "b.png", "one/same.png", "two/same.png")):
        write_png(tmp_path / "photos" / name, seed)
    (tmp_path / "photos" / "zbroken.png").write_bytes(b"")
    run_add(tmp_path / "photos")
    return tmp_path / "photos"


def counts(report: Any) -> list[tuple[Any, ...]]:
    return [(row.kind, row.n_rows, row.n_used, row.n_rejected, row.n_missing) for row in report.rows]


def test_wide_ratings(tmp_path: Path, photos: Path, run_add: Add, query: Query) -> None:
    table = tmp_path / "r.csv"
    table.write_text(
        "image,title,beauty,liking\n"
        "a.png,Sunset,3.5,4\n"
        "b.png,Dawn,,x\n"
        "absent.png,Noon,1,2\n"
        "same.png,Dusk,1,2\n"
        "one/same.png,Eve,NA,5\n"
        "zbroken.png,Night,1,1\n"
        "b.png,too few\n"
    )
    report = run_add(ratings=[table])
    assert query("SELECT image_id, dimension, rater, value FROM ratings ORDER BY ALL") == [
        (0, "beauty", "", 3.5),
        (0, "liking", "", 4.0),
        (2, "liking", "", 5.0),
    ]
    assert query("SELECT row_number, key, reason FROM rejected_rows ORDER BY row_number") == [
        (2, "b.png", "liking: 'x' is not a number"),
        (3, "absent.png", "no image has this path, file name, stem or hash"),
        (
            4,
            "same.png",
            "2 pictures fit 'same.png' (one/same.png, two/same.png); write a longer path, e.g. 'one/same.png'",
        ),
        (6, "zbroken.png", "its picture could not be used: empty file"),
        (7, "b.png, too few", "the row has 2 cells, the header has 4 columns"),
    ]
    assert counts(report) == [("ratings", 10, 3, 5, 2)]
    assert query("SELECT * FROM intakes WHERE kind = 'ratings'") == [(table.as_posix(), "ratings", 10, 3, 5, 2)]
    assert report.notes == [f"{table.as_posix()}: column 'title' holds text and was not read as ratings."]
    assert not report.is_clean and len(report.rows[0].examples) == 5


def test_long_ratings_with_raters(tmp_path: Path, photos: Path, run_add: Add, query: Query) -> None:
    table = tmp_path / "r.tsv"
    table.write_text(
        "Image Path\tDimension\tRating\tParticipant ID\r"
        "a.png\tbeauty\t3\tanna\r"
        "a.png\tbeauty\t4\tben\r"
        "a.png\tbeauty\t3\tanna\r"
        "a.png\tbeauty\t5\tanna\r"
        "b\tbeauty\t-\tanna\r"
        "b\t\t1\tanna\r"
    )
    report = run_add(ratings=[table])
    assert query("SELECT image_id, dimension, rater, value FROM ratings ORDER BY ALL") == [
        (0, "beauty", "anna", 3.0),
        (0, "beauty", "ben", 4.0),
    ]
    assert counts(report) == [("ratings", 6, 3, 2, 1)]
    assert query("SELECT row_number, reason FROM rejected_rows ORDER BY ALL") == [
        (4, "beauty by anna: 5, but row 1 says 3 of the same picture"),
        (6, "the row names no dimension"),
    ]


def test_wide_ratings_with_raters_and_decimal_commas(tmp_path: Path, photos: Path, run_add: Add, query: Query) -> None:
    (tmp_path / "r.csv").write_bytes("Bild;image;rater;Schönheit\n1;a.png;x;3,5\n2;a.png;y;-,5\n".encode("utf-8-sig"))
    report = run_add(ratings=[tmp_path / "r.csv"], options=ReadOptions(image_column="image"))
    assert query("SELECT dimension, rater, value FROM ratings ORDER BY ALL") == [
        ("Bild", "x", 1.0),
        ("Bild", "y", 2.0),
        ("Schönheit", "x", 3.5),
        ("Schönheit", "y", -0.5),
    ]
    assert report.is_clean


def test_a_source_replaces_its_own_rows_and_no_others(tmp_path: Path, photos: Path, run_add: Add, query: Query) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("image,beauty\na.png,1\nb.png,1\nx.png,1\n")
    two.write_text("image,beauty\na.png,2\n")
    run_add(ratings=[one, two])
    one.write_text("image,beauty\na.png,3\n")
    report = run_add(ratings=[one])
    assert report.is_clean
    assert query("SELECT image_id, value FROM ratings ORDER BY ALL") == [(0, 2.0), (0, 3.0)]
    assert query("SELECT count(*) FROM rejected_rows") == [0]
    assert query("SELECT n_rows FROM intakes WHERE kind = 'ratings' ORDER BY source") == [1, 1]


def test_rows_again_change_nothing(
    tmp_path: Path, photos: Path, run_add: Add, warehouse: Path, dump: Callable[..., Any]
) -> None:
    (tmp_path / "r.csv").write_text("image,beauty,kind\na.png,1,x\nnone.png,2,y\n")
    for _ in range(2):
        run_add(ratings=[tmp_path / "r.csv"], labels=[tmp_path / "r.csv"])
        before = dump(warehouse)
    assert dump(warehouse) == before and before["ratings"] and before["image_labels"]


def test_rows_join_pictures_of_the_same_call(tmp_path: Path, write_png: Write, run_add: Add, query: Query) -> None:
    write_png(tmp_path / "p" / "a.png", 1)
    (tmp_path / "p" / "captions.txt").write_text("file_name,caption\na.png, A cat \na.png,\na.png,A dog\n")
    report = run_add(tmp_path / "p", captions=[tmp_path / "p" / "captions.txt"])
    assert query("SELECT image_id, caption FROM captions ORDER BY ALL") == [(0, "A cat"), (0, "A dog")]
    assert counts(report) == [("captions", 3, 2, 0, 1)] and report.n_skipped == 1


def test_labels_wide_and_long(tmp_path: Path, photos: Path, run_add: Add, query: Query) -> None:
    wide, long = tmp_path / "w.csv", tmp_path / "l.csv"
    wide.write_text("image,split,style\na.png,train,baroque\nb.png,test,\n")
    long.write_text("image,attribute,value\na.png,tag,x\na.png,tag,y\na.png,tag,y\n")
    report = run_add(labels=[wide, long])
    assert query("SELECT image_id, attribute, value FROM image_labels ORDER BY ALL") == [
        (0, "split", "train"),
        (0, "style", "baroque"),
        (0, "tag", "x"),
        (0, "tag", "y"),
        (0, "tag", "y"),
        (1, "split", "test"),
    ]
    assert counts(report) == [("labels", 4, 3, 0, 1), ("labels", 3, 3, 0, 0)]


def test_coco_annotations(tmp_path: Path, photos: Path, run_add: Add, query: Query) -> None:
    entries: list[dict[str, Any]] = [
        {
            "id": 7,
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 2, 3, 4],
            "area": 6.5,
            "iscrowd": 0,
            "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]],
            "occluded": True,
        },
        {"id": 8, "image_id": 1, "category_id": 2, "iscrowd": 1, "segmentation": {"size": [8, 12], "counts": [90, 6]}},
        {"id": 9, "image_id": 2, "category_id": 1, "segmentation": [[0, 0, 4]]},
        {"id": 10, "image_id": 2, "category_id": 99},
        {"id": 11, "image_id": 3, "category_id": 1},
        {"id": 12, "image_id": 404, "category_id": 1},
        {"id": 13, "image_id": 2, "category_id": 1, "bbox": [1, 2, "x", 4]},
        {"id": 14, "image_id": 2, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 2, 0, 2]]},
    ]
    images = [
        {"id": 1, "file_name": "a.png", "height": 8, "width": 12},
        {"id": 2, "file_name": "b.png"},
        {"id": 3, "file_name": "zbroken.png"},
    ]
    categories = [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 2, "name": "crowd"}]
    file = tmp_path / "i.json"
    file.write_text(json.dumps({"images": images, "annotations": entries, "categories": categories}))
    report = run_add(annotations=[file])
    rows = query(
        "SELECT annotation_id, image_id, category, supercategory, bbox_x, bbox_y, bbox_width, bbox_height, "
        "area, is_crowd, attributes FROM annotations ORDER BY annotation_id"
    )
    assert rows == [
        (7, 0, "cat", "animal", 1.0, 2.0, 3.0, 4.0, 6.5, False, '{"occluded": true}'),
        (8, 0, "crowd", None, None, None, None, None, 6.0, True, None),
        (14, 1, "cat", "animal", None, None, None, None, 8.0, False, None),
    ]
    masks = query("SELECT mask_height, mask_width, mask_rle FROM annotations ORDER BY annotation_id")
    assert [int(decode_mask(*mask).sum()) for mask in masks] == [16, 6, 8]
    assert [mask[:2] for mask in masks] == [(8, 12)] * 3  # the last as the picture is, since the file does not say
    assert decode_mask(*masks[0])[:4, :4].all()
    assert query("SELECT row_number, key, reason FROM rejected_rows ORDER BY row_number") == [
        (3, "b.png", "annotation 9: a polygon has 3 coordinates; it takes pairs, at least three"),
        (4, "b.png", "there is no category with the id 99"),
        (5, "zbroken.png", "its picture could not be used: empty file"),
        (6, "404", "no image has this path, file name, stem or hash"),
        (7, "b.png", "annotation 13: the box holds 'x', which is no finite number"),
    ]
    assert counts(report) == [("annotations", 8, 3, 5, 0)]


def test_coco_files_with_wild_values(tmp_path: Path, photos: Path, run_add: Add, query: Query) -> None:
    """Python's JSON reader lets pass what no database takes: NaN, halves of surrogate pairs, endless numbers."""
    entry = '{"id": 1, "image_id": 1, "category_id": 1, %s}'
    wild = [
        '"score": NaN, "deep": {"list": [Infinity, 1]}',
        '"note": "half \\ud800 a pair", "null": "\\u0000"',
        f'"area": {"9" * 400}',
        '"bbox": [1e999, 0, 1, 1]',
        f'"segmentation": [[0, 0, 4, 0, {"9" * 400}, 4]]',
        '"segmentation": {"size": [1e999, 2], "counts": [1]}',
    ]
    (tmp_path / "i.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 12}], '
        '"categories": [{"id": 1, "name": "\\ud83d"}], '
        f'"annotations": [{", ".join(entry % text for text in wild)}]}}'
    )
    report = run_add(annotations=[tmp_path / "i.json"])
    assert counts(report) == [("annotations", 6, 2, 4, 0)]
    stored = query("SELECT attributes FROM annotations")
    assert json.loads(stored[0]) == {"score": None, "deep": {"list": [None, 1]}}
    assert json.loads(stored[1]) == {"note": "half ? a pair", "null": "\0"}
    assert query("SELECT DISTINCT category FROM annotations") == ["\\ud83d"]
    (tmp_path / "i.json").write_text(f'{{"images": [], "annotations": [{"9" * 5000}]}}')
    with pytest.raises(SourceError, match="cannot be read"):
        run_add(annotations=[tmp_path / "i.json"])


def test_null_characters_are_kept(tmp_path: Path, photos: Path, run_add: Add, query: Query) -> None:
    (tmp_path / "c.csv").write_bytes(b"image,caption\n" + b"b.png,x\n" * 600 + b"a.png,a\0b\n")
    assert run_add(captions=[tmp_path / "c.csv"]).is_clean
    assert query("SELECT caption FROM captions WHERE image_id = 0") == ["a\0b"]


def test_a_numeric_image_id_joins_a_zero_padded_name(
    tmp_path: Path, write_png: Write, run_add: Add, query: Query
) -> None:
    write_png(tmp_path / "p" / "000000000790.png", 1)
    (tmp_path / "c.csv").write_text("caption_id,image_id,caption\n1,790,a cake\n")
    assert run_add(tmp_path / "p", captions=[tmp_path / "c.csv"]).is_clean
    assert query("SELECT caption FROM captions") == ["a cake"]


@pytest.mark.parametrize(
    ("kind", "name", "content", "message"),
    [
        ("ratings", "r.csv", "image,title\na.png,x\n", "has no ratings: beside 'image' no column holds numbers"),
        ("ratings", "r.csv", "x,y\n1,2\n", "does not say which column names the images"),
        ("ratings", "r.csv", "x,y\na.png,b.png\n", "several columns hold paths"),
        ("ratings", "r.csv", "", "is empty"),
        ("ratings", "i.json", "{}", "COCO JSON has no ratings"),
        ("captions", "c.csv", "image,x,y\na.png,1,2\n", "has no column of captions"),
        ("captions", "i.json", '{"images": []}', "has no captions: its annotations hold none"),
        ("captions", "i.json", "[1]", "no COCO file"),
        ("captions", "i.json", "{", "is not JSON"),
        ("annotations", "r.csv", "image,x\na.png,1\n", "annotations come as COCO JSON"),
        ("labels", "l.csv", "image\na.png\n", "has no labels"),
        ("labels", "nofile.csv", None, "There is no file or folder"),
        ("labels", "x.png", "", "holds no labels"),
    ],
)
def test_a_file_that_lacks_what_is_wanted_is_one_clear_line(
    tmp_path: Path, photos: Path, run_add: Add, query: Query, kind: str, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message) as caught:
        run_add(**{kind: [tmp_path / name]})
    assert "\n" not in str(caught.value) and name in str(caught.value)
    assert query("SELECT count(*) FROM intakes") == [1]


def test_a_column_that_is_not_there_lists_those_that_are(tmp_path: Path, photos: Path, run_add: Add) -> None:
    (tmp_path / "r.csv").write_text("image,beauty\na.png,1\n")
    with pytest.raises(UsageError, match=r"'imgae'.*Did you mean 'image'\?.*beauty"):
        run_add(ratings=[tmp_path / "r.csv"], options=ReadOptions(image_column="imgae"))


def test_the_only_column_of_paths_is_the_key(tmp_path: Path, photos: Path, run_add: Add, query: Query) -> None:
    (tmp_path / "r.csv").write_text("beauty,Bilddatei\n3,a.png\n4,b.png\n")
    assert run_add(ratings=[tmp_path / "r.csv"]).is_clean
    assert query("SELECT image_id, dimension, value FROM ratings ORDER BY ALL") == [
        (0, "beauty", 3.0),
        (1, "beauty", 4.0),
    ]
