"""Joining keys to pictures, against a small world of paths, and against a naive reference for random ones."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glasshouse.warehouse.intake.joining import Joiner, Unjoined

ROOT = Path("/w/art.glasshouse")
SHA = "ab" * 32

PATHS = [
    ("/data/photos/a.jpg", 0),
    ("/data/photos/sub/b.jpg", 1),
    ("/data/photos/one/same.jpg", 2),
    ("/data/photos/two/same.jpg", 3),
    ("/data/photos/Upper Case.JPG", 4),
    ("/data/photos/000000000790.jpg", 5),
    ("inside/c.png", 6),
    ("https://example.org/pics/d%20e.jpg?size=2", 7),
    ("/data/shard.tar/00017.png", 8),
    ("/data/photos/trailing.jpg ", 9),
    ("/data/photos/cafe\u0301.jpg", 10),
    ("/data/photos/v1.2.jpg", 11),
    ("/data/copies/x/twin.jpg", 12),
    ("/data/copies/y/twin.jpg", 12),
]
FAILURES = [("/data/photos/broken.jpg", "truncated"), ("/data/photos/bad/a.jpg", "empty file")]


@pytest.fixture
def joiner() -> Joiner:
    return Joiner(ROOT, PATHS, {SHA: 1}, ["/data/photos", "/data/shard.tar"], FAILURES)


@pytest.mark.parametrize(
    ("key", "image_id"),
    [
        ("/data/photos/a.jpg", 0),
        ("a.jpg", 0),
        ("sub/b.jpg", 1),
        ("./sub/b.jpg", 1),
        ("sub\\b.jpg", 1),
        ("C:\\pictures\\sub\\b.jpg", 1),
        ("/somewhere/else/b.jpg", 1),
        ("  b.jpg\t", 1),
        ("'b.jpg'", 1),
        ("B.JPG", 1),
        ("b", 1),
        ("sub/b", 1),
        ("b.png", 1),
        (SHA, 1),
        (SHA.upper(), 1),
        ("one/same.jpg", 2),
        ("two/same", 3),
        ("upper case.jpg", 4),
        ("Upper Case", 4),
        ("790", 5),
        ("790.0", 5),
        ("000790", 5),
        ("790.jpg", 5),
        ("inside/c.png", 6),
        ("/w/art.glasshouse/inside/c.png", 6),
        ("https://example.org/pics/d%20e.jpg?size=2", 7),
        ("d e.jpg", 7),
        ("https://mirror.example.org/pics/d%20e.jpg", 7),
        ("00017", 8),
        ("17", 8),
        ("00017.png", 8),
        ("trailing.jpg", 9),
        ("trailing.jpg ", 9),
        ("caf\u00e9.jpg", 10),
        ("v1.2", 11),
        ("v1.2.jpg", 11),
        ("twin.jpg", 12),
    ],
)
def test_keys_that_find_their_picture(joiner: Joiner, key: str, image_id: int) -> None:
    assert joiner.resolve(key) == image_id


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (
            "same.jpg",
            "2 pictures fit 'same.jpg' (one/same.jpg, two/same.jpg); write a longer path, e.g. 'one/same.jpg'",
        ),
        ("same", "2 pictures fit 'same'"),
        ("nothing.jpg", "no image has this path, file name, stem or hash"),
        ("ab" * 31 + "cd", "no image has this"),
        ("", "the row names no image"),
        ("  ", "the row names no image"),
        ("broken.jpg", "its picture could not be used: truncated"),
        ("bad/a.jpg", "its picture could not be used: empty file"),
        ("one/a.jpg", "the folder 'one' was added, but holds no usable 'a.jpg'"),
        ("791", "no image has this"),
        ("v1", "no image has this"),
    ],
)
def test_keys_that_do_not(joiner: Joiner, key: str, reason: str) -> None:
    answer = joiner.resolve(key)
    assert isinstance(answer, Unjoined) and reason in answer.reason


def test_a_relative_path_starts_at_the_tables_folder_first() -> None:
    joiner = Joiner(ROOT, [("/a/x.jpg", 0), ("/b/x.jpg", 1), ("/a/b/x.jpg", 2)], {}, ["/a"])
    assert joiner.resolve("x.jpg", "/b") == 1
    assert joiner.resolve("x.jpg", "/a") == 0
    assert joiner.resolve("../b/x.jpg", "/a") == 1
    assert joiner.resolve("b/x.jpg", "/elsewhere") == 2


def test_a_path_that_fits_two_folders_that_were_added_is_no_quiet_choice() -> None:
    joiner = Joiner(ROOT, [("/d/a/x.jpg", 0), ("/d/b/x.jpg", 1), ("/d/b/y.jpg", 2)], {}, ["/d/a", "/d/b"])
    answer = joiner.resolve("x.jpg", "/tables")
    assert isinstance(answer, Unjoined)
    assert answer.reason == "2 pictures fit 'x.jpg' (a/x.jpg, b/x.jpg); write a longer path, e.g. 'a/x.jpg'"
    assert joiner.resolve("y.jpg", "/tables") == 2
    assert joiner.resolve("x.jpg", "/d/b") == 1


def test_case_joins_only_where_it_is_unique() -> None:
    joiner = Joiner(ROOT, [("/a/X.jpg", 0), ("/a/x.JPG", 1)], {})
    assert joiner.resolve("X.jpg") == 0
    answer = joiner.resolve("x.jpg")
    assert isinstance(answer, Unjoined) and "2 pictures fit" in answer.reason


def test_numbers_join_only_where_they_are_unique() -> None:
    joiner = Joiner(ROOT, [("/a/007.jpg", 0), ("/a/0007.png", 1), ("/a/8.jpg", 2)], {})
    assert isinstance(joiner.resolve("7"), Unjoined)
    assert joiner.resolve("007") == 0
    assert joiner.resolve("08") == 2


FOLDER = st.sampled_from(["a", "b", "c"])
NAME = st.sampled_from(["x.jpg", "y.jpg", "z.png"])
PATH = st.builds(lambda folders, name: "/".join([*folders, name]), st.lists(FOLDER, max_size=3), NAME)


@settings(max_examples=300, deadline=None)
@given(st.lists(PATH, unique=True, min_size=1, max_size=12), st.data())
def test_every_unique_end_of_a_path_finds_it(relative: list[str], data: st.DataObject) -> None:
    paths = [f"/data/{path}" for path in relative]
    joiner = Joiner(ROOT, [(path, image_id) for image_id, path in enumerate(paths)], {})
    chosen = data.draw(st.sampled_from(paths))
    parts = PurePosixPath(chosen).parts[1:]
    end = "/".join(parts[-data.draw(st.integers(1, len(parts))) :])
    fitting = [image_id for image_id, path in enumerate(paths) if path == "/" + end or path.endswith("/" + end)]
    answer = joiner.resolve(end)
    if len(fitting) == 1:
        assert answer == fitting[0]
        assert joiner.resolve(f" {end}".replace("/", "\\")) == fitting[0]
    else:
        assert isinstance(answer, Unjoined) and answer.reason.startswith(f"{len(fitting)} pictures fit")


@settings(max_examples=300, deadline=None)
@given(st.lists(PATH, unique=True, min_size=1, max_size=8), PATH)
def test_a_longer_path_is_never_joined_to_a_picture_of_another_folder(relative: list[str], key: str) -> None:
    paths = [f"/data/{path}" for path in relative]
    answer = Joiner(ROOT, [(path, image_id) for image_id, path in enumerate(paths)], {}).resolve(key)
    if isinstance(answer, int) and not paths[answer].endswith("/" + key):
        wanted, found = PurePosixPath(key), PurePosixPath(paths[answer])
        assert wanted.stem == found.stem
        known_folders = {PurePosixPath(path).parent.name for path in paths}
        assert (
            wanted.parent.name not in known_folders or found.parent.name == wanted.parent.name or not wanted.parent.name
        )
