from __future__ import annotations

from pathlib import Path

import pytest

from glasshouse.plugins.sources import columns
from glasshouse.plugins.sources.table import TableSource
from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.intake.records import (
    CaptionRecord,
    ImageRecord,
    LabelRecord,
    MissingRecord,
    PlainFile,
    RatingRecord,
    ReadOptions,
    Record,
    RejectedRecord,
    Url,
)
from glasshouse.warehouse.intake.tables import parse_delimited

IMAGES = frozenset({"images", "captions", "labels", "annotations"})


def read(tmp_path: Path, text: str, want: str = "images", **options: str) -> list[Record]:
    file = tmp_path / "t.csv"
    file.write_text(text)
    kinds = IMAGES if want == "images" else frozenset({want})
    return list(TableSource().read(file.as_posix(), kinds, ReadOptions(tmp_path / "w.glasshouse", **options)))


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def image(folder: Path, name: str) -> ImageRecord:
    path = (folder / name).as_posix()
    return ImageRecord(path, PlainFile(path))


def test_pictures_beside_the_table_or_in_images(tmp_path: Path) -> None:
    assert read(tmp_path, "file\na.png\nb.png\n") == [image(tmp_path, "a.png"), image(tmp_path, "b.png")]
    touch(tmp_path / "images", "a.png")
    images = tmp_path / "images"
    assert read(tmp_path, "file\na.png\nb.png\n") == [image(images, "a.png"), image(images, "b.png")]
    other = tmp_path / "other"
    assert read(tmp_path, "file\na.png\n", image_root=str(other)) == [image(other, "a.png")]


def test_spelling_of_paths(tmp_path: Path) -> None:
    touch(tmp_path / "sub", "a.png", "b .png", "c.png ")
    found = read(tmp_path, 'path\n"  sub/a.png "\nsub\\a.png\nsub/b .png\n"sub/c.png "\n./sub/../sub/a.png\n')
    expected = ["a.png", "a.png", "b .png", "c.png ", "a.png"]
    assert found == [image(tmp_path / "sub", name) for name in expected]


def test_urls_and_absolute_paths(tmp_path: Path) -> None:
    found = read(tmp_path, "image_url\nhttps://x.org/a.png?b=c d\n/abs/a.png\nfile:///abs/b.png\n")
    url = "https://x.org/a.png?b=c d"
    absolute = [ImageRecord(path, PlainFile(path)) for path in ("/abs/a.png", "/abs/b.png")]
    assert found == [ImageRecord(url, Url(url)), *absolute]


def test_rows_without_a_picture_are_rejected(tmp_path: Path) -> None:
    name = (tmp_path / "t.csv").as_posix()
    assert read(tmp_path, "path,x\n,1\n,\na.png\n") == [
        RejectedRecord("images", f"{name} row 1", "the row names no image", 1),
        RejectedRecord("images", f"{name} row 3", "the row has 1 cells, the header has 2 columns: a.png", 3),
    ]


def test_a_name_that_cannot_be_a_file_is_left_to_the_one_who_reads_it(tmp_path: Path) -> None:
    long = "x" * 5000 + ".png"
    assert read(tmp_path, f"path\n{long}\n") == [image(tmp_path, long)]


def test_the_columns_of_ratings(tmp_path: Path) -> None:
    text = "id,image,Unnamed: 3,beauty,1st\n9,a.png,0,3,4\n"
    assert read(tmp_path, text, "ratings") == [
        RatingRecord("a.png", "beauty", "", "3", 1),
        RatingRecord("a.png", "1st", "", "4", 1),
    ]


def test_a_column_counts_as_numbers_when_half_of_it_is(tmp_path: Path) -> None:
    table = parse_delimited("image,a,b,c\n1,3,x,\n2,x,y,NA\n3,4,5,-\n")
    assert columns.numeric_columns(table, {0}) == ([1, 3], [2])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("image,dimension,value", "long"),
        ("Stimulus,Scale,Response", "long"),
        ("image,value", "wide"),
        ("image,beauty,liking", "wide"),
    ],
)
def test_long_or_wide(tmp_path: Path, header: str, expected: str) -> None:
    cells = "a.png,beauty,3" if expected == "long" else ",".join(["a.png", *["3"] * header.count(",")])
    found = read(tmp_path, f"{header}\n{cells}\n", "ratings")
    names = header.split(",")[1:] if expected == "wide" else ["beauty"]
    assert found == [RatingRecord("a.png", name, "", "3", 1) for name in names]


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ("image,caption\na,x\n", ["x"]),
        ("a,Description,image_id,caption_id\n0,x,7,1\n", ["x"]),
        ("image,caption_1,caption_2\na,x,y\n", ["x", "y"]),
        ("image,whatever\na,x\n", ["x"]),
    ],
)
def test_the_column_of_captions(tmp_path: Path, text: str, captions: list[str]) -> None:
    key = "7" if "image_id" in text else "a"
    assert read(tmp_path, text, "captions") == [CaptionRecord(key, caption, 1) for caption in captions]


def test_labels(tmp_path: Path) -> None:
    assert read(tmp_path, "image,class\na,cat\n,\nb\n", "labels") == [
        MissingRecord("labels", 2),
        RejectedRecord("labels", "b", "the row has 1 cells, the header has 2 columns", 3),
        LabelRecord("a", "class", "cat", 1),
    ]


def test_names_of_columns_are_compared_plainly(tmp_path: Path) -> None:
    assert columns.find(["x", " Image-Path "], columns.PATH_COLUMNS) == 1
    assert columns.find(["url", "file"], columns.PATH_COLUMNS) == 1
    assert columns.find(["x"], columns.PATH_COLUMNS) is None


def test_a_table_that_is_gone_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.csv cannot be read: No such file"):
        list(TableSource().read(f"{tmp_path}/gone.csv", IMAGES, ReadOptions()))
