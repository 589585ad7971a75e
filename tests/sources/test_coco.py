from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glasshouse.plugins.sources.coco import CocoSource
from glasshouse.schema.errors import SourceError
from glasshouse.warehouse.intake.records import (
    AnnotationRecord,
    CaptionRecord,
    ImageRecord,
    PlainFile,
    ReadOptions,
    Record,
    RejectedRecord,
    Url,
)

ADDED = frozenset({"images", "captions", "labels", "annotations"})


def read(file: Path, content: Any, want: frozenset[str] = ADDED, **options: str) -> list[Record]:
    file.parent.mkdir(exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return list(CocoSource().read(file.as_posix(), want, ReadOptions(**options)))


def picture(path: Path) -> ImageRecord:
    return ImageRecord(path.as_posix(), PlainFile(path.as_posix()))


CAPTIONS = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [{"id": 5, "image_id": 1, "caption": "one"}, {"id": 6, "image_id": "2", "caption": "two"}],
}


def test_the_usual_layout(tmp_path: Path) -> None:
    """`annotations/captions_val2017.json` beside `val2017/`."""
    folder = tmp_path / "val2017"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"")
    (tmp_path / "train2017").mkdir()
    assert read(tmp_path / "annotations" / "captions_val2017.json", CAPTIONS) == [
        picture(folder / "a.jpg"),
        picture(folder / "b.jpg"),
        CaptionRecord((folder / "a.jpg").as_posix(), "one", 1),
        CaptionRecord((folder / "b.jpg").as_posix(), "two", 2),
    ]


def test_a_root_that_is_given(tmp_path: Path) -> None:
    found = read(tmp_path / "c.json", CAPTIONS, image_root=str(tmp_path / "elsewhere"))
    assert found[0] == picture(tmp_path / "elsewhere" / "a.jpg")


def test_for_captions_alone_keys_are_file_names(tmp_path: Path) -> None:
    found = read(tmp_path / "c.json", CAPTIONS, frozenset({"captions"}))
    assert found == [CaptionRecord("a.jpg", "one", 1), CaptionRecord("b.jpg", "two", 2)]


def test_instances(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "http://x.org/a.jpg", "height": 4, "width": 6}, {"id": 3}],
        "categories": [{"id": 9, "name": "cat", "supercategory": "animal"}],
        "annotations": [
            {"id": 5, "image_id": 1, "category_id": 9, "bbox": [0, 0, 1, 1], "keypoints": [1, 2, 2]},
            {"id": "odd", "image_id": 77, "category_id": 9, "iscrowd": 1},
            {"id": 7, "image_id": 1},
            "nonsense",
        ],
    }
    name = (tmp_path / "i.json").as_posix()
    url = "http://x.org/a.jpg"
    assert read(tmp_path / "i.json", content) == [
        ImageRecord(url, Url(url)),
        RejectedRecord("images", f"{name} image 2", "the entry has no file_name", 2),
        AnnotationRecord(url, 5, "cat", "animal", [0, 0, 1, 1], None, False, None, (4, 6), {"keypoints": [1, 2, 2]}, 1),
        AnnotationRecord("77", 2, "cat", "animal", None, None, True, None, None, {"id": "odd"}, 2),
        RejectedRecord("annotations", url, "there is no category with the id None", 3),
        RejectedRecord("annotations", "", "the annotation is no JSON object", 4),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"is not JSON: .* in line 1"),
        ("[]", "no list 'images'"),
        ('{"images": {}}', "no list 'images'"),
        ('{"images": [], "annotations": 3}', "'annotations' is not a list"),
        ("[" * 100_000, "nested too deeply|is not JSON"),
    ],
)
def test_what_is_no_coco_file_says_why(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        read(tmp_path / "i.json", content)
    assert "\n" not in str(caught.value)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "i.json").write_bytes(b'{"images": "\xff"}')
    with pytest.raises(SourceError, match="not UTF-8"):
        list(CocoSource().read(f"{tmp_path}/i.json", ADDED, ReadOptions()))
    (tmp_path / "i.json").write_bytes(b'\xef\xbb\xbf{"images": []}')
    assert list(CocoSource().read(f"{tmp_path}/i.json", ADDED, ReadOptions())) == []
