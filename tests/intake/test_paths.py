from __future__ import annotations

from pathlib import Path

import pytest

from glasshouse.warehouse.intake.paths import (
    absolute,
    choose_root,
    encodable,
    extension,
    is_url,
    likely_roots,
    restored,
    stored,
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a.JPG", ".jpg"), ("a.tar.gz", ".gz"), ("https://x.org/a.Png?size=3.5", ".png"), ("a", ""), ("b.jpg ", ".jpg")],
)
def test_extension(path: str, expected: str) -> None:
    assert extension(path) == expected


@pytest.mark.parametrize("path", ["http://x/a", "s3://b/k", "FILE:///a", "gs+x://b"])
def test_urls(path: str) -> None:
    assert is_url(path)


@pytest.mark.parametrize("path", ["/a/b", "a:b", "C://x", "C:\\x", "://x", "a b://c"])
def test_what_is_no_url(path: str) -> None:
    assert not is_url(path)


def test_paths_inside_the_warehouse_are_stored_relative(tmp_path: Path) -> None:
    root = tmp_path / "w"
    for path in (f"{root}/p/a.png", "/elsewhere/a.png", f"{root}x/a.png", "https://x.org/a.png"):
        assert restored(stored(path, root), root) == path
    assert stored(f"{root}/p/a.png", root) == "p/a.png"


def test_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("x/../y.png") == f"{tmp_path.as_posix()}/y.png"
    assert absolute("file:///a/b%20c.png") == "/a/b c.png"
    assert absolute("http://x/../y") == "http://x/../y"


def test_bytes_that_are_no_utf8_are_written_out() -> None:
    assert encodable(b"a\xffb".decode("utf-8", "surrogateescape")) == "a\\xffb"
    assert encodable("é\ud800") == "é\\ud800"


def test_the_root_that_holds_most_is_chosen(tmp_path: Path) -> None:
    for name in ("annotations", "images", "val2017"):
        (tmp_path / name).mkdir()
    for number in range(6):
        (tmp_path / ("images" if number < 2 else "val2017") / f"{number}.jpg").write_bytes(b"")
    names = [f"{number}.jpg" for number in range(6)]
    roots = likely_roots(str(tmp_path / "annotations"), "instances_val2017")
    assert choose_root(names, roots) == (tmp_path / "val2017").as_posix()
    assert choose_root(["absent.jpg"], roots) == (tmp_path / "annotations").as_posix()
    assert choose_root([], roots) == (tmp_path / "annotations").as_posix()
