"""The words that ship with glasshouse, and reading a file of the user's."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from glasshouse.plugins.starter.world.vocabulary import CORE_VALUES, GENERAL_WORDS
from glasshouse.plugins.vocabulary import read_vocabulary
from glasshouse.schema.errors import UsageError


def test_the_words_that_ship_are_many_and_none_comes_twice() -> None:
    lines = resources.files("glasshouse.plugins.vocabulary").joinpath("words.txt").read_text("utf-8").splitlines()
    written = [line for line in lines if line and not line.startswith("#")]
    assert 2500 <= len(written) <= 3500
    assert read_vocabulary(None) == written, "a word comes twice, or has spaces around it"
    assert [word for word in written if word != word.lower() or len(word.split()) > 4] == []
    assert sum(line.startswith("# ") for line in lines) > 20


def test_the_words_of_the_starter_world_are_among_them() -> None:
    assert {*CORE_VALUES, *GENERAL_WORDS} - set(read_vocabulary(None)) == set()


def test_comments_blanks_and_doubles_are_left_out_and_the_order_stays(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes("\ufeff# colours\nred\n\n  light   blue \r\nred\n#green\nÄpfel\n".encode())
    assert read_vocabulary(str(file)) == ["red", "light blue", "Äpfel"]


def test_what_cannot_be_seen_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("re\x1b[31md\n\u202ered\u200b\n\x1b\nno\tbreak\u00a0here\n", encoding="utf-8")
    assert read_vocabulary(str(file)) == ["re[31md", "red", "no break here"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no file"),
        (b"", "has no words"),
        (b"# only a heading\n\n", "has no words"),
        (b"\xff\xfe\x00broken", "no UTF-8 text"),
        (b"a\0b\n", "is no text"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_an_error_that_names_it(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "mine.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=message) as raised:
        read_vocabulary(str(file))
    assert str(file) in str(raised.value)


def test_a_folder_is_no_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Could not read"):
        read_vocabulary(str(tmp_path))
